# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 side: the node, its parameters, messages to values and back, and a client for agents.

Names are loaded on first use, so importing this is cheap and the client needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixelrefer_ros.ros.client import PixelReferClient
    from pixelrefer_ros.ros.main import main
    from pixelrefer_ros.ros.node import PixelReferNode
    from pixelrefer_ros.ros.pending import PendingAnswer

__all__ = ["PendingAnswer", "PixelReferClient", "PixelReferNode", "main"]

_HOME = {"PendingAnswer": "pending", "PixelReferClient": "client", "PixelReferNode": "node", "main": "main"}


def __getattr__(name: str) -> Any:
    """Load what is asked for from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
