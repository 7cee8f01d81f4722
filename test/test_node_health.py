# SPDX-License-Identifier: Apache-2.0
"""What the level of the diagnostics says of the node's work."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")
pytestmark = pytest.mark.ros

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402

from pixelrefer_ros.ros.health import Health  # noqa: E402


def judged(health, *, image=0.1, read=0.1, tracked=0, failed=0, at_one=0.0):
    stats = {"frames_tracked": tracked, "frames_failed": failed, "tracking_for_s": at_one}
    return health.judge(image_age_s=image, frame_age_s=read, stats=stats)


@pytest.mark.parametrize(
    ("seen", "level", "said"),
    [
        ({"tracked": 5}, DiagnosticStatus.OK, "working"),
        ({"image": None}, DiagnosticStatus.OK, "switched off"),
        ({"image": 3.0, "read": 3.0}, DiagnosticStatus.WARN, "no image arrives"),
        ({"read": float("inf")}, DiagnosticStatus.ERROR, "none can be read"),
        ({"failed": 1}, DiagnosticStatus.ERROR, "none can be tracked"),
        ({"at_one": 20.0}, DiagnosticStatus.OK, "working"),
        ({"at_one": 31.0}, DiagnosticStatus.ERROR, "at one image for 31 s: it hangs"),
    ],
)
def test_the_level_says_what_is_wrong(seen, level, said):
    found, text = judged(Health(), **seen)
    assert found == level and said in text


def test_a_frame_that_fails_is_an_error_until_one_is_tracked():
    health = Health()
    assert judged(health, tracked=9)[0] == DiagnosticStatus.OK
    assert judged(health, tracked=9, failed=1)[0] == DiagnosticStatus.ERROR
    assert judged(health, tracked=9, failed=1)[0] == DiagnosticStatus.ERROR, "nothing was tracked since"
    assert judged(health, tracked=10, failed=1)[0] == DiagnosticStatus.OK
    assert judged(health, tracked=0, failed=0)[0] == DiagnosticStatus.OK, "switched off and on"
