# SPDX-License-Identifier: Apache-2.0
"""The stage in which a new vision encoder learns to see many objects at once, and who is beside whom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro_language import MICRO

from pixelrefer_ros.model import PATCH
from pixelrefer_ros.training.attributes import SCENE
from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network
from pixelrefer_ros.training.frame_losses import FrameHeads, frame_losses
from pixelrefer_ros.training.frames import SIDE, FrameBatches, draw_frames
from pixelrefer_ros.training.object_facts import EMPTY, OWN
from pixelrefer_ros.training.signs import measured
from pixelrefer_ros.training.world import Renderer, Sight, cast_scene, scene_seeds

pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = scene_seeds("val", 0, 3)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    new_checkpoint(folder, MICRO, seed=0)
    return new_network(folder, seed=0)


def drawn(network, **how):
    return draw_frames(SEEDS, network.config, rng=np.random.default_rng(1), **how)


def test_a_batch_is_the_same_whoever_draws_it_and_windows_grow_to_whole_frames(network):
    batches = FrameBatches(network.config, seed=0, scenes=4, steps=100)
    one, other = batches[30], FrameBatches(network.config, seed=0, scenes=4, steps=100)[30]
    assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))
    assert torch.equal(one.facts.named, other.facts.named)
    first, last = batches[0], batches[99]
    assert not first.whole.any()
    assert last.whole.all()
    whole = (SIDE * PATCH, SIDE * PATCH, 3)
    assert all(image.shape == whole for image in last.images)
    assert all(image.size < np.prod(whole) for image in first.images)


def test_every_object_that_can_be_told_is_in_a_picture(network):
    told = 0
    for seed in SEEDS:
        sight = Sight(Renderer(cast_scene(seed, SCENE)))
        told += sum(sight.recognizable(number, 0) for number in range(len(sight.scene.objects)))
    assert len(drawn(network).own) == told
    assert len(drawn(network, whole=0.0, margin=3.0).own) >= told, "some are in several windows"


@pytest.mark.parametrize("whole", [0.0, 1.0])
def test_an_objects_patches_are_of_its_picture_and_show_things(network, whole):
    batch = drawn(network, whole=whole, margin=4.0)
    starts = np.cumsum([0, *(image.shape[0] * image.shape[1] // PATCH**2 for image in batch.images)])
    assert len(batch.outlines) == starts[-1]
    for picture, own in zip(batch.picture_of, batch.own, strict=True):
        assert len(own) == starts[picture + 1] - starts[picture]
        assert own.any()
        shown = batch.outlines[starts[picture] : starts[picture + 1]][own]
        assert float(shown.mean()) > 0.4, "patches count that are half covered, or as far as any is"


def test_the_middle_of_a_whole_objects_patches_is_where_facts_say(network):
    batch = drawn(network)
    checked = 0
    for own, (x, y, _, seen, _) in zip(batch.own, batch.facts.measured.tolist(), strict=True):
        if seen > 0.99:
            rows, columns = own.view(SIDE, SIDE).nonzero(as_tuple=True)
            assert float(columns.float().mean() + 0.5) / SIDE == pytest.approx(x, abs=1.5 / SIDE)
            assert float(rows.float().mean() + 0.5) / SIDE == pytest.approx(y, abs=1.5 / SIDE)
            checked += 1
    assert checked


def test_only_whole_frames_tell_who_is_around(network):
    torch.manual_seed(0)
    heads = FrameHeads(network.config.vision.hidden_size)
    around = [head.weight for head in heads.named[OWN:]]
    for whole in (0.0, 1.0):
        batch = drawn(network, whole=whole, margin=2.0)
        heads.zero_grad()
        frame_losses(network.vision, heads, batch)["loss"].backward()
        assert any(float(weight.grad.abs().max()) > 0 for weight in around) == bool(whole)


def test_who_is_around_is_told_by_all_that_are_there_and_nobody_does_not_count(network):
    torch.manual_seed(0)
    heads = FrameHeads(network.config.vision.hidden_size)
    with torch.no_grad():
        for head in heads.named[OWN:]:
            head.weight.zero_()
            head.bias.zero_()
            head.bias[EMPTY] = 1.0
    batch = drawn(network)
    assert bool((batch.facts.named[:, OWN:] == EMPTY).any())
    assert frame_losses(network.vision, heads, batch)["around"] == 0.0


def pose_of(batch):
    _, _, diameter, _, angle = batch.facts.measured.unbind(dim=1)
    return torch.stack([diameter.log(), angle.sin(), angle.cos()], dim=1)


def test_size_and_angle_are_learned_where_they_count_and_reported_everywhere(network):
    torch.manual_seed(0)
    heads = FrameHeads(network.config.vision.hidden_size)
    batch = drawn(network)
    for weight in (0.0, 1.0):
        heads.zero_grad()
        found = frame_losses(network.vision, heads, batch, pose_weight=weight)
        found["loss"].backward()
        for head in (heads.pose, heads.measures):
            assert (head.weight.grad is not None) == bool(weight)
        assert float(found["size"]) > 0 < float(found["turn"])
    heads.pose.forward = lambda _: pose_of(batch)
    found = frame_losses(network.vision, heads, batch, pose_weight=1.0)
    assert float(found["size"]) == pytest.approx(0, abs=1e-6)
    assert float(found["turn"]) == pytest.approx(0, abs=1e-6)


def test_measures_are_those_that_signs_tell_and_count_in_whole_frames_only(network):
    torch.manual_seed(0)
    heads = FrameHeads(network.config.vision.hidden_size)
    batch = drawn(network, whole=0.5, margin=4.0)
    assert bool(batch.whole.any()) and not bool(batch.whole.all())
    plain = frame_losses(network.vision, heads, batch)["loss"]
    told = measured(batch.facts.measured)[0]
    told[~batch.whole] = 9.0  # nothing a window shows tells how large its object is in the frame
    heads.measures.forward = lambda _: told
    heads.pose.forward = lambda _: pose_of(batch)
    assert torch.allclose(frame_losses(network.vision, heads, batch, pose_weight=1.0)["loss"], plain)


def test_the_encoder_learns_a_fixed_batch(network):
    torch.manual_seed(0)
    heads = FrameHeads(network.config.vision.hidden_size)
    batch = draw_frames(SEEDS[:1], network.config, rng=np.random.default_rng(0))
    optimizer = torch.optim.AdamW([*network.vision.parameters(), *heads.parameters()], lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = frame_losses(network.vision, heads, batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
