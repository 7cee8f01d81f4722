# SPDX-License-Identifier: Apache-2.0
"""Training SAM 2: clips, gradients through memory, a falling loss, and a model that tracks."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from pixelrefer_ros.tracking import StreamTracker
from pixelrefer_ros.tracking.checkpoint import load_sam2
from pixelrefer_ros.training.loop import Loop, Pace, parameter_groups
from pixelrefer_ros.training.scoring.tracks import first_frame, region_of
from pixelrefer_ros.training.tracker import (
    TrackerSettings,
    clip_losses,
    new_tracker,
    train_tracker,
    write_tracker,
)
from pixelrefer_ros.training.tracker_clips import PROMPT_SHARES, ClipBatches, Clips, model_mask, model_picture
from pixelrefer_ros.training.tracker_loss import Follower
from pixelrefer_ros.training.world import Renderer, SceneSettings, Sight, cast_scene

SIZE = 64
CALM = SceneSettings(frames=12, size=(320, 240), objects=(1, 2), occlusion="none")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def batches():
    return ClipBatches(SIZE, seed=3, scenes=2, length=3, settings=CALM)


def batch_of(batches: ClipBatches, prompt: str):
    return next(clips for clips in (batches[k] for k in range(60)) if clips.prompt == prompt)


def test_clips_are_the_same_whoever_draws_them(batches):
    one, again = batches[5], batches[5]
    assert torch.equal(one.pictures, again.pictures)
    assert torch.equal(one.masks, again.masks)
    assert torch.equal(one.points, again.points)


def test_prompts_point_at_their_objects(batches):
    kinds = set()
    for number in range(30):
        clips = batches[number]
        kinds.add(clips.prompt)
        assert clips.pictures.shape == (2, 3, 3, SIZE, SIZE)
        assert len(clips.masks) == len(clips.clip_of) == len(clips.points) == len(clips.gap)
        for mask, points in zip(clips.masks[:, 0].numpy(), clips.points.numpy(), strict=True):
            if clips.prompt == "point":
                column, row = points[0].astype(int)
                assert mask[row, column]
            elif clips.prompt == "box":
                rows, columns = np.nonzero(mask)
                # Boxes are drawn roughly: 8 % of their sides, and a pixel for rounding.
                reach = 0.08 * max(np.ptp(columns), np.ptp(rows)) + 1.1
                assert abs(points[0] - (columns.min(), rows.min())).max() <= reach
                assert abs(points[1] - (columns.max() + 1, rows.max() + 1)).max() <= reach
    assert kinds == set(PROMPT_SHARES)


@pytest.mark.parametrize("prompt", list(PROMPT_SHARES))
def test_what_is_seen_late_teaches_what_is_remembered_early(batches, prompt):
    model = new_tracker(seed=0, image_size=SIZE, width=128).train()
    clips = batch_of(batches, prompt)
    losses = Follower(model).losses(clips)
    losses["loss"].backward()
    for part in (
        model.vision_encoder,
        model.memory_encoder,
        model.memory_attention,
        model.object_pointer_proj,
    ):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert 0.0 <= losses["first"] <= 1.0


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_training_follows_as_the_tracker_does(prompt, tmp_path):
    """Prompt, memory slots, pointers and their times are those of the stream, frame by frame."""
    frames, width, height = 5, 320, 240
    sight = Sight(Renderer(cast_scene(3, CALM)))
    numbers = range(len(sight.scene.objects))
    model = new_tracker(seed=1, image_size=SIZE, width=128).eval()
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(8.0)  # present: no mask is cleared
        for head in model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(20)  # so that the masks of an untrained model have edges
    write_tracker(model, tmp_path)
    tracker = StreamTracker.from_pretrained(tmp_path)
    visible = [sight.renderer.layers(index).visible for index in range(frames)]
    regions = [region_of(visible[0][number], number + 1, prompt) for number in numbers]
    tracked = [tracker.prompt(sight.renderer.frame(0), regions)]
    tracked += [tracker.track(sight.renderer.frame(index)) for index in range(1, frames)]
    if prompt == "box":
        boxes = [sight.box(number, 0) for number in numbers]
        points = [[[b.x, b.y], [b.x + b.width, b.y + b.height]] for b in boxes]
    else:
        points = [region.points.tolist() for region in regions]
    clips = Clips(
        pictures=torch.stack([model_picture(sight.renderer.rgb(i), SIZE) for i in range(frames)])[None],
        masks=torch.from_numpy(np.stack([[model_mask(v[n], SIZE) for v in visible] for n in numbers])),
        clip_of=torch.zeros(len(numbers), dtype=torch.long),
        prompt=prompt,
        points=torch.tensor(points, dtype=torch.float32) * torch.tensor([SIZE / width, SIZE / height]),
        labels=torch.tensor([[2, 3] if prompt == "box" else [1]] * len(numbers), dtype=torch.int32),
        gap=torch.ones(len(numbers), dtype=torch.long),
    )
    served = load_sam2(tmp_path)  # the weights went through float16
    with torch.no_grad():
        for index, (logits, score) in enumerate(Follower(served).follow(clips)):
            assert (score > 0).all()
            full = torch.nn.functional.interpolate(logits, size=(height, width), mode="bilinear")[:, 0] > 0
            for track, mask in zip(tracked[index], full.numpy(), strict=True):
                assert 0 < mask.sum() < mask.size
                # The stream keeps memories in bfloat16: pixels whose logit is near 0 may differ.
                assert (track.mask != mask).mean() < 0.01


def test_the_loss_of_a_fixed_clip_falls(batches, tmp_path):
    model = new_tracker(seed=0, image_size=SIZE, width=128).train()
    follower = Follower(model)
    clips = batch_of(batches, "box")
    groups = parameter_groups({1e-3: [model]}, weight_decay=0.0)
    loop = Loop("fixed", model, groups, tmp_path, Pace(steps=24, log_every=1))
    loop.run([clips] * 24, lambda item: clip_losses(follower, item, bf16=False))
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < 0.6 * float(rows[0]["loss"])
    assert float(rows[-1]["first"]) > float(rows[0]["first"])


def test_a_run_leaves_a_model_that_tracks(tmp_path):
    settings = TrackerSettings(
        seed=1, steps=3, scenes=1, length=2, long_length=3, image_size=SIZE, workers=0, log_every=1
    )
    assert train_tracker(tmp_path, settings)
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert recipe["parameters"] <= 4_000_000
    assert (tmp_path / "model.safetensors").stat().st_size <= 10_000_000
    tracker = StreamTracker.from_pretrained(tmp_path)
    sight = Sight(Renderer(cast_scene(3, CALM)))
    assert len(first_frame(tracker, sight, "point")) == len(sight.scene.objects)
    assert len(tracker.track(sight.renderer.frame(1))) == len(sight.scene.objects)
    assert train_tracker(tmp_path, settings)  # nothing is left to do
