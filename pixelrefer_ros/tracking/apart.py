# SPDX-License-Identifier: Apache-2.0
"""Different objects are not in one place: who keeps the pixels that several claim.

SAM 2 follows each object by itself. One that is about to be hidden beside another is easily taken for that
other one, and stays it. Where that other one is followed, too, the mistake shows: two masks in one place.
"""

from __future__ import annotations

import torch
from torch import Tensor

NOT_THERE = -10.0
"""Logit of a pixel that another object keeps (SAM 2's value), and of the presence of one that is taken."""
_LEAST_KEPT = 0.3  # of a mask; with less left, it is another object that was found
_HELD = 1e4  # logits: who held a pixel before keeps it, however loudly others claim it


def keep_apart(logits: Tensor, held: Tensor, together: Tensor) -> tuple[Tensor, Tensor]:
    """Gives each pixel to one object.

    Whoever held it in the frame before keeps it; of several such, or of none, the one that is surest.

    Args:
        logits: (N, h, w) masks of N objects in a frame.
        held: (N, h, w) bool, the pixels of each object's mask in the frame before.
        together: (N, N) bool, symmetric: pairs that may overlap, since they did when they were pointed at.

    Returns:
        The logits, `NOT_THERE` where a pixel is another object's; and (N,) bool, which objects have so little
        left that what they found is another object: they have no pixel, and leave theirs to the others.
    """
    claimed = logits > 0
    strength = (logits + _HELD * held).masked_fill(~claimed, -torch.inf)
    apart = ~(together | torch.eye(len(logits), dtype=torch.bool, device=logits.device))
    kept = _kept(strength, apart)
    taken = (kept & claimed).sum(dim=(1, 2)) < _LEAST_KEPT * claimed.sum(dim=(1, 2))
    kept = _kept(strength.masked_fill(taken[:, None, None], -torch.inf), apart) & ~taken[:, None, None]
    return torch.where(claimed & ~kept, logits.new_tensor(NOT_THERE), logits), taken


def _kept(strength: Tensor, apart: Tensor) -> Tensor:
    """(N, h, w) bool: nobody that has to be apart is stronger there; of equals, the first."""
    kept = []
    for number, (own, others) in enumerate(zip(strength, apart, strict=True)):
        before, after = others[:number], others[number + 1 :]
        stronger = own > strength[:number][before].amax(dim=0) if before.any() else own.isfinite()
        if after.any():
            stronger = stronger & (own >= strength[number + 1 :][after].amax(dim=0))
        kept.append(stronger)
    return torch.stack(kept)


def overlap(one: Tensor, other: Tensor) -> float:
    """The share of the smaller of two masks (h, w) of logits that is the other's, too; 0 if one is empty."""
    first, second = one > 0, other > 0
    smaller = min(int(first.sum()), int(second.sum()))
    return int((first & second).sum()) / smaller if smaller else 0.0
