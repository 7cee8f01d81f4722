# SPDX-License-Identifier: Apache-2.0
"""The picture for people shows what the scene holds, and leaves the frame alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelrefer_ros.overlay import color_of, draw_overlay
from pixelrefer_ros.types import Box, Description, Frame, Scene, Track, TrackedObject, TrackState


def frame(width: int = 640, height: int = 480) -> Frame:
    """Even grey, read-only as frames are."""
    rgb = np.full((height, width, 3), 120, np.uint8)
    rgb.flags.writeable = False
    return Frame(rgb, stamp_ns=5, frame_id="camera")


def seen(
    object_id: int,
    box: Box | None,
    size: tuple[int, int] = (480, 640),
    *,
    state: TrackState = TrackState.TRACKED,
    label: str = "",
    text: str = "",
) -> TrackedObject:
    """An object whose mask fills its box."""
    mask = np.zeros(size, bool)
    if box is not None:
        mask[box.y : box.y + box.height, box.x : box.x + box.width] = True
    track = Track(object_id, state, 0.9, mask, box, int(mask.sum()))
    description = Description(text, 5, 0.5) if text else None
    return TrackedObject(track, label, 1, 5, description)


def changed(scene: Scene, **options: bool) -> np.ndarray:
    """(H, W) bool: where the picture differs from the frame."""
    return (draw_overlay(scene, **options) != scene.frame.rgb).any(axis=2)


def test_a_scene_without_objects_is_the_frame_itself():
    picture = draw_overlay(Scene(frame(), ()))
    np.testing.assert_array_equal(picture, frame().rgb)
    assert picture.flags.writeable


def test_the_frame_is_never_written_to():
    shot = Frame(np.full((480, 640, 3), 120, np.uint8), 5)  # writable, so that writing would show
    draw_overlay(Scene(shot, (seen(1, Box(100, 100, 200, 150), text="a red cup"),)))
    assert (shot.rgb == 120).all()


def test_the_mask_is_tinted_in_the_objects_colour_and_nothing_far_from_it():
    box = Box(300, 200, 120, 100)
    picture = draw_overlay(Scene(frame(), (seen(3, box),)))
    expected = 120 + 0.45 * (np.array(color_of(3)) - 120)
    assert np.abs(picture[250, 360] - expected).max() <= 1  # cut to whole numbers
    assert not changed(Scene(frame(), (seen(3, box),)))[340:, :].any()


def test_colours_are_stable_and_distinct():
    colours = [color_of(i) for i in range(1, 17)]
    assert colours == [color_of(i) for i in range(1, 17)]
    distances = [np.abs(np.subtract(a, b)).sum() for a, b in itertools.combinations(colours, 2)]
    assert min(distances) > 40
    assert min(np.abs(np.subtract(a, b)).sum() for a, b in itertools.pairwise(colours)) > 200


def test_a_lost_object_is_named_though_it_has_no_place():
    hidden = Scene(frame(), (seen(2, None, state=TrackState.LOST, label="cup"),))
    assert changed(hidden)[:30, :200].any()
    occluded = Scene(frame(), (seen(2, None, state=TrackState.OCCLUDED, label="cup"),))
    assert (draw_overlay(hidden) != draw_overlay(occluded)).any()


def test_captions_can_be_left_out():
    scene = Scene(frame(), (seen(1, Box(100, 200, 50, 50), text="a long description of a small thing"),))
    assert changed(scene).sum() > changed(scene, captions=False).sum()


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080)])
def test_letters_keep_their_share_of_the_picture(width, height):
    scene = Scene(frame(width, height), (seen(1, Box(0, 100, 9, 9), (height, width), label="HHHH"),))
    picture = draw_overlay(scene)
    white = (picture > 235).all(axis=2)
    rows = np.flatnonzero(white.any(axis=1))
    # Capitals about 11 pixels high at 480 rows, and in proportion.
    assert 0.017 < (rows[-1] - rows[0] + 1) / height < 0.04


def test_plates_of_neighbours_do_not_cover_each_other():
    objects = tuple(
        seen(i, Box(200 + i, 200, 30, 30), label="cup", text="a cup on a table") for i in range(1, 6)
    )
    together = (draw_overlay(Scene(frame(), objects)) > 235).all(axis=2).sum()
    apart = sum((draw_overlay(Scene(frame(), (one,))) > 235).all(axis=2).sum() for one in objects)
    assert together > 0.95 * apart  # white letters; a covered one would be missing


def test_letters_outside_ascii_do_no_harm():
    picture = frame()
    odd = seen(1, Box(5, 5, 50, 50), label="caf\u00e9 \u676f\u5b50", text="\u676f\n\t\x00\U0001f600")
    drawn = draw_overlay(Scene(picture, (odd,)))
    assert drawn.shape == picture.rgb.shape
    assert not np.array_equal(drawn, picture.rgb)  # the object itself is there


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    data=st.data(),
    text=st.text(max_size=600),
    label=st.text(max_size=40),
    state=st.sampled_from(TrackState),
)
def test_any_scene_can_be_drawn(width, height, data, text, label, state):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
    objects = (
        seen(1, box, (height, width), label=label, text=text),
        seen(2, None, (height, width), state=state, label=label, text=text),
    )
    picture = draw_overlay(Scene(frame(width, height), objects))
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
