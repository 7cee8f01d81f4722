# SPDX-License-Identifier: Apache-2.0
"""What a training run of PixelRefer-Lite can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pixelrefer_ros.training.checkpoints import Sizes
from pixelrefer_ros.training.rates import FROM_NOTHING, Rates
from pixelrefer_ros.training.run_settings import RunSettings

RECIPE = "recipe.json"
TRAINING = "training"
"""Subfolder of the log and the state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSettings(RunSettings):
    """One training run; its seed is that of the tokenizer's text, too.

    Attributes:
        attribute_steps: of the stage before both, in which the vision encoder of a new model learns to see
            the world's objects (see `teach_attributes`); 0 leaves it out.
        attribute_scenes: per step of that stage.
        frame_steps: of the stage after that, in which it learns to see many objects at once and who is beside
            whom (see `teach_frames`); 0 leaves it out.
        side_steps: of the stage after that, which is of who is beside whom, sizes and angles (see
            `teach_sides`); 0 leaves it out.
        frame_scenes: per step of these two.
        attribute_rate: the learning rate of all three at its highest.
        reading_steps: of the stage after it, in which the language model of a new model learns the world's
            language (see `teach_reading`); 0 leaves it out.
        reading_scenes: per step of it, single pictures and videos.
        reading_rate: the learning rate at its highest.
        infusion_steps: of the stage after that, in which it learns to read object tokens (see
            `teach_infusion`); 0 leaves it out.
        led_steps: before that stage's first one, in which a new object encoder learns where to look (see
            `begin_infusion`). After a hundred 80 % of the attention is where it belongs (validation), after
            four hundred 91 %.
        infusion_scenes: of a batch that is seen before that stage's first step.
        infusion_batches: so many of them.
        infusion_rate: the learning rate at its highest.
        steps: of each stage; 0 leaves the stage out.
        scenes: per step.
        shown: how often each batch of them is shown: to draw and to encode it costs most.
        surroundings: share of their pictures that teaches the vision encoder, if it learns; see
            `WorldBatches`.
        rates: of each stage.
        sizes: of a new model.
        data: files of the user's records, one for all stages or one each, see `read_records`; empty: the
            shapes world.
        media: the folder of their pictures and videos.
        questions: per step, of records.
        most_broken: share of the records that may be left out.
        lora_rank: 0 trains the language model itself; otherwise low-rank updates of it, merged at the end.
            The object encoder is trained in full either way.
    """

    attribute_steps: int = 1100
    attribute_scenes: int = 5
    frame_steps: int = 600
    side_steps: int = 4500
    frame_scenes: int = 8
    attribute_rate: float = 1.5e-3
    reading_steps: int = 3200
    reading_scenes: tuple[int, int] = (4, 2)
    reading_rate: float = 2e-3
    infusion_steps: int = 2500
    led_steps: int = 500
    infusion_scenes: int = 12
    infusion_batches: int = 600
    infusion_rate: float = 1.4e-3
    steps: tuple[int, int] = (100, 600)
    scenes: int = 4
    shown: int = 3
    surroundings: float = 0.2
    rates: tuple[Rates, Rates] = FROM_NOTHING
    sizes: Sizes = field(default_factory=Sizes)
    data: tuple[Path, ...] = ()
    media: Path | None = None
    questions: int = 16
    most_broken: float = 0.05
    lora_rank: int = 0
