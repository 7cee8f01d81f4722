# SPDX-License-Identifier: Apache-2.0
"""Training: the shapes world, the small models that learn it, and how their answers are scored.

`pixelrefer_ros.training.world` draws the data; the other modules are run by ``pixelrefer train`` and
``pixelrefer evaluate``.
"""
