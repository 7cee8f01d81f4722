# SPDX-License-Identifier: Apache-2.0
"""Teaches a new language model the world's language, from what is true of objects and before it sees any.

The paper starts from Qwen2, which can compare, choose and say yes or no. A language model with random weights
learns that from very many questions, and pictures are most of what a question costs. Here objects are signs
instead: the facts that a perfect object encoder would find, embedded and summed. No picture is drawn; the
embeddings are left out of the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pixelrefer_ros.model import ChatTokenizer, PixelReferConfig, PixelReferNetwork
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.data import loader
from pixelrefer_ros.training.language_loss import embedded_loss, place_tokens
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import Loop, Pace, parameter_groups
from pixelrefer_ros.training.text_rows import TextRows, text_row
from pixelrefer_ros.training.world import (
    COLORS,
    KINDS,
    LESSONS,
    NOTHING,
    SEED_RANGES,
    SHAPES,
    SURFACES,
    SceneSettings,
    Sight,
    Split,
    neighbors,
    scene_drafts,
)

STAGE = "reading"
SCENE = SceneSettings(size=(320, 240))  # measured from masks: small ones are quick
QUESTIONS = 20
"""Of a scene."""

_WHO = (*COLORS, *SHAPES)
_SIDES = ("left", "right", "above", "below", "next", "front", "behind")
_COLUMNS = (len(SHAPES), len(COLORS), len(SURFACES), *(len(_WHO) + 3 for _ in _SIDES for _ in range(2)))
_MEASURES = 6
_STD, _NOISE = 0.1, 0.1


@dataclass(frozen=True, eq=False, slots=True)
class ReadingBatch:
    """B questions about V views, an object in a frame each.

    Attributes:
        rows: of prompts and answers.
        views: (P,) the view at each ``<REGION>`` run, in reading order.
        named: (V, columns) int64: shape, colour, surface; then who is on each side, two words each.
        measured: (V, 6) float32: x and y of the middle and the diameter, as shares of the frame; the visible
            share; cosine and sine of the angle.
    """

    rows: TextRows
    views: list[int]
    named: Tensor
    measured: Tensor


class Signs(nn.Module):
    """Facts of an object as object tokens."""

    def __init__(self, width: int, count: int) -> None:
        """For a language model ``width`` wide; ``count`` tokens of each object in a frame."""
        super().__init__()
        self._count = count
        self.named = nn.ModuleList(nn.Embedding(size, width) for size in _COLUMNS)
        self.measured = nn.Linear(_MEASURES, width)
        for table in self.named:
            nn.init.normal_(table.weight, std=_STD)  # type: ignore[arg-type] # an embedding's

    def forward(self, batch: ReadingBatch) -> Tensor:
        """(V, n, D); every token says the same, with noise of its own."""
        device = self.measured.weight.device
        said: Tensor = self.measured(batch.measured.to(device))
        for table, column in zip(self.named, batch.named.to(device).unbind(dim=1), strict=True):
            said = said + table(column)
        tokens = said[:, None].expand(-1, self._count, -1)
        return tokens + _NOISE * torch.randn_like(tokens)


class ReadingBatches(Dataset[ReadingBatch]):
    """Batches by number: the same in any process, on any run."""

    def __init__(
        self, folder: Path, config: PixelReferConfig, *, seed: int, scenes: int, split: Split = "train"
    ) -> None:
        """See `WorldBatches`."""
        self._folder, self._config = folder, config
        self._seed, self._scenes, self._split = seed, scenes, split

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:
        return tokenizer_of(self._folder)

    def __getitem__(self, number: int) -> ReadingBatch:
        """Measures batch ``number``."""
        owned = SEED_RANGES[self._split]
        rng = np.random.default_rng([self._seed, 11, number])
        known: dict[tuple[int, int, int], int] = {}
        named: list[list[int]] = []
        measured: list[list[float]] = []
        rows, views = [], []
        kinds = (*KINDS, *LESSONS)
        for scene_seed in rng.integers(owned.start, owned.stop, size=self._scenes):
            for sight, draft in scene_drafts(int(scene_seed), QUESTIONS, settings=SCENE, kinds=kinds):
                for region in draft.objects:
                    for index in draft.views:
                        key = (int(scene_seed), region, index)
                        if key not in known:
                            known[key] = len(known)
                            named.append(_named(sight, region, index))
                            measured.append(_measured(sight, region, index))
                        views.append(known[key])
                start, rate = draft.views[0], sight.scene.rate_hz
                single = len(draft.views) == 1
                times = [None] if single else [(index - start) / rate for index in draft.views]
                of_regions = [times for _ in draft.objects]
                rows.append(text_row(draft.question, draft.answer, of_regions, self._tokenizer, self._config))
        return ReadingBatch(TextRows.padded(rows), views, torch.tensor(named), torch.tensor(measured))


def _named(sight: Sight, number: int, index: int) -> list[int]:
    it = sight.scene.objects[number].combination
    own = [SHAPES.index(it.shape), list(COLORS).index(it.color), SURFACES.index(it.surface)]
    around = neighbors(sight, number, index)
    for side in _SIDES:
        words = (around[side] or "unclear").split()
        own += [_word(words[0]), _word(words[-1])]
    return own


def _word(word: str) -> int:
    """0 to 2: unclear, nothing, a board; then colours and shapes."""
    return 3 + _WHO.index(word) if word in _WHO else {"unclear": 0, NOTHING: 1}.get(word, 2)


def _measured(sight: Sight, number: int, index: int) -> list[float]:
    scene = sight.scene
    x, y = sight.center(number, index)
    angle = scene.pose(number, index).angle
    return [
        x / scene.width,
        y / scene.height,
        scene.diameter(number, index),
        float(sight.shares[index, number]),
        math.cos(angle),
        math.sin(angle),
    ]


def reading_losses(
    network: PixelReferNetwork, signs: Signs, batch: ReadingBatch, *, bf16: bool = False
) -> Mapping[str, Tensor | float]:
    """The loss of the answers, and the share of answers that are right in every word."""
    with torch.autocast(network.device.type, torch.bfloat16, enabled=bf16):
        embeddings = place_tokens(network, batch.rows.ids, signs(batch)[batch.views])
        result = embedded_loss(network, embeddings, batch.rows)
    return {"loss": result.loss, "right": result.right / result.answers}


def teach_reading(network: PixelReferNetwork, folder: Path, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, or goes on with it where the folder holds its state.

    Args:
        network: on its device; its language model is taught.
        folder: of the checkpoint, for its tokenizer.
        out: folder of the log and the state.
        settings: of the whole run.

    Returns:
        Whether it is finished; False when the minutes ended first.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        signs = Signs(network.config.language.hidden_size, network.config.mask_num).to(settings.device)
    # The state holds the vision encoder too: it has learned to see, and a stopped run begins from the state.
    learner = nn.ModuleDict({"vision": network.vision, "language": network.language, "signs": signs})
    groups = parameter_groups(
        {settings.reading_rate: [network.language, signs]},
        weight_decay=settings.weight_decay,
        hidden=[network.language.model.layers],
    )
    pace = Pace(
        settings.reading_steps,
        settings.log_every,
        settings.save_every,
        settings.minutes,
        settings.validate_every,
    )
    loop = Loop(STAGE, learner, groups, out, pace)
    loop.resume()
    batches = ReadingBatches(folder, network.config, seed=settings.seed, scenes=settings.reading_scenes)
    watched = ReadingBatches(folder, network.config, seed=settings.seed, scenes=16, split="val")

    @torch.inference_mode()
    def validate(_: int) -> dict[str, float]:
        return {name: float(value) for name, value in reading_losses(network, signs, watched[0]).items()}

    with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
        loop.run(
            loader(batches, range(loop.step, pace.steps), workers=settings.workers),
            lambda batch: reading_losses(network, signs, batch, bf16=settings.bf16),
            validate if settings.validate_every else None,
        )
    loop.save()
    return loop.finished
