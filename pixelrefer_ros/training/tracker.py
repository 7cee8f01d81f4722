# SPDX-License-Identifier: Apache-2.0
"""Trains a small SAM 2 on prompted clips with memory (SAM 2, Sec. 4 and its appendix on training)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Sam2VideoConfig, Sam2VideoModel

from pixelrefer_ros.tracking import load_sam2, tiny_config, write_sam2
from pixelrefer_ros.training.data import loader
from pixelrefer_ros.training.language import RECIPE, TRAINING
from pixelrefer_ros.training.loop import Loop, Pace, parameter_groups
from pixelrefer_ros.training.tracker_clips import ClipBatches, Clips
from pixelrefer_ros.training.tracker_loss import Follower

STAGE = "tracker"


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """One training run.

    Attributes:
        seed: of the weights and the scenes.
        steps: in all.
        scenes: per step.
        length: frames of a clip; the last third of the steps uses `long_length`.
        long_length: with which hiding and coming back fit in a clip.
        rate: learning rate at its highest.
        weight_decay: of matrices.
        image_size: side of the model's input, px, a multiple of 32.
        width: C, a multiple of 64, at least 128.
        own_presence: probability in the last third that memory uses the model's own guess of presence.
        start_from: a checkpoint to go on from, instead of random weights.
        workers: processes that draw clips.
        device: "cpu" or "cuda".
        bf16: compute in bfloat16 where that is safe; weights stay float32.
        log_every: steps between lines of the log.
        save_every: steps between saved states.
        minutes: stop each call after so many, to go on later; 0 never does.
    """

    seed: int = 0
    steps: int = 12000
    scenes: int = 4
    length: int = 5
    long_length: int = 9
    rate: float = 5e-4
    weight_decay: float = 0.05
    image_size: int = 192
    width: int = 128
    own_presence: float = 0.3
    start_from: Path | None = None
    workers: int = 2
    device: str = "cpu"
    bf16: bool = False
    log_every: int = 20
    save_every: int = 500
    minutes: float = 0.0


def new_tracker(*, seed: int, image_size: int, width: int) -> Sam2VideoModel:
    """A small SAM 2 with weights to begin training from.

    transformers draws everything from N(0, 0.02), with which nothing of the picture passes a few layers:
    every layer gets torch's own initialisation instead. The point embedding is the image's, as in SAM 2.

    Args:
        seed: of the weights.
        image_size: side of the input, px.
        width: C.
    """
    config: Sam2VideoConfig = tiny_config(width=width, image_size=image_size)
    config.multimask_output_in_sam = False
    config.mask_decoder_config.dynamic_multimask_via_stability = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Sam2VideoModel(config)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm)):
                module.reset_parameters()
        for name, table in model.named_parameters():
            if name.rsplit(".", 1)[-1] not in ("weight", "bias", "scale"):
                nn.init.trunc_normal_(table, std=0.1)
        with torch.no_grad():
            place = model.prompt_encoder.shared_embedding.positional_embedding
            model.shared_image_embedding.positional_embedding.copy_(nn.init.normal_(place))
            for fuser in model.memory_encoder.memory_fuser.layers:
                nn.init.constant_(fuser.scale, 0.1)
    return model


def train_tracker(out: Path, settings: TrackerSettings) -> bool:
    """Trains a SAM 2, or goes on with the run that the folder holds.

    Writes the model into ``out`` (transformers format, float16), log and state into ``out/training``.

    Returns:
        Whether training is finished; False when the minutes ended first.

    Raises:
        CheckpointError: ``start_from``, or the state in the folder, does not fit.
        ParameterError: the state is of a run with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = _begin(settings).to(settings.device).train()
    _freeze_tables(model)
    (out / RECIPE).write_text(json.dumps(_recipe(settings, model), indent=1) + "\n", encoding="utf-8")
    groups = parameter_groups({settings.rate: [model]}, weight_decay=settings.weight_decay)
    pace = Pace(settings.steps, settings.log_every, settings.save_every, settings.minutes)
    loop = Loop(STAGE, model, groups, out / TRAINING, pace)
    loop.resume()
    follower = Follower(model)
    with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
        for numbers, length in _parts(settings, loop.step):
            if numbers.start >= settings.steps - settings.steps // 3:
                follower.own_presence = settings.own_presence
            batches = ClipBatches(
                settings.image_size, seed=settings.seed, scenes=settings.scenes, length=length
            )
            loop.run(
                loader(batches, numbers, workers=settings.workers),
                lambda clips: clip_losses(follower, clips, bf16=settings.bf16),
            )
            if loop.step < numbers.stop:
                break  # the minutes ended
    loop.save()
    write_tracker(model, out)
    return loop.finished


def clip_losses(follower: Follower, clips: Clips, *, bf16: bool) -> Mapping[str, Tensor | float]:
    """The losses of a batch, for the loop."""
    with torch.autocast(follower.device.type, torch.bfloat16, enabled=bf16):
        return follower.losses(clips)


def write_tracker(model: Sam2VideoModel, out: Path) -> None:
    """Writes float16 weights that `StreamTracker.from_pretrained` loads; the model itself stays as it is."""
    written = Sam2VideoModel(model.config)
    written.load_state_dict(model.state_dict())
    # Half of the bytes; point coordinates need more digits than float16 has.
    table = written.prompt_encoder.shared_embedding.positional_embedding.detach().clone()
    written = written.half()
    written.prompt_encoder.shared_embedding.positional_embedding.data = table
    write_sam2(written, out)


def _begin(settings: TrackerSettings) -> Sam2VideoModel:
    if settings.start_from is not None:
        return load_sam2(settings.start_from, image_size=settings.image_size).requires_grad_(True)
    return new_tracker(seed=settings.seed, image_size=settings.image_size, width=settings.width)


def _freeze_tables(model: Sam2VideoModel) -> None:
    """What the tracker bakes into its graphs must not change under the ones that training uses."""
    for table in (
        model.prompt_encoder.shared_embedding.positional_embedding,
        model.shared_image_embedding.positional_embedding,
        model.memory_temporal_positional_encoding,
    ):
        table.requires_grad_(False)


def _parts(settings: TrackerSettings, done: int) -> list[tuple[range, int]]:
    """The steps that are left, by the length of their clips."""
    turn = settings.steps - settings.steps // 3
    parts = [
        (range(done, turn), settings.length),
        (range(max(done, turn), settings.steps), settings.long_length),
    ]
    return [(numbers, length) for numbers, length in parts if len(numbers)]


def _recipe(settings: TrackerSettings, model: Sam2VideoModel) -> dict[str, object]:
    plain = asdict(settings) | {
        "start_from": None if settings.start_from is None else str(settings.start_from)
    }
    for run_only in ("workers", "device", "minutes", "log_every", "save_every"):
        plain.pop(run_only)
    return plain | {"parameters": sum(p.numel() for p in model.parameters())}
