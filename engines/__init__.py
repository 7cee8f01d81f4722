# SPDX-License-Identifier: Apache-2.0
"""From ONNX to TensorRT engines. Empty so far: models run in torch; no engine is built yet.

Installed as `pixelrefer_ros.engines`.
"""
