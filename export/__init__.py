# SPDX-License-Identifier: Apache-2.0
"""From torch to ONNX, one graph per component. Installed as `pixelrefer_ros.export`."""

from __future__ import annotations

from pixelrefer_ros.export.choices import check_choices, export_dtype
from pixelrefer_ros.export.graph import GraphPlan, export_graph
from pixelrefer_ros.export.language import CONTEXT_LENGTH, export_language
from pixelrefer_ros.export.tracker_export import export_tracker

__all__ = [
    "CONTEXT_LENGTH",
    "GraphPlan",
    "check_choices",
    "export_dtype",
    "export_graph",
    "export_language",
    "export_tracker",
]
