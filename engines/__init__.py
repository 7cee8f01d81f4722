# SPDX-License-Identifier: Apache-2.0
"""From ONNX to TensorRT engines: profiles of machines, building, and the folder they are kept in.

Installed as `pixelrefer_ros.engines`. TensorRT itself is an argument: the module ``tensorrt`` on a robot; the
tests give ``tensorrt_rtx``, which builds without a GPU.
"""

from __future__ import annotations

from pixelrefer_ros.engines.build import BuildOptions, BuiltEngine, build_engine
from pixelrefer_ros.engines.folder import Asked, build_engines
from pixelrefer_ros.engines.operators import unsupported
from pixelrefer_ros.engines.profiles import MachineProfile, choose_profile, read_profile, shipped_profiles
from pixelrefer_ros.engines.store import EngineStore
from pixelrefer_ros.engines.versions import check_opset, newest_opset

__all__ = [
    "Asked",
    "BuildOptions",
    "BuiltEngine",
    "EngineStore",
    "MachineProfile",
    "build_engine",
    "build_engines",
    "check_opset",
    "choose_profile",
    "newest_opset",
    "read_profile",
    "shipped_profiles",
    "unsupported",
]
