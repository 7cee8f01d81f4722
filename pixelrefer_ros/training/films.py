# SPDX-License-Identifier: Apache-2.0
"""Which videos of the shapes world teach PixelRefer-Lite about motion and time.

Drawn as they come, few show something that turns, and few a time of hiding late in what is looked at. Both
are hard to learn: half of the videos are drawn for them.
"""

from __future__ import annotations

from pixelrefer_ros.training.world import SceneSettings

_SIZE = (320, 240)  # small ones are quick to draw, and to measure
_TURNING = ("still", "rotating")

FILMS = (
    SceneSettings(frames=32, size=_SIZE),
    SceneSettings(frames=64, size=_SIZE),
    SceneSettings(frames=64, size=_SIZE, occlusion="full"),
    SceneSettings(frames=32, size=_SIZE, motions=_TURNING),
)
"""In longer ones the same motions are half as fast, and hiding may lie late in what is looked at."""
