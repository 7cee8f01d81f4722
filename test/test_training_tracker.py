# SPDX-License-Identifier: Apache-2.0
"""Training SAM 2: clips, gradients through memory, a falling loss, and a model that tracks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixelrefer_ros.tracking import StreamTracker
from pixelrefer_ros.tracking.checkpoint import load_sam2
from pixelrefer_ros.tracking.components import ImageEncoder
from pixelrefer_ros.tracking.pixels import normalise
from pixelrefer_ros.tracking.states import StateRules
from pixelrefer_ros.training.loop import Loop, Pace
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.scoring.tracks import first_frame, region_of
from pixelrefer_ros.training.tracker import (
    TrackerSettings,
    TrackerStage,
    clip_losses,
    new_tracker,
    train_tracker,
    write_tracker,
)
from pixelrefer_ros.training.tracker_clips import PROMPTS, ClipBatches, Clips, model_mask, model_picture
from pixelrefer_ros.training.tracker_frames import encode_frames
from pixelrefer_ros.training.tracker_loss import Follower
from pixelrefer_ros.training.world import Renderer, SceneSettings, Sight, cast_scene

SIZE = 64
CALM = SceneSettings(frames=12, size=(320, 240), objects=(1, 2), occlusion="none")


pytestmark = pytest.mark.usefixtures("one_thread")


PICTURES = TrackerStage("pictures", (CALM,), scenes=2, length=1, pictures=2)
FOLLOWING = TrackerStage("following", (CALM,), scenes=2, length=3)
HIDING = TrackerStage(
    "hiding",
    (SceneSettings(frames=40, size=(320, 240), objects=(1, 2), occlusion="full"),),
    scenes=2,
    length=6,
    objects=2,
    through_hiding=True,
)


@pytest.fixture(scope="module")
def batches():
    return ClipBatches(SIZE, FOLLOWING, seed=3)


def only(clips: Clips, prompt: str) -> Clips:
    """The clips with every object pointed at in the same way; masks may be given for any."""
    return replace(clips, prompt=torch.full_like(clips.prompt, PROMPTS.index(prompt)))


def followed(model, clips: Clips) -> list[torch.Tensor]:
    """Mask logits, frame by frame."""
    follower = Follower(model)
    return [logits for logits, _ in follower.follow(clips, follower.encode(clips))]


def test_clips_are_the_same_whoever_draws_them(batches):
    one, again = batches[5], batches[5]
    assert torch.equal(one.pictures, again.pictures)
    assert torch.equal(one.masks, again.masks)
    assert torch.equal(one.points, again.points)


@pytest.mark.parametrize("stage", [PICTURES, FOLLOWING], ids=lambda stage: stage.name)
def test_prompts_point_at_their_objects(stage):
    kinds = set()
    for number in range(15):
        clips = ClipBatches(SIZE, stage, seed=3)[number]
        clip_count = stage.scenes * stage.pictures
        assert clips.pictures.shape[1:] == (stage.length, 3, SIZE, SIZE)
        assert len(clips.pictures) <= clip_count
        assert len(clips.masks) == len(clips.clip_of) == len(clips.points) == len(clips.gap)
        for kind, mask, points in zip(
            clips.prompt, clips.masks[:, 0].numpy(), clips.points.numpy(), strict=True
        ):
            prompt = PROMPTS[int(kind)]
            kinds.add(prompt)
            if prompt == "point":
                column, row = points[0].astype(int)
                assert mask[row, column]
            elif prompt == "box":
                rows, columns = np.nonzero(mask)
                # Boxes are drawn roughly: 8 % of their sides, and a pixel for rounding.
                reach = 0.08 * max(np.ptp(columns), np.ptp(rows)) + 1.1
                assert abs(points[0] - (columns.min(), rows.min())).max() <= reach
                assert abs(points[1] - (columns.max() + 1, rows.max() + 1)).max() <= reach
    assert kinds == ({"box", "point"} if stage is PICTURES else set(PROMPTS))


def test_clips_of_hidden_objects_show_them_before_and_after():
    clips = [ClipBatches(SIZE, HIDING, seed=3)[number] for number in range(6)]
    seen = torch.cat([c.masks.flatten(2).any(2) for c in clips])
    hidden = seen[~seen.all(1)]
    assert len(hidden) >= 6
    assert hidden[:, 0].all()
    # A board may still cover a little of what comes back: most clips end in sight of it.
    assert hidden[:, -1].float().mean() > 0.7


def test_frames_are_encoded_as_the_tracker_encodes_them(batches):
    model = new_tracker(seed=0, image_size=SIZE, width=128, slots=4)
    pictures = batches[0].pictures
    values = normalise(pictures.flatten(0, 1).permute(0, 2, 3, 1), torch.float32)
    with torch.no_grad():
        expected = ImageEncoder(model)(values)
    for learning in (1.0, 0.5):
        found = encode_frames(model, pictures, learning=learning)
        for level, other in zip((found.coarse, found.skip0, found.skip1), expected, strict=False):
            # Two matrices multiplied first round differently.
            torch.testing.assert_close(level.flatten(0, 1), other, atol=1e-5, rtol=1e-4)


def test_only_some_frames_teach_the_encoder(batches):
    model = new_tracker(seed=0, image_size=SIZE, width=128, slots=4)
    pictures = batches[0].pictures
    count = pictures.shape[0] * pictures.shape[1]
    encoded = []
    hook = model.vision_encoder.backbone.patch_embed.register_forward_hook(
        lambda module, given, patches: encoded.append((len(patches), patches.requires_grad))
    )
    encode_frames(model, pictures, learning=0.5)
    hook.remove()
    assert sorted(encoded) == [(count // 2, False), (count // 2, True)]
    assert not encode_frames(model, pictures, learning=0.0).coarse.requires_grad


@pytest.mark.parametrize("prompt", list(PROMPTS))
def test_what_is_seen_late_teaches_what_is_remembered_early(batches, prompt):
    model = new_tracker(seed=0, image_size=SIZE, width=128, slots=4).train()
    losses = Follower(model).losses(only(batches[5], prompt))
    losses["loss"].backward()
    for part in (
        model.vision_encoder,
        model.memory_encoder,
        model.memory_attention,
        model.object_pointer_proj,
    ):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert 0.0 <= losses[prompt] <= 1.0
    assert 0.0 <= losses["later"] <= 1.0


def test_objects_pointed_at_in_different_ways_do_not_mix(batches):
    model = new_tracker(seed=0, image_size=SIZE, width=128, slots=4).eval()
    clips = next(c for c in (batches[k] for k in range(20)) if len(set(c.prompt.tolist())) > 1)
    with torch.no_grad():
        together = followed(model, clips)
        for kind in set(clips.prompt.tolist()):
            own = clips.prompt == kind
            alone = replace(
                clips,
                **{
                    name: getattr(clips, name)[own]
                    for name in ("masks", "clip_of", "prompt", "points", "gap")
                },
            )
            for logits, expected in zip(followed(model, alone), together, strict=True):
                torch.testing.assert_close(logits, expected[own], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_training_follows_as_the_tracker_does(prompt, tmp_path):
    """Prompt, memory slots, pointers and their times are those of the stream, frame by frame."""
    frames, width, height = 5, 320, 240
    sight = Sight(Renderer(cast_scene(3, CALM)))
    numbers = range(len(sight.scene.objects))
    model = new_tracker(seed=1, image_size=SIZE, width=128, slots=4).eval()
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(8.0)  # present: no mask is cleared
        for head in model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(20)  # so that the masks of an untrained model have edges
    write_tracker(model, tmp_path)
    # Masks of an untrained model are of any size and overlap; training remembers every frame.
    rules = StateRules(max_area_fraction=1.0, smallest_part=0.0, apart=False, remembers_absence=True)
    tracker = StreamTracker.from_pretrained(tmp_path, states=rules)
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
        prompt=torch.full((len(numbers),), PROMPTS.index(prompt)),
        points=torch.tensor(points, dtype=torch.float32) * torch.tensor([SIZE / width, SIZE / height]),
        gap=torch.ones(len(numbers), dtype=torch.long),
    )
    served = load_sam2(tmp_path)  # the weights went through float16
    follower = Follower(served)
    with torch.no_grad():
        for index, (logits, score) in enumerate(follower.follow(clips, follower.encode(clips))):
            assert (score > 0).all()
            full = F.interpolate(logits[:, None], size=(height, width), mode="bilinear")[:, 0] > 0
            for track, mask in zip(tracked[index], full.numpy(), strict=True):
                assert 0 < mask.sum() < mask.size
                # The stream keeps memories in bfloat16: pixels whose logit is near 0 may differ.
                assert (track.mask != mask).mean() < 0.01


def test_the_loss_of_a_fixed_clip_falls(batches, tmp_path):
    model = new_tracker(seed=0, image_size=SIZE, width=128, slots=4).train()
    follower = Follower(model)
    clips = only(batches[5], "box")
    groups = parameter_groups({1e-3: [model]}, weight_decay=0.0)
    loop = Loop("fixed", model, groups, tmp_path, Pace(steps=24, log_every=1))
    loop.run([clips] * 24, lambda item: clip_losses(follower, item, bf16=False))
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < 0.6 * float(rows[0]["loss"])
    assert float(rows[-1]["box"]) > float(rows[0]["box"])


def test_a_run_leaves_a_model_that_tracks_and_says_how_well(tmp_path):
    settings = TrackerSettings(
        seed=1,
        stages=(replace(PICTURES, scale=0.5), HIDING),
        steps=(2, 1),
        scenes=1,
        image_size=SIZE,
        workers=0,
        log_every=1,
        validate_every=1,
        validated_pictures=1,
        validated_clips=1,
    )
    assert train_tracker(tmp_path, settings)
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert recipe["parameters"] <= 4_000_000
    assert (tmp_path / "model.safetensors").stat().st_size <= 10_000_000
    with (tmp_path / "training" / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["pictures", "pictures", "hiding"]
    assert all(0.0 <= float(row["box"]) <= 1.0 for row in rows)
    assert 0.0 <= float(rows[-1]["no occluder"]) <= 1.0
    assert json.loads((tmp_path / "training" / "best.json").read_text())["stage"] == "hiding"
    tracker = StreamTracker.from_pretrained(tmp_path)
    sight = Sight(Renderer(cast_scene(3, CALM)))
    assert len(first_frame(tracker, sight, "point")) == len(sight.scene.objects)
    assert len(tracker.track(sight.renderer.frame(1))) == len(sight.scene.objects)
    assert train_tracker(tmp_path, settings)  # nothing is left to do
