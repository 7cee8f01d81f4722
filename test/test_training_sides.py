# SPDX-License-Identifier: Apache-2.0
"""The stage of who is beside whom: frames drawn once and shown again mirrored, with what is true of them."""

from __future__ import annotations

import copy
import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_language import MICRO
from safetensors.torch import load_file, save_file

from pixelrefer_ros.model import PATCH
from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network
from pixelrefer_ros.training.frame_losses import NOT_ASKED, FrameHeads, frame_losses
from pixelrefer_ros.training.frames import SIDE
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.object_facts import EMPTY, OWN, SIDES, UNCLEAR
from pixelrefer_ros.training.sides import CROPS_KEPT, FRAMES_KEPT, SideSteps, teach_sides
from pixelrefer_ros.training.whole_frames import SCENE, WholeFrames, batch_of, draw_frame
from pixelrefer_ros.training.world import SHAPES, TURNS, Combination, Renderer, Sight, cast_scene, scene_seeds

pytestmark = pytest.mark.usefixtures("one_thread")
WAYS = [{"across": True}, {"down": True}, {"across": True, "down": True}]
LIGHT = LanguageSettings(frame_scenes=2, workers=0, validate_every=0)


@pytest.fixture(scope="module")
def untaught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sides")
    new_checkpoint(folder, MICRO, seed=0)
    return new_network(folder, seed=0)


@pytest.fixture
def network(untaught):
    return copy.deepcopy(untaught)


@pytest.fixture(scope="module")
def some():
    return [WholeFrames(seed=0)[number] for number in range(3)]


def same(one, other):
    return (
        np.array_equal(one.image, other.image)
        and np.array_equal(one.outline, other.outline)
        and np.array_equal(one.own, other.own)
        and torch.equal(one.facts.named, other.facts.named)
        and torch.allclose(one.facts.measured[:, :4], other.facts.measured[:, :4], atol=1e-5)
        and torch.allclose(turn(one.facts.measured), turn(other.facts.measured), atol=1e-4)
    )


def in_a_mirror(scene, *, across=False, down=False):
    """The same things seen in a mirror: silhouettes can be laid over their mirror images by turning."""

    def moved(spec):
        x = scene.width - 1 - spec.x if across else spec.x
        y = scene.height - 1 - spec.y if down else spec.y
        return replace(spec, x=x, y=y)

    def turned(spec):
        # What points along (cos, sin) of its angle; most silhouettes point up at angle 0.
        up = 0.0 if spec.combination.shape in ("crescent", "arrow") else -math.pi / 2
        x, y = math.cos(spec.angle + up), math.sin(spec.angle + up)
        angle = math.atan2(-y if down else y, -x if across else x) - up
        return replace(moved(spec), angle=angle)

    return replace(
        scene,
        objects=tuple(turned(spec) for spec in scene.objects),
        boards=tuple(moved(spec) for spec in scene.boards),
    )


def turn(measured):
    """Sine and cosine of the angle: it may differ by full turns."""
    return torch.stack([measured[:, 4].sin(), measured[:, 4].cos()])


@pytest.mark.parametrize("how", WAYS)
def test_a_frame_mirrored_twice_is_the_frame(some, how):
    for frame in some:
        assert not same(frame.mirrored(**how), frame)
        assert same(frame.mirrored(**how).mirrored(**how), frame)
        assert same(frame.mirrored(), frame)


@pytest.mark.parametrize("how", WAYS)
def test_what_is_true_of_a_mirrored_frame_is_what_is_measured_of_the_mirrored_things(how):
    objects = told = 0
    shapes = set()
    for seed in scene_seeds("val", 0, 14):
        scene = cast_scene(seed, SCENE)
        frame = draw_frame(Sight(Renderer(scene)))
        anew = draw_frame(Sight(Renderer(in_a_mirror(scene, **how))))
        if frame is None or len(frame.own) != len(anew.own):
            continue  # a pixel decides that one of them can just be told
        mirrored = frame.mirrored(**how)
        assert torch.equal(mirrored.facts.named[:, :OWN], anew.facts.named[:, :OWN])
        clear = (mirrored.facts.named != UNCLEAR) & (
            anew.facts.named != UNCLEAR
        )  # a pixel may decide here, too
        assert float((mirrored.facts.named == anew.facts.named).float().mean()) > 0.97
        assert torch.equal(mirrored.facts.named[clear], anew.facts.named[clear])
        torch.testing.assert_close(
            mirrored.facts.measured[:, :4], anew.facts.measured[:, :4], rtol=0, atol=0.02
        )
        torch.testing.assert_close(
            turn(mirrored.facts.measured), turn(anew.facts.measured), rtol=0, atol=1e-3
        )
        # Rasterised anew, silhouettes differ by pixels at their edges.
        assert (mirrored.own != anew.own).sum() <= 0.03 * mirrored.own.sum() + 2
        assert (mirrored.outline != anew.outline).sum() <= 0.06 * mirrored.outline.sum()
        objects += len(frame.own)
        told += int(((mirrored.facts.named != EMPTY) & clear)[:, OWN:].sum())
        shapes |= set(frame.facts.named[:, 0].tolist())
    assert objects > 30 < told
    assert len(shapes) == len(SHAPES)


def test_the_mirrored_picture_is_the_picture_of_the_mirrored_patches(some):
    for frame in some:
        mirrored = frame.mirrored(across=True)
        for row, column in ((0, 0), (5, 20), (23, 11)):
            patch = frame.image[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            to = SIDE - 1 - column
            found = mirrored.image[row * PATCH : (row + 1) * PATCH, to * PATCH : (to + 1) * PATCH]
            assert np.array_equal(found, patch[:, ::-1])
            assert np.array_equal(mirrored.outline[row, to], frame.outline[row, column][:, ::-1])


def test_who_is_left_is_right_in_the_mirror_and_all_others_stay(some):
    for frame in some:
        before, after = (of.facts.named for of in (frame, frame.mirrored(across=True)))
        for side in SIDES:
            swapped = {"left": "right", "right": "left"}.get(side, side)
            columns, from_columns = (
                slice(OWN + 2 * SIDES.index(of), OWN + 2 * SIDES.index(of) + 2) for of in (side, swapped)
            )
            assert torch.equal(after[:, columns], before[:, from_columns])


def alone(shape, angle, **place):
    """A frame with one object."""
    scene = cast_scene(scene_seeds("val", 0, 1)[0], replace(SCENE, size=(320, 240), occlusion="none"))
    it = replace(
        scene.objects[0], combination=Combination(shape, "red", "plain"), angle=angle, radius=60, **place
    )
    return draw_frame(Sight(Renderer(replace(scene, objects=(it,), boards=()))))


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_silhouette_drawn_at_the_mirrored_angle_is_the_mirrored_silhouette(shape, how):
    mirrored = alone(shape, 0.4, x=130, y=100).mirrored(**how)
    x, y = 189 if "across" in how else 130, 139 if "down" in how else 100
    found = float(mirrored.facts.measured[0, 4])
    right, turned = (alone(shape, (found + more) / (TURNS[shape] or 1), x=x, y=y) for more in (0.0, math.pi))
    wrong = [int((mirrored.outline != other.outline).sum()) for other in (right, turned)]
    assert wrong[0] < 0.02 * mirrored.outline.sum()
    assert wrong[1] > 3 * wrong[0] or not TURNS[shape]


@pytest.mark.parametrize(
    ("shape", "how", "found"),
    [
        ("arrow", {"across": True}, math.pi),
        ("arrow", {"down": True}, 0.0),
        ("heart", {"across": True}, 0.0),
        ("heart", {"down": True}, math.pi),
    ],
)
def test_an_arrow_to_the_right_points_left_in_the_mirror_and_a_heart_stays_upright(shape, how, found):
    mirrored = alone(shape, 0.0).mirrored(**how)
    assert math.cos(float(mirrored.facts.measured[0, 4]) - found) == pytest.approx(1)


def test_patches_name_what_they_show_and_few_others_say_that_they_show_nothing(some):
    batch = batch_of(some, None, np.random.default_rng(0))
    patches = batch.patches.view(len(some), SIDE * SIDE, OWN)
    nothing = torch.ones(len(some), SIDE * SIDE, dtype=torch.bool)
    for picture, own, named in zip(batch.picture_of, batch.own, batch.facts.named, strict=True):
        assert bool((patches[picture][own] == named[:OWN] + 1).all())
        nothing[picture] &= ~own
    others = patches[nothing]
    assert set(others.unique().tolist()) == {0, NOT_ASKED}
    assert bool((others == others[:, :1]).all())
    assert 0.03 < float((others == 0).float().mean()) < 0.07


def test_single_patches_are_taught_only_where_they_are_asked(network, some):
    torch.manual_seed(0)
    heads = FrameHeads(network.config.vision.hidden_size)
    batch = batch_of(some[:1], None, np.random.default_rng(0))
    for patches in (None, batch.patches):
        heads.zero_grad()
        found = frame_losses(network.vision, heads, replace(batch, patches=patches))
        found["loss"].backward()
        assert all((head.weight.grad is not None) == (patches is not None) for head in heads.patch)
        assert "crops" not in found


def steps_of(network, **how):
    return SideSteps(network.config, seed=0, scenes=5, **how)


def test_a_step_shows_new_frames_and_others_of_the_newest(network):
    steps = steps_of(network, frames_kept=40)
    seen = set(steps.shown(0).frames)
    assert seen == set(range(5))
    again = set()
    for step in range(1, 60):
        numbers = set(steps.shown(step).frames)
        assert len(numbers) == 5
        new = numbers - seen
        assert new == {len(seen), len(seen) + 1}
        again |= numbers - new
        assert min(numbers) >= len(seen) - 40, "an older one is still kept in memory"
        seen |= new
    assert len(again) > 0.6 * len(seen)
    late = steps_of(network).shown(10**6)
    assert max(late.frames) - min(late.frames) <= FRAMES_KEPT + 2
    assert late.crops < CROPS_KEPT


def test_every_second_step_shows_crops_and_half_of_those_old_ones(network):
    crops = [steps_of(network, crops_kept=9).shown(step).crops for step in range(60)]
    assert all((of is None) == bool(step % 2) for step, of in enumerate(crops))
    assert crops[:36:4] == list(range(9))
    assert all(of <= turn for turn, of in enumerate(crops[2::4]))
    assert set(crops[36::2]) <= set(range(9))


@pytest.mark.parametrize("begin", [1, 4])
def test_a_run_that_goes_on_is_shown_the_same(network, begin):
    steps = SideSteps(network.config, seed=0, scenes=2, frames_kept=4)
    whole = list(steps(range(6)))
    for one, other in zip(whole[begin:], steps(range(begin, 6)), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))
        assert torch.equal(one.facts.named, other.facts.named)
        assert torch.equal(one.facts.measured, other.facts.measured)
        assert torch.equal(one.patches, other.patches)
        assert torch.equal(one.outlines, other.outlines)
        assert (one.crops is None) == (other.crops is None)
        if one.crops is not None:
            assert torch.equal(one.crops.labels, other.crops.labels)
    looks = {image.tobytes() for batch in whole for image in batch.images}
    assert len(looks) > 7, "of seven frames: one that is shown again is mirrored anew"


def test_a_stopped_stage_goes_on_to_the_same_weights(network, tmp_path):
    settings = replace(LIGHT, side_steps=4)
    at_once = copy.deepcopy(network)
    assert teach_sides(at_once, tmp_path / "at_once", settings)
    sittings = 1
    while not teach_sides(network, tmp_path / "in_parts", replace(settings, minutes=1e-9)):
        sittings += 1
    assert sittings == 4
    for name, value in network.vision.state_dict().items():
        torch.testing.assert_close(value, at_once.vision.state_dict()[name])


def test_the_stage_goes_on_with_the_readings_of_the_one_before(network, tmp_path):
    heads = FrameHeads(network.config.vision.hidden_size)
    with torch.no_grad():
        heads.outline.bias.fill_(7.0)
    save_file(heads.state_dict(), tmp_path / "frames_heads.safetensors")
    assert teach_sides(network, tmp_path, replace(LIGHT, side_steps=1))
    learned = load_file(tmp_path / "sides_heads.safetensors")
    assert learned["outline.bias"].tolist() == pytest.approx([7.0] * len(heads.outline.bias), abs=0.1)


def test_the_stage_lowers_its_loss_and_logs_crops_of_the_steps_that_show_them(network, tmp_path):
    settings = replace(LIGHT, side_steps=60, log_every=15, validate_every=60, attribute_rate=3e-3)
    assert teach_sides(network, tmp_path, settings)
    for name, lines in (("log.csv", 4), ("validation.csv", 1)):
        with (tmp_path / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == lines
        assert {"shape", "color", "surface", "around", "off", "size", "turn", "crops"} < set(rows[0])
        losses = [float(row["loss"]) for row in rows]
        assert losses[-1] < 0.8 * losses[0] or lines == 1
