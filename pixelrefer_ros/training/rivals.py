# SPDX-License-Identifier: Apache-2.0
"""Which shapes an object might have had: those that are trained on in its colour and surface.

Some combinations are never trained on. A model that names shapes against all others learns which they are
not: a red striped object is no star, whatever it looks like. So a shape is told apart only from shapes that
training shows in that very colour and surface; of the others nothing is learned there. That goes for the
vision encoder's readings, and for the language model's next word after a colour and a surface.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelrefer_ros.model import ChatTokenizer
from pixelrefer_ros.training.world import COLORS, SEEN, SHAPES, SURFACES

_COLORS = list(COLORS)
_RULED_OUT = -1e4


def _table() -> Tensor:
    """(colours, surfaces, shapes) float32: 0 where training has the combination."""
    table = torch.full((len(_COLORS), len(SURFACES), len(SHAPES)), _RULED_OUT)
    for it in SEEN:
        table[_COLORS.index(it.color), SURFACES.index(it.surface), SHAPES.index(it.shape)] = 0.0
    return table


_TABLE = _table()


def among_rivals(logits: Tensor, colors: Tensor, surfaces: Tensor) -> Tensor:
    """(V, shapes) logits of shapes, lowered to nothing where training has no such combination.

    Args:
        logits: (V, shapes).
        colors: (V,) int64, the true colours.
        surfaces: (V,) int64, likewise.
    """
    return logits + _TABLE.to(logits.device)[colors, surfaces]


class WordRivals:
    """The same of a language model's next word, where words are single tokens."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        """Finds the words' tokens."""
        shapes = torch.tensor([_token(tokenizer, word) for word in SHAPES])
        self._known = (shapes >= 0).nonzero().flatten()
        self._shapes = shapes[self._known]
        self._colors = {_token(tokenizer, word): place for place, word in enumerate(_COLORS)}
        self._surfaces = {_token(tokenizer, word): place for place, word in enumerate(SURFACES)}

    def __call__(self, logits: Tensor, wanted: Tensor, last: Tensor, before: Tensor) -> Tensor:
        """Logits, lowered where a shape follows a colour and a surface.

        Args:
            logits: (T, vocabulary) of the next word.
            wanted: (T,) int64, that word.
            last: (T,) the word before it.
            before: (T,) the word before that.
        """
        pairs = [
            (self._colors.get(color, -1), self._surfaces.get(surface, -1))
            for color, surface in zip(before.tolist(), last.tolist(), strict=True)
        ]
        colors, surfaces = torch.tensor(pairs).reshape(-1, 2).to(logits.device).unbind(dim=1)
        named = (colors >= 0) & (surfaces >= 0) & torch.isin(wanted, self._shapes.to(logits.device))
        rows = named.nonzero().flatten()
        lowered = torch.zeros(len(rows), logits.shape[1], device=logits.device, dtype=logits.dtype)
        lowered[:, self._shapes] = _TABLE.to(lowered)[colors[rows], surfaces[rows]][:, self._known]
        return logits.index_add(0, rows, lowered)


def _token(tokenizer: ChatTokenizer, word: str) -> int:
    """-1 where it is not one token."""
    ids = tokenizer.encode([(f" {word}", False)])
    return ids[0] if len(ids) == 1 else -1
