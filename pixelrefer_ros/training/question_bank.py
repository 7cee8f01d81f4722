# SPDX-License-Identifier: Apache-2.0
"""Questions that were drawn, asked again as often as their kind is still answered wrongly.

Kinds of questions differ by far in how many of them it takes. Asked evenly, most of a step goes to what is
known; one after the other by a plan, what was learned first is forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pixelrefer_ros.training.asked import Asked
from pixelrefer_ros.training.object_facts import Facts
from pixelrefer_ros.training.text_rows import TextRow, TextRows
from pixelrefer_ros.training.world import KINDS, LESSONS, OFFERED

KEPT = 1500
"""Questions of a kind, where new ones go on coming."""
_REMEMBERED = 0.97  # of how wrong a kind was, from one answer to the next
_SHARPNESS = 3  # power of it that counts: what is guessed is learned soon where most questions ask for it
_ALWAYS = 0.04  # so much is added: nothing is forgotten
_OF_LESSONS = 2.0  # one that is guessed has half of its words right
_LESSON_WEIGHT = 1.6


class _Question(NamedTuple):
    row: TextRow
    facts: Facts
    times: Tensor
    fused: Tensor | None


class QuestionBank(nn.Module):
    """Questions by kind; how wrong the answers to each are, and whose turn it is, are its state.

    Args:
        kept: of each kind, the newest; None keeps all.
    """

    wrong: Tensor
    turns: Tensor

    def __init__(self, kept: int | None = KEPT) -> None:
        """Empty."""
        super().__init__()
        self._kept = kept
        self._questions: dict[str, deque[_Question]] = {}
        self.register_buffer("wrong", torch.ones(len(OFFERED)))
        self.register_buffer("turns", torch.zeros(len(OFFERED), dtype=torch.long))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """States that were written before turns were part of them begin with the first questions."""
        state_dict.setdefault(f"{prefix}turns", torch.zeros_like(self.turns))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def add(self, batch: Asked) -> None:
        """Takes up its questions; the oldest of too many are forgotten."""
        first = 0
        for place, (kind, runs) in enumerate(zip(batch.kinds, batch.runs, strict=True)):
            length = int(batch.rows.length[place])
            row = TextRow(batch.rows.ids[place, :length].tolist(), batch.rows.labels[place, :length].tolist())
            views = batch.views[first : first + runs]
            times = batch.times[first : first + runs].clone()
            fused = None if batch.fused is None else batch.fused[views]
            question = _Question(row, batch.facts[views], times, fused)
            self._questions.setdefault(kind, deque(maxlen=self._kept)).append(question)
            first += runs

    def __len__(self) -> int:
        """Questions kept."""
        return sum(map(len, self._questions.values()))

    def draw(self, rng: np.random.Generator, tokens: int) -> Asked:
        """Questions until they have so many tokens, by how wrong their kinds are; the bank is not empty.

        Those of a kind come in turn, and a kind whose questions are long comes less often.
        """
        kinds = [kind for kind in OFFERED if kind in self._questions]
        wrong = dict(zip(OFFERED, self.wrong.tolist(), strict=True))
        weights = np.array([(_ALWAYS + wrong[kind] ** _SHARPNESS) * _weight(kind) for kind in kinds])
        lengths = [np.mean([len(q.row.ids) for q in islice(self._questions[kind], 50)]) for kind in kinds]
        weights = weights / np.sqrt(lengths)
        places = {kind: place for place, kind in enumerate(OFFERED)}
        asked: list[str] = []
        questions: list[_Question] = []
        while sum(len(question.row.ids) for question in questions) < tokens:
            kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
            turn = int(self.turns[places[kind]]) % len(self._questions[kind])
            self.turns[places[kind]] = turn + 1
            asked.append(kind)
            questions.append(self._questions[kind][turn])
        fused = [question.fused for question in questions if question.fused is not None]
        return Asked(
            rows=TextRows.padded([question.row for question in questions]),
            views=list(range(sum(len(question.times) for question in questions))),
            facts=Facts.joined([question.facts for question in questions]),
            times=torch.cat([question.times for question in questions]),
            kinds=asked,
            runs=[len(question.times) for question in questions],
            fused=torch.cat(fused) if fused else None,
        )

    def answered(self, kinds: Sequence[str], mistakes: Tensor, lengths: Tensor) -> None:
        """Notes how wrong answers were: (B,) tokens that are not the likeliest, of (B,) tokens."""
        places = {kind: place for place, kind in enumerate(OFFERED)}
        for kind, missed, length in zip(kinds, mistakes.tolist(), lengths.tolist(), strict=True):
            share = min(1.0, _OF_LESSONS * missed / length) if kind in LESSONS else float(missed > 0)
            self.wrong[places[kind]].mul_(_REMEMBERED).add_((1 - _REMEMBERED) * share)


def _weight(kind: str) -> float:
    return float(KINDS[kind].weight ** 0.5) if kind in KINDS else _LESSON_WEIGHT
