# SPDX-License-Identifier: Apache-2.0
"""What waits for the tracker."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.perception.memory import RememberedFrame
from pixelrefer_ros.types import Region

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """A region to start or correct an object with, and the frame it was drawn on."""

    region: Region
    seen: RememberedFrame


def log_refusal(object_id: int, error: PixelReferError) -> None:
    """Tell the log that the tracker refused a region."""
    _log.warning("a region of object %d was refused: %s", object_id, error)
