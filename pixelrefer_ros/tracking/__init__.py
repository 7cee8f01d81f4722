# SPDX-License-Identifier: Apache-2.0
"""SAM 2 as a stream: prompts at any time, bounded memory, objects batched."""

from pixelrefer_ros.tracking.states import StateRules
from pixelrefer_ros.tracking.static import StaticTracker
from pixelrefer_ros.tracking.stream import StreamTracker
from pixelrefer_ros.tracking.tiny import write_tiny_sam2
from pixelrefer_ros.tracking.tracker import Tracker

__all__ = ["StateRules", "StaticTracker", "StreamTracker", "Tracker", "write_tiny_sam2"]
