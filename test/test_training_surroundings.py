# SPDX-License-Identifier: Apache-2.0
"""Who is around an object, in scenes made for it: no question where two readings are possible."""

from __future__ import annotations

import numpy as np
import pytest

from pixelrefer_ros.training.world import (
    COLORS,
    Combination,
    Look,
    ObjectSpec,
    Renderer,
    Scene,
    Sight,
    neighbors,
)
from pixelrefer_ros.training.world.questions.about_surroundings import is_beside
from pixelrefer_ros.training.world.questions.draft import Asking


def circle(color: str, x: float, y: float, radius: float) -> ObjectSpec:
    what = Combination("circle", color, "plain")
    return ObjectSpec(what, COLORS[color], (0, 0, 0), 0.0, x, y, radius, 0.0, "still")


def sight_of(*objects: ObjectSpec) -> Sight:
    look = Look("plain", 3, 1.0, (0.0, 0.0), 0.0, 0.0)
    return Sight(Renderer(Scene(0, 320, 240, 1, 10.0, objects, (), look)))


def test_a_gap_is_measured_from_edge_to_edge():
    sight = sight_of(circle("red", 60, 100, 20), circle("blue", 160, 100, 40), circle("green", 160, 100, 10))
    # A pixel's middle lies up to half a pixel within the outline, at both ends.
    assert sight.gap(0, 1, 0) == pytest.approx(40, abs=1.5)
    assert sight.gap(1, 0, 0) == sight.gap(0, 1, 0)
    assert sight.gap(0, 2, 0) == pytest.approx(70, abs=1.5)
    assert sight.gap(1, 2, 0) == 1.0, "one before the other: they touch"


@pytest.mark.parametrize(("right_of_it", "nearest"), [(250, None), (270, "red circle")])
def test_who_is_nearest_by_the_middle_is_named_only_if_nobody_reaches_nearer(right_of_it, nearest):
    asked, small = circle("white", 150, 70, 20), circle("red", 80, 70, 15)  # 35 px from edge to edge
    sight = sight_of(asked, small, circle("blue", right_of_it, 70, 60))  # 20, or 40 px
    assert neighbors(sight, 0, 0)["next"] == nearest
    assert neighbors(sight, 0, 0)["left"] == "red circle"


def test_no_other_color_is_asked_for_where_the_scene_has_them_all():
    grid = [(x, y) for y in (40, 120, 200) for x in (50, 160, 270)]
    colors = tuple(COLORS)
    assert len(grid) == len(colors)
    for missing in (0, 1):
        shown = [
            circle(color, x, y, 25) for color, (x, y) in zip(colors[missing:], grid[missing:], strict=True)
        ]
        sight = sight_of(*shown)
        asked = [
            is_beside(Asking(np.random.default_rng(seed), sight, 4 - missing, (0,))) for seed in range(60)
        ]
        denied = [draft.question for draft in asked if draft is not None and draft.answer.endswith(": no.")]
        assert bool(denied) == bool(missing)
        assert all(f" {colors[0]} circle " in question for question in denied)
