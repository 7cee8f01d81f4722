# SPDX-License-Identifier: Apache-2.0
"""What the last layers of a new language model are taught by: how an object differs from its first frame.

What moves, grows, turns or was hidden follows from comparing an object's frames and their times. An answer
says it in a word, after all frames, and little of it was learned from such words. So at each frame the hidden
states of the last two layers tell, by linear readings that are left out of the checkpoint, how far the object
has come, by how much it has grown and turned, and whether it was out of sight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelrefer_ros.training.signs import Facts
from pixelrefer_ros.training.world import GAP, NO_GAP

_SCALES = (0.1, 0.1, 0.25, 0.05, 0.05, 0.1, 0.5, 0.5)
"""What matters of each measure. Errors are multiples of it, and count squared up to one, linearly beyond:
most objects do not change at all, which would be the best guess everywhere if all counted linearly."""


@dataclass(frozen=True, eq=False, slots=True)
class Changes:
    """Of P views that stand in prompts, an object in a frame each.

    Attributes:
        measured: (P, 8) float32: how far the middle is from where it was in the object's first frame (x, y),
            as shares of the frame, and the logarithm of how many times as large it is; the same three since
            the frame before; by how much it turned since then, radians (see `Facts`); the time since then, s.
        gap: (P,) float32, 1 where one of its frames so far is much later than the one before, 0 where none
            is; elsewhere -1: that is unclear, or there are fewer than three frames.
        later: (P,) bool, whether it is not the first.
    """

    measured: Tensor
    gap: Tensor
    later: Tensor

    @classmethod
    def of(cls, facts: Facts, times: Tensor) -> Changes:
        """Of views in reading order.

        Args:
            facts: of each.
            times: (P,) float32, s since the first view of the same object, which has 0.
        """
        later = times > 0
        before = torch.arange(len(times)) - later.long()
        first = torch.where(later, 0, torch.arange(len(times))).cummax(dim=0).values
        x, y, size, _, angle = facts.measured.unbind(dim=1)
        placed = torch.stack([x, y, size.log()], dim=1)
        step, turn = times - times[before], angle - angle[before]
        measured = torch.cat(
            [
                placed - placed[first],
                placed - placed[before],
                torch.atan2(turn.sin(), turn.cos()).abs()[:, None],
                step[:, None],
            ],
            dim=1,
        )
        gap = [_gap(step[int(begin) + 1 : place + 1]) for place, begin in enumerate(first)]
        return cls(measured, torch.tensor(gap), later)


class ChangeHeads(nn.Module):
    """Linear readings of the hidden states after each of the last two layers."""

    def __init__(self, width: int) -> None:
        """Of a language model ``width`` wide."""
        super().__init__()
        self.layers = nn.ModuleList(_LayerHeads(width) for _ in range(2))

    def forward(self, late: Tensor, changes: Changes) -> Tensor:
        """What they are taught by, a scalar; 0 of single pictures.

        Args:
            late: (2, P, D), see `AnswerLoss`.
            changes: of these P views.
        """
        losses = [heads(hidden, changes) for heads, hidden in zip(self.layers, late, strict=True)]
        return torch.stack(losses).mean()


class _LayerHeads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.measured = nn.Linear(width, len(_SCALES))
        self.gap = nn.Linear(width, 1)

    def forward(self, hidden: Tensor, changes: Changes) -> Tensor:
        device, later = hidden.device, changes.later.to(hidden.device)
        if not later.any():
            return hidden.new_zeros(())
        normed = self.norm(hidden.float())[later]
        scale = normed.new_tensor(_SCALES)
        wanted = changes.measured.to(device)[later] / scale
        gap = changes.gap.to(device)[later]
        logits = self.gap(normed)[:, 0][gap >= 0]
        loss: Tensor = F.smooth_l1_loss(self.measured(normed), wanted, reduction="none").mean(dim=0).sum()
        if len(logits):
            loss = loss + F.binary_cross_entropy_with_logits(logits, gap[gap >= 0])
        return loss


def _gap(steps: Tensor) -> float:
    if len(steps) < 2:
        return -1.0
    longest, usual = float(steps.max()), float(steps.quantile(0.5))
    return 1.0 if longest >= GAP * usual else 0.0 if longest <= NO_GAP * usual else -1.0
