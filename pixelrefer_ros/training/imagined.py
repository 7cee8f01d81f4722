# SPDX-License-Identifier: Apache-2.0
"""What the object encoder would project of objects that no picture was drawn of.

To draw and to encode pictures costs most, and a language model soon knows by heart those that it is shown.
Facts cost little. So what is linear in facts is found by regression over views that were seen; what remains
of a view, which no fact explains, is taken from one of those. Questions about facts alone then sound like
questions about pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelrefer_ros.training.asked import Asked
from pixelrefer_ros.training.object_facts import COLOR, COLUMNS, SHAPE, SURFACE, Facts
from pixelrefer_ros.training.signs import measured

_RIDGE = 3.0  # views' worth of knowing nothing
_CROSSED = ((SHAPE, COLOR), (SHAPE, SURFACE), (COLOR, SURFACE))


class Imagination:
    """Made of views that were seen; videos' remains stay together, since an object's are much alike."""

    def __init__(self, seen: Sequence[Asked]) -> None:
        """Of questions about pictures.

        Args:
            seen: at least one, each with what is projected of its views.
        """
        fused = torch.cat([asked.fused.float() for asked in seen if asked.fused is not None])
        facts = Facts.joined([asked.facts for asked in seen])
        told, mean = _told(facts), fused.mean(dim=1)
        square = (told.T @ told).double() + _RIDGE * torch.eye(told.shape[1], dtype=torch.double)
        self._weights = torch.linalg.solve(square, (told.T @ mean).double()).float()
        remains = fused - (told @ self._weights)[:, None]
        videos: set[tuple[int, ...]] = set()
        first = 0
        for asked in seen:
            start = 0
            for runs in asked.runs:
                if asked.times[start : start + runs].any():
                    videos.add(tuple(first + view for view in asked.views[start : start + runs]))
                start += runs
            first += len(asked.facts.named)
        filmed = {view for video in videos for view in video}
        stills = [view for view in range(len(fused)) if view not in filmed]
        self._stills = remains[stills or range(len(fused))]
        self._videos = [remains[list(video)] for video in sorted(videos)]

    def __call__(self, asked: Asked, rng: np.random.Generator) -> Tensor:
        """(V, n, D_v) float32 of the views of questions, of which each has views of its own.

        Args:
            asked: as a `QuestionBank` draws them.
            rng: which remains are taken.
        """
        remains: list[Tensor] = []
        start = 0
        for runs in asked.runs:
            filmed = bool(asked.times[start : start + runs].any())
            if filmed and self._videos:
                video = self._videos[int(rng.integers(len(self._videos)))]
                turns = int(rng.integers(len(video))) + np.arange(runs)
                remains.append(video[turns % len(video)])
            else:
                remains.append(self._stills[rng.integers(len(self._stills), size=runs)])
            start += runs
        return (_told(asked.facts) @ self._weights)[:, None] + torch.cat(remains)


def _told(facts: Facts) -> Tensor:
    """(V, F) float32: facts as numbers."""
    named = [F.one_hot(facts.named[:, column], values) for column, values in enumerate(COLUMNS)]
    measures, cell, size = measured(facts.measured)
    pairs = [(named[one][:, :, None] * named[other][:, None]).flatten(1) for one, other in _CROSSED]
    posed = (named[SHAPE][:, :, None] * measures[:, None]).flatten(1)
    counted = torch.cat([*named, F.one_hot(cell, 9), F.one_hot(size, 3), *pairs], dim=1).float()
    return torch.cat([torch.ones(len(counted), 1), counted, measures, posed], dim=1)
