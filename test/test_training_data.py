# SPDX-License-Identifier: Apache-2.0
"""Batches that are drawn once and shown several times."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

from pixelrefer_ros.training.data import repeated


class Drawn(Dataset[torch.Tensor]):
    """Notes what is drawn."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def __getitem__(self, number: int) -> torch.Tensor:
        self.drawn.append(number)
        return torch.tensor([number])


@pytest.mark.parametrize("begin", [0, 1, 3, 5])
def test_each_batch_is_drawn_once_and_shown_in_the_same_order_wherever_a_run_goes_on(begin):
    batches = Drawn()
    shown = [int(batch) for batch in repeated(batches, range(begin, 7), shown=3, workers=0)]
    assert shown == [0, 1, 2, 0, 1, 2, 0][begin:]
    assert sorted(batches.drawn) == sorted(set(shown))


def test_shown_once_nothing_is_repeated():
    batches = Drawn()
    assert [int(batch) for batch in repeated(batches, range(4), shown=1, workers=0)] == [0, 1, 2, 3]
    assert batches.drawn == [0, 1, 2, 3]


def test_batches_of_another_process_are_copied_and_hold_no_file_open():
    """Each tensor that comes from a worker is a shared file; thousands are kept."""
    shown = list(repeated(Drawn(), range(4), shown=2, workers=1))
    assert [int(batch) for batch in shown] == [0, 1, 0, 1]
    assert not any(batch.is_shared() for batch in shown)
