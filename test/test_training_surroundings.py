# SPDX-License-Identifier: Apache-2.0
"""Who is around an object, in scenes made for it: no question where two readings are possible."""

from __future__ import annotations

import numpy as np
import pytest

from pixelrefer_ros.training.world import (
    COLORS,
    NOTHING,
    BoardSpec,
    Combination,
    Look,
    ObjectSpec,
    Renderer,
    Scene,
    Sight,
    neighbors,
    parse,
    score,
)
from pixelrefer_ros.training.world.questions.about_surroundings import is_beside, object_beside
from pixelrefer_ros.training.world.questions.draft import Asking


def circle(color: str, x: float, y: float, radius: float) -> ObjectSpec:
    what = Combination("circle", color, "plain")
    return ObjectSpec(what, COLORS[color], (0, 0, 0), 0.0, x, y, radius, 0.0, "still")


def sight_of(*objects: ObjectSpec, boards: tuple[BoardSpec, ...] = ()) -> Sight:
    look = Look("plain", 3, 1.0, (0.0, 0.0), 0.0, 0.0)
    return Sight(Renderer(Scene(0, 320, 240, 1, 10.0, objects, boards, look)))


def board(x: float, y: float, width: float = 40, height: float = 40) -> BoardSpec:
    return BoardSpec(x, y, width, height, 128, 0)


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


@pytest.mark.parametrize(
    ("where", "empty"),
    [
        (board(500, 120), {"left", "right", "above", "below", "next"}),  # outside of the picture
        (board(280, 120), {"left"}),
        (board(280, 20), {"left", "below"}),  # above, and to the right
        (board(160, 205, width=200), {"above"}),  # a wide one, of which some is to the left and right
        (board(30, 120, height=240), {"right"}),
        (board(260, 230, width=180, height=20), {"left", "above"}),  # a corner of it is straight below
        (board(150, 120), {"right"}),  # before it
    ],
)
def test_nothing_is_said_of_a_side_only_where_no_board_is(where, empty):
    around = neighbors(sight_of(circle("red", 160, 120, 15), boards=(where,)), 0, 0)
    sides = {side: who for side, who in around.items() if side not in ("front", "behind")}
    assert {side for side, who in sides.items() if who == NOTHING} == empty
    assert set(sides.values()) <= {NOTHING, None}


def test_who_is_on_a_side_beside_others_is_as_right_as_the_nearest_one():
    sight = sight_of(
        circle("white", 160, 200, 15),
        circle("red", 165, 150, 15),
        circle("blue", 140, 60, 15),
        circle("green", 40, 60, 15),  # a diagonal
    )
    asked = (object_beside(Asking(np.random.default_rng(seed), sight, 0, (0,))) for seed in range(40))
    draft = next(draft for draft in asked if draft is not None and "above" in draft.question)
    assert "red circle" in draft.answer

    def right(answer: str) -> bool:
        return score(parse(answer), draft.facts, draft.known, draft.alternatives).correct

    assert right(draft.answer) and right("A blue circle.")
    assert not any(right(f"A {other}.") for other in ("green circle", "white circle", "blue square"))
    assert not right("Nothing.")


def test_a_no_may_name_anybody_who_is_on_that_side_and_nobody_else():
    sight = sight_of(
        circle("white", 160, 200, 15),
        circle("red", 165, 150, 15),
        circle("blue", 140, 60, 15),
        circle("green", 40, 60, 15),  # a diagonal
    )
    asked = [is_beside(Asking(np.random.default_rng(seed), sight, 0, (0,))) for seed in range(60)]
    above = [draft for draft in asked if draft is not None and " above " in draft.question]
    denied = next(draft for draft in above if draft.answer.endswith(": no."))
    agreed = next(draft for draft in above if draft.answer.endswith(": yes."))

    def right(draft, answer: str) -> bool:
        return score(parse(answer), draft.facts, draft.known, draft.alternatives).correct

    assert right(denied, denied.answer) and right(denied, "No.")
    assert right(denied, "There is a blue circle: no.")
    for other in ("green circle", "white circle", "blue square"):
        assert not right(denied, f"There is a {other}: no."), other
    assert not right(denied, "There is a blue circle: yes.")
    assert right(agreed, agreed.answer)
    assert not right(agreed, "There is a blue circle: yes."), "it is asked for another one"


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
