# SPDX-License-Identifier: Apache-2.0
"""SAM 2 as a stream: prompts at any time, bounded memory, objects batched."""

from pixelrefer_ros.tracking.checkpoint import load_sam2
from pixelrefer_ros.tracking.components import MemoryEncoder
from pixelrefer_ros.tracking.memory_attention import MemoryAttention
from pixelrefer_ros.tracking.pixels import MEAN, STD
from pixelrefer_ros.tracking.states import StateRules
from pixelrefer_ros.tracking.static import StaticTracker
from pixelrefer_ros.tracking.stream import StreamTracker
from pixelrefer_ros.tracking.tiny import tiny_config, write_sam2, write_tiny_sam2
from pixelrefer_ros.tracking.tracker import Tracker

__all__ = [
    "MEAN",
    "STD",
    "MemoryAttention",
    "MemoryEncoder",
    "StateRules",
    "StaticTracker",
    "StreamTracker",
    "Tracker",
    "load_sam2",
    "tiny_config",
    "write_sam2",
    "write_tiny_sam2",
]
