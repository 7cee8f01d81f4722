# SPDX-License-Identifier: Apache-2.0
"""Questions about scenes as prompts, with what is true of every object that they look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pixelrefer_ros.model import ChatTokenizer, PixelReferConfig
from pixelrefer_ros.training.object_facts import SHAPE, Facts
from pixelrefer_ros.training.text_rows import TextRow, TextRows, text_row
from pixelrefer_ros.training.world import SHAPES, TURNS, Draft, Sight

_TURNS = torch.tensor([TURNS[shape] for shape in SHAPES])

Look = tuple[Sight, int, int]
"""What can be seen of a scene, an object's number, and a frame's."""


@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """B questions about V views, an object in a frame each.

    Attributes:
        rows: of prompts and answers.
        views: (P,) the view at each ``<REGION>`` run, in reading order.
        facts: of the V views.
        times: (P,) float32, s since the first view of the same object in the question.
        kinds: (B,) of the questions.
        runs: (B,) how many runs each question has.
        fused: (V, n, D_v) float16, what the object encoder projects of each view, where they are of pictures.
    """

    rows: TextRows
    views: list[int]
    facts: Facts
    times: Tensor
    kinds: list[str]
    runs: list[int]
    fused: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Asked]) -> Asked:
        """The questions of all of them, in order; what is projected is left out if any has nothing."""
        views: list[int] = []
        first = 0
        for part in parts:
            views += [first + view for view in part.views]
            first += len(part.facts.named)
        fused = [part.fused for part in parts if part.fused is not None]
        return cls(
            rows=TextRows.joined([part.rows for part in parts]),
            views=views,
            facts=Facts.joined([part.facts for part in parts]),
            times=torch.cat([part.times for part in parts]),
            kinds=[kind for part in parts for kind in part.kinds],
            runs=[run for part in parts for run in part.runs],
            fused=torch.cat(fused) if len(fused) == len(parts) else None,
        )

    def turned(self, rng: np.random.Generator) -> Asked:
        """The same questions of objects that are turned, each of them alike in all of its frames.

        Nothing is asked about an angle, so every answer stays right; and how far things turn from frame to
        frame cannot be learned by heart. Views have to be of one object in one question each, as a
        `QuestionBank` draws them, and of no pictures.
        """
        objects = (self.times == 0).cumsum(dim=0) - 1
        by = torch.from_numpy(rng.uniform(0, 2 * math.pi, int(objects[-1]) + 1)).float()[objects]
        views = torch.tensor(self.views)
        measured = self.facts.measured.clone()
        measured[views, -1] += by * _TURNS[self.facts.named[views, SHAPE]]
        return replace(self, facts=replace(self.facts, measured=measured))


def ask(
    drafts: Iterable[tuple[Sight, str, Draft]], tokenizer: ChatTokenizer, config: PixelReferConfig
) -> tuple[Asked, list[Look]]:
    """Gathers questions; an object in a frame is one view for all of them.

    Args:
        drafts: as `scene_drafts` gives them, of any number of scenes; at least one.
        tokenizer: of the model.
        config: of the model.

    Returns:
        The questions, and the V views.

    Raises:
        BadQuestion: a question cannot be asked, see `chat_pieces`.
    """
    known: dict[tuple[int, int, int], int] = {}
    looks: list[Look] = []
    rows: list[TextRow] = []
    views: list[int] = []
    kinds: list[str] = []
    since: list[float] = []
    runs: list[int] = []
    for sight, kind, draft in drafts:
        start, rate = draft.views[0], sight.scene.rate_hz
        times = [(index - start) / rate for index in draft.views]
        for region in draft.objects:
            for index in draft.views:
                key = (sight.scene.seed, region, index)
                if key not in known:
                    known[key] = len(known)
                    looks.append((sight, region, index))
                views.append(known[key])
        kinds.append(kind)
        since += times * len(draft.objects)
        runs.append(len(times) * len(draft.objects))
        of_regions = [[None] if len(times) == 1 else times for _ in draft.objects]
        text = (draft.question, draft.answer, of_regions, tokenizer, config)
        rows.append(text_row(*text, draft.lesson, draft.claim))
    asked = Asked(TextRows.padded(rows), views, Facts.of(looks), torch.tensor(since), kinds, runs)
    return asked, looks
