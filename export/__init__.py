# SPDX-License-Identifier: Apache-2.0
"""From torch to ONNX, one graph per component. Empty so far: models run in torch; nothing is exported yet.

Installed as `pixelrefer_ros.export`.
"""
