# SPDX-License-Identifier: Apache-2.0
"""The objects of prompts in reading order, and what each is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Runs:
    """P runs of ``<REGION>`` tokens: an object in a frame each.

    Attributes:
        first: (P,) the run that each is compared with: of a video the object's first frame, of a picture the
            prompt's first object.
        before: (P,) the run before it in the same prompt; itself where it is the first.
        filmed: (P,) bool, of a prompt with several frames.
        times: (P,) float32, s since the first frame of the same object in the prompt.
    """

    first: Tensor
    before: Tensor
    filmed: Tensor
    times: Tensor

    @classmethod
    def of(cls, rows: Tensor, times: Tensor) -> Runs:
        """Of runs in reading order.

        Args:
            rows: (P,) the prompt of each, in order.
            times: (P,), see the class.
        """
        places = torch.arange(len(rows))
        begins = torch.ones(len(rows), dtype=torch.bool)
        begins[1:] = rows[1:] != rows[:-1]
        filmed = torch.isin(rows, rows[times > 0])
        starts = begins | (filmed & (times == 0))
        return cls(
            first=torch.where(starts, places, 0).cummax(dim=0).values,
            before=torch.where(begins, places, places - 1),
            filmed=filmed,
            times=times,
        )

    @property
    def later(self) -> Tensor:
        """(P,) bool: whether there is something to compare it with."""
        return self.first != torch.arange(len(self.first))
