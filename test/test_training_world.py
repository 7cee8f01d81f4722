# SPDX-License-Identifier: Apache-2.0
"""The shapes world draws what it says, the same everywhere, and keeps its splits apart."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pixelrefer_ros.training.world import (
    COLORS,
    COMBINATIONS,
    EPOCH_NS,
    MOTIONS,
    SEED_RANGES,
    SEEN,
    SHAPES,
    SURFACES,
    UNSEEN,
    Combination,
    Look,
    ObjectSpec,
    Renderer,
    Scene,
    SceneSettings,
    Sight,
    cast_scene,
    scene_seeds,
    split_of,
)
from pixelrefer_ros.training.world.vocabulary import AWAY_AND_BACK, DIRECTIONS

seeds = st.integers(0, SEED_RANGES["val"].stop - 1)
few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
SMALL = SceneSettings(frames=16, size=(320, 240))


def still_object(shape: str, surface: str = "plain", color: str = "red", *, x=160.0, y=120.0, radius=40.0):
    ink = (250, 250, 250)
    return ObjectSpec(Combination(shape, color, surface), COLORS[color], ink, 0.3, x, y, radius, 0.4, "still")


def bare_scene(*objects: ObjectSpec) -> Scene:
    return Scene(0, 320, 240, 1, 10.0, objects, (), Look("plain", 3, 1.0, (0.0, 0.0), 0.0, 0.0))


@few
@given(seeds)
def test_no_pixel_is_seen_of_two_objects_and_boards_hide_what_is_behind_them(seed):
    layers = Renderer(cast_scene(seed, SMALL)).layers(8)
    assert layers.visible.sum(axis=0).max(initial=0) <= 1
    assert not (layers.visible & ~layers.amodal).any()
    assert not (layers.visible & layers.boards.any(axis=0)).any()


@few
@given(seeds)
def test_masks_are_where_the_picture_changes_when_an_object_is_taken_away(seed):
    scene = cast_scene(seed, SMALL)
    quiet = Look(scene.look.background, scene.look.seed, scene.look.gain, scene.look.slope, 0.0, 0.0)
    alone = Scene(seed, 320, 240, 16, 10.0, scene.objects[-1:], (), quiet)
    empty = Scene(seed, 320, 240, 16, 10.0, (), (), quiet)
    change = np.abs(Renderer(alone).rgb(3).astype(int) - Renderer(empty).rgb(3)).max(axis=2)
    mask = Renderer(alone).layers(3).visible[0]
    # Soft edges: pixels covered by less than half are changed but not in the mask, and a point of a star is
    # thinner than a pixel for its last two; hence a rim of three.
    assert not change[~grown(grown(grown(mask)))].any()
    core = mask & ~grown(~mask)
    # Where colour and background happen to agree nothing changes; no combination agrees over half its area.
    assert not core.any() or (change[core] > 8).mean() > 0.5


def grown(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    rows, columns = mask.shape
    return np.any([padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0)


@few
@given(seeds)
def test_the_visible_fraction_counts_what_lies_outside_the_frame(seed):
    radius = 20 + seed % 20
    inside = Renderer(bare_scene(still_object("circle", radius=radius))).layers(0)
    cut = Renderer(bare_scene(still_object("circle", x=0.0, radius=radius))).layers(0)
    assert inside.fraction(0) == pytest.approx(1.0)
    assert cut.fraction(0) == pytest.approx(0.5, abs=0.03)  # half a pixel of 40 is the edge's
    assert inside.full_area[0] == pytest.approx(np.pi * radius**2, rel=0.03)


@few
@given(seeds)
def test_centroids_move_the_way_the_scene_says(seed):
    for motion in MOTIONS:
        only = SceneSettings(frames=12, size=(320, 240), objects=(1, 2), occlusion="none", motions=(motion,))
        scene = cast_scene(seed, only)
        sight = Sight(Renderer(scene))
        if scene.objects[0].motion != motion:
            continue  # round shapes do not rotate, and a large one may have found no way
        first, last = np.array(sight.center(0, 0)), np.array(sight.center(0, 11))
        moved, grew = last - first, sight.pixels[11, 0] / sight.pixels[0, 0]
        if motion in DIRECTIONS:
            step = np.array(DIRECTIONS[motion])
            assert moved @ step > 0.12 * 240
            assert abs(moved @ step[::-1]) < 2
        else:
            assert np.abs(moved).max() < 2.5  # the centroid of pixels, of a shape turning about its own
        if motion == "growing":
            assert grew > 1.3**2
        elif motion == "shrinking":
            assert grew < 1 / 1.3**2
        else:
            assert grew == pytest.approx(1.0, abs=0.12)  # a turned star of 200 px loses or wins rim pixels
        changed = (sight.renderer.layers(0).visible[0] ^ sight.renderer.layers(6).visible[0]).any()
        assert changed == (motion != "still")


@few
@given(seeds)
def test_without_occlusion_everything_is_seen_all_the_time(seed):
    calm = SceneSettings(frames=12, size=(320, 240), occlusion="none")
    assert Sight(Renderer(cast_scene(seed, calm))).shares.min() > 0.99


@few
@given(seeds)
def test_full_occlusion_hides_the_first_object_once_and_gives_it_back(seed):
    hiding = SceneSettings(frames=32, size=(320, 240), occlusion="full", objects=(1, 3))
    sight = Sight(Renderer(cast_scene(seed, hiding)))
    gone = sight.gone(0)
    assert gone.any()
    assert np.count_nonzero(np.diff(gone.astype(int)) == 1) == 1
    assert sight.shares[0, 0] > 0.95
    assert sight.shares[-1, 0] > 0.95
    spec = sight.scene.objects[0]
    assert spec.motion == AWAY_AND_BACK or sight.scene.boards


@pytest.mark.parametrize("shape", SHAPES)
def test_silhouettes_differ_from_every_other_under_any_rotation(shape):
    def silhouette(name: str, angle: float) -> np.ndarray:
        spec = ObjectSpec(
            Combination(name, "red", "plain"), (200, 0, 0), (0, 0, 0), 0.0, 160, 120, 40, angle, "still"
        )
        return Renderer(bare_scene(spec)).layers(0).visible[0]

    own = silhouette(shape, 0.0)
    for other in SHAPES:
        if other != shape:
            overlaps = [
                (own & turned).sum() / (own | turned).sum()
                for turned in (silhouette(other, angle) for angle in np.linspace(0, 2 * np.pi, 13))
            ]
            assert max(overlaps) < 0.8, other


@pytest.mark.parametrize("surface", SURFACES)
def test_a_surface_shows_as_much_ink_at_24_pixels_as_at_100(surface):
    shares = []
    for diameter in (24, 100):
        renderer = Renderer(bare_scene(still_object("square", surface, "blue", radius=diameter / 2)))
        pixels = renderer.rgb(0)[renderer.layers(0).visible[0]].astype(int)
        shares.append(float((pixels[:, 0] > 140).mean()))  # red is 32 in the colour and 250 in the ink
    assert shares[0] == pytest.approx(shares[1], abs=0.13)  # the rim is relatively wider on the small one
    assert (shares[1] > 0.08) == (surface != "plain")


def test_the_same_seed_draws_the_same_pixels_in_another_process():
    program = (
        "import hashlib; from pixelrefer_ros.training.world import *;"
        "r = Renderer(cast_scene(77, SceneSettings(frames=8)));"
        "print(hashlib.sha256(r.rgb(5).tobytes() + r.layers(5).visible.tobytes()).hexdigest())"
    )
    renderer = Renderer(cast_scene(77, SceneSettings(frames=8)))
    here = hashlib.sha256(renderer.rgb(5).tobytes() + renderer.layers(5).visible.tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_frames_carry_the_scene_clock():
    renderer = Renderer(cast_scene(5, SMALL))
    assert renderer.frame(0).stamp_ns == EPOCH_NS
    assert renderer.frame(7).stamp_ns == EPOCH_NS + 700_000_000
    assert renderer.frame(7).rgb.shape == (240, 320, 3)


def test_splits_own_disjoint_seeds():
    ranges = list(SEED_RANGES.values())
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
    for split in SEED_RANGES:
        chosen = scene_seeds(split, 0, 50)
        assert {split_of(seed) for seed in chosen} == {split}
        assert chosen[:10] == scene_seeds(split, 0, 10)
        assert chosen != scene_seeds(split, 1, 50)


def test_held_out_combinations_are_a_fifth_and_leave_every_attribute_common():
    assert len(UNSEEN) == 70
    assert set(COMBINATIONS) == SEEN | UNSEEN
    assert not SEEN & UNSEEN
    for slot in range(3):
        everywhere = Counter(combination[slot] for combination in COMBINATIONS)
        seen = Counter(combination[slot] for combination in SEEN)
        assert all(seen[value] >= 0.7 * count for value, count in everywhere.items())


@few
@given(seeds)
def test_training_scenes_never_show_an_unseen_combination(seed):
    assert {spec.combination for spec in cast_scene(seed, SMALL).objects} <= SEEN
    unseen = SceneSettings(frames=16, size=(320, 240), combinations="unseen")
    assert {spec.combination for spec in cast_scene(seed, unseen).objects} <= UNSEEN


def test_scenes_are_varied():
    scenes = [cast_scene(seed) for seed in scene_seeds("train", 4, 80)]
    assert {len(scene.objects) for scene in scenes} == set(range(1, 9))
    assert {spec.motion for scene in scenes for spec in scene.objects} >= set(MOTIONS) | {AWAY_AND_BACK}
    assert {spec.combination.shape for scene in scenes for spec in scene.objects} == set(SHAPES)
    assert len({scene.look.background for scene in scenes}) == 7
    assert len({(scene.width, scene.height) for scene in scenes}) == 4


def test_speed_is_printed(capsys):
    renderer = Renderer(cast_scene(11, SceneSettings(frames=20, size=(320, 240), objects=(8, 8))))
    started = time.perf_counter()
    for index in range(20):
        renderer.rgb(index)
        renderer.layers(index)
    rate = 20 / (time.perf_counter() - started)
    with capsys.disabled():
        print(f"\nshapes world: {rate:.0f} frames/s at 320x240 with {len(renderer.scene.objects)} objects")
    assert len(renderer.scene.objects) > 4
