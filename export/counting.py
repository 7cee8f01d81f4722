# SPDX-License-Identifier: Apache-2.0
"""Running sums, without ONNX ``CumSum``.

TensorRT's support matrix has ``CumSum`` for floating point numbers only. Before 10.8 it is a loop of one trip
for each element; since then several of one graph may be confused (github.com/onnx/onnx-tensorrt/issues/1034).
What is used here instead is in the matrix, with the element types it has here.
"""

from __future__ import annotations

import torch

BLOCK = 64
"""Elements that are counted in one product."""


def running_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of the values up to each, itself included.

    Every value is compared with every other: for up to a hundred.

    Args:
        values: (N,), whole numbers or floating point ones.

    Returns:
        (N,), of the same dtype.
    """
    place = torch.arange(values.shape[0], dtype=torch.long, device=values.device)
    return torch.where(place[:, None] >= place, values[None], 0).sum(dim=1)


def running_count(chosen: torch.Tensor) -> torch.Tensor:
    """How many are chosen up to each, itself included; for thousands.

    They are counted in blocks, by products of float32 numbers, which are exact for whole ones below 2^24.

    Args:
        chosen: (N,) bool.

    Returns:
        (N,) int64.
    """
    count = chosen.shape[0]
    place = torch.arange(BLOCK, dtype=torch.long, device=chosen.device)
    # One block more than there are: torch takes a size that may be 1 for a fixed one.
    starts = torch.arange(count + BLOCK, dtype=torch.long, device=chosen.device)[::BLOCK]
    slots = starts[:, None] + place
    # Slots beyond the last element read the first one, which does not count there.
    inside = slots < count
    blocks = chosen.index_select(0, torch.where(inside, slots, 0).flatten()).unflatten(0, (-1, BLOCK))
    within = (blocks & inside).float() @ (place[:, None] <= place).float()
    totals = within[:, -1]
    before = running_sum(totals) - totals
    counts = (within + before[:, None]).flatten()
    return counts.index_select(0, torch.arange(count, dtype=torch.long, device=chosen.device)).long()
