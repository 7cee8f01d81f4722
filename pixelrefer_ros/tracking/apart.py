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
_STAYED = 0.1  # of a mask that is where it was before: no more, and the object has jumped
_GOES_ON, _HELD = 1e4, 1e3  # logits: worth more than however loudly others claim a pixel


def keep_apart(logits: Tensor, held: Tensor, together: Tensor) -> tuple[Tensor, Tensor]:
    """Gives each pixel to one object.

    One that is about where it was before goes before one that has jumped; of such, who held the pixel in the
    frame before keeps it; otherwise the one has it that is surest. (With camera frames left out, things move
    too far for single pixels to tell.)

    Args:
        logits: (N, h, w) masks of N objects in a frame.
        held: (N, h, w) bool, the pixels of each object's mask in the frame before.
        together: (N, N) bool, symmetric: pairs that may overlap, since they did when they were pointed at.

    Returns:
        The logits, `NOT_THERE` where a pixel is another object's; and (N,) bool, which objects have so little
        left that what they found is another object: they have no pixel, and leave theirs to the others.
    """
    claimed = logits > 0
    stayed = (claimed & held).sum(dim=(1, 2))
    goes_on = stayed > _STAYED * torch.minimum(claimed.sum(dim=(1, 2)), held.sum(dim=(1, 2)))
    strength = (logits + _HELD * held + _GOES_ON * goes_on[:, None, None]).masked_fill(~claimed, -torch.inf)
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


def overlap(one: Tensor, other: Tensor) -> float | None:
    """The share of the smaller of two masks (h, w) of logits that is the other's, too; None: one is empty."""
    first, second = one > 0, other > 0
    smaller = min(int(first.sum()), int(second.sum()))
    return int((first & second).sum()) / smaller if smaller else None
