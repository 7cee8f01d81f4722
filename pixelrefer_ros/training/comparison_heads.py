# SPDX-License-Identifier: Apache-2.0
"""What a new language model is taught by beside answers: how objects, and frames of an object, differ.

Which of two is larger, what moves, grows or turns, and what was hidden follows from comparing them. An answer
says it in a word after all of them, and from such words little of it is learned. So the last token of an
object tells how it differs from the prompt's first object or its own first frame, and from the one before, by
linear readings of the third layer, which are left out of the checkpoint.

Whether it turned takes more. A change of an angle is no difference of what tokens say: it takes the sine and
cosine of both frames, and their products. Read by its size alone it was not found in thousands of steps; with
the one before's own angle beside it (`Comparisons.turning`), which has to be carried over first, it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelrefer_ros.training.object_facts import OWN, Facts
from pixelrefer_ros.training.runs import Runs
from pixelrefer_ros.training.world import GAP, NO_GAP, SHAPES, TURNS

_SCALES = (0.1, 0.1, 0.25, 0.1, 0.1, 0.25, 0.3)
"""What matters of each measure: errors are multiples of it."""
_ENDS = 6
_TURNING = 6
_MOTIONS = 8
_SHIFT = (0.09, 0.12)  # shares of the frame, across and down, that count as moved
_GROWTH = math.log(1.3)
_TURN = 0.7  # rad
_STILL = 0.4  # of what counts: less is none; in between it is not asked
_OF_MOTION = 0.7
_OF_TURNING = 3.0  # products of what two frames say are the last to be learned


@dataclass(frozen=True, eq=False, slots=True)
class Comparisons:
    """What is true of P runs; see `Runs`.

    Attributes:
        measured: (P, 7) float32: middle (x, y) and logarithm of the diameter less those of the first one,
            the same less those of the one before, and by how much it turned since then, rad.
        same: (P, 6) float32, 1 where shape, colour, surface are those of the first one, of the one before.
        ends: (P, 6) float32, 1 where none of the prompt's objects so far is further left, further right,
            higher, lower, larger, smaller.
        motion: (P,) int64: still, left, right, up, down, growing, shrinking, rotating; -1 if unclear.
        gap: (P,) float32, 1 where one of its frames so far is much later than the one before, 0 where none
            is; -1: that is unclear, or there are fewer than three.
        turning: (P, 6) float32: sine and cosine of the angle in the frame before, and of twice that angle;
            cosine and sine of the angle since then. All as of `Facts.measured`.
    """

    measured: Tensor
    same: Tensor
    ends: Tensor
    motion: Tensor
    gap: Tensor
    turning: Tensor

    @classmethod
    def of(cls, facts: Facts, runs: Runs) -> Comparisons:
        """Of what is true of each run's view."""
        x, y, diameter, _, angle = facts.measured.unbind(dim=1)
        placed = torch.stack([x, y, diameter.log()], dim=1)
        since, step = placed - placed[runs.first], placed - placed[runs.before]
        before = angle[runs.before]
        change = angle - before
        times = torch.tensor([max(1, TURNS[shape]) for shape in SHAPES])[facts.named[:, 0]]
        turned = torch.atan2(change.sin(), change.cos()).abs() / times
        twice = 2 * before
        turning = [before.sin(), before.cos(), twice.sin(), twice.cos(), change.cos(), change.sin()]
        own = facts.named[:, :OWN]
        towards = torch.stack([-x, x, -y, y, placed[:, 2], -placed[:, 2]], dim=1)
        ends = [
            (towards[place] >= towards[first : place + 1].max(dim=0).values).float()
            for place, first in enumerate(runs.first.tolist())
        ]
        gaps = [_gap(runs.times[first : place + 1].diff()) for place, first in enumerate(runs.first.tolist())]
        return cls(
            measured=torch.cat([since, step, turned[:, None]], dim=1),
            same=torch.cat([own == own[runs.first], own == own[runs.before]], dim=1).float(),
            ends=torch.stack(ends),
            motion=_motion(since, turned, runs),
            gap=torch.where(runs.filmed, torch.tensor(gaps), -1.0),
            turning=torch.stack(turning, dim=1),
        )


class ComparisonHeads(nn.Module):
    """Linear readings of hidden states."""

    def __init__(self, width: int) -> None:
        """Of a language model ``width`` wide."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.measured = nn.Linear(width, len(_SCALES))
        self.same = nn.Linear(width, 2 * OWN)
        self.gap = nn.Linear(width, 1)
        self.ends = nn.Linear(width, _ENDS)
        self.motion = nn.Linear(width, _MOTIONS)
        self.turning = nn.Linear(width, _TURNING)

    def forward(self, late: Tensor, facts: Facts, runs: Runs) -> Tensor:
        """What they are taught by, a scalar; 0 where nothing is compared.

        Args:
            late: (P, D), see `AnswerLoss`.
            facts: of these P views.
            runs: of them.
        """
        later = runs.later
        lost = late.new_zeros(())
        if not later.any():
            return lost
        true = Comparisons.of(facts, runs)
        normed = self.norm(late.float())

        def chosen(head: nn.Linear, truth: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            return head(normed[which.to(late.device)]), truth[which].to(late.device)

        said, wanted = chosen(self.measured, true.measured, later)
        errors = F.huber_loss(said, wanted / wanted.new_tensor(_SCALES), reduction="none")
        counted = torch.ones_like(errors)
        counted[:, -1] = runs.filmed[later].to(errors)  # only what is filmed turns
        lost = lost + (errors * counted).sum() / counted.sum()
        several = later & ~runs.filmed
        if several.any():
            lost = lost + F.binary_cross_entropy_with_logits(*chosen(self.same, true.same, several))
            lost = lost + F.binary_cross_entropy_with_logits(*chosen(self.ends, true.ends, several))
        filmed = later & runs.filmed
        if filmed.any():
            lost = lost + _OF_TURNING * F.mse_loss(*chosen(self.turning, true.turning, filmed))
        clear = later & (true.motion >= 0)
        if clear.any():
            lost = lost + _OF_MOTION * F.cross_entropy(*chosen(self.motion, true.motion, clear))
        clear = true.gap >= 0
        if clear.any():
            said, wanted = chosen(self.gap, true.gap, clear)
            lost = lost + F.binary_cross_entropy_with_logits(said[:, 0], wanted)
        return lost


def _motion(since: Tensor, turned: Tensor, runs: Runs) -> Tensor:
    """(P,): which change since the first frame is the largest by far, or that there is none."""
    total = turned.cumsum(dim=0)
    total = total - total[runs.first]
    across, down = since[:, 0] / _SHIFT[0], since[:, 1] / _SHIFT[1]
    grown = since[:, 2] / _GROWTH
    amounts = torch.stack([-across, across, -down, down, grown, -grown, total / _TURN], dim=1)
    most, which = amounts.max(dim=1)
    found = torch.where(most > 1, which + 1, torch.where(most < _STILL, 0, -1))
    return torch.where(runs.filmed, found, -1)


def _gap(steps: Tensor) -> float:
    if len(steps) < 2:
        return -1.0
    longest, usual = float(steps.max()), float(steps.quantile(0.5))
    return 1.0 if longest >= GAP * usual else 0.0 if longest <= NO_GAP * usual else -1.0
