# SPDX-License-Identifier: Apache-2.0
"""What the first layers of a new language model are taught by: each token of an object tells of one side.

All tokens of an object say the same: what it is, and who is on every side. What a question asks for is found
soonest if each token then stands for one thing. So after two layers the k-th token tells by linear readings,
the same ones for every token and left out of the checkpoint, who is on the k-th side. From answers alone, in
which a word on one side is asked for now and then, little of it was learned in as many steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelrefer_ros.training.object_facts import EMPTY, OWN, SIDES, UNCLEAR, WHO, Facts

_VALUES = len(WHO) + 3


class SideHeads(nn.Module):
    """Linear readings of the two words of who is on a side.

    With fewer tokens than sides a token tells of several, each by readings of its own.
    """

    def __init__(self, width: int, count: int) -> None:
        """Of a language model ``width`` wide, with ``count`` tokens of each object."""
        super().__init__()
        self._count = count
        self.norm = nn.RMSNorm(width)
        groups = -(-len(SIDES) // count)
        self.words = nn.ModuleList(nn.Linear(width, 2 * _VALUES) for _ in range(groups))

    def forward(self, early: Tensor, facts: Facts, shown: Tensor) -> tuple[Tensor, float]:
        """What they are taught by, a scalar, and the share of neighbours whose whole name is read rightly.

        Args:
            early: (P, n, D) hidden states of object tokens, see `AnswerLoss`.
            facts: of these P views.
            shown: (P,) bool, which of them count: no question about a video is about who is around.
        """
        truth = facts.named[:, OWN:].unflatten(1, (len(SIDES), 2)).to(early.device)
        normed = self.norm(early.float())
        told = [self.words[side // self._count](normed[:, side % self._count]) for side in range(len(SIDES))]
        said = torch.stack(told, dim=1).unflatten(2, (2, _VALUES))
        clear = (truth[:, :, 0] != UNCLEAR) & shown.to(early.device)[:, None]
        if not clear.any():
            return early.new_zeros(()), 0.0
        logits, wanted = said[clear], truth[clear]
        lost = F.cross_entropy(logits.flatten(0, 1), wanted.flatten()) * 2
        somebody = wanted[:, 0] != EMPTY
        right = (logits.argmax(dim=-1) == wanted).all(dim=1)[somebody]
        return lost, float(right.float().mean()) if len(right) else 0.0
