# SPDX-License-Identifier: Apache-2.0
"""What waits for the tracker."""

from __future__ import annotations

from dataclasses import dataclass

from pixelrefer_ros.perception.memory import RememberedFrame
from pixelrefer_ros.types import Region


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """A region to start or correct an object with, and the frame it was drawn on."""

    region: Region
    seen: RememberedFrame
