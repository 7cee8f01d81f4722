# SPDX-License-Identifier: Apache-2.0
"""Batches that are drawn once and shown several times."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from pixelrefer_ros.training import stage_data
from pixelrefer_ros.training.data import repeated
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.stages import PERCEPTION

PLAN = [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 4, 4]
"""Of 14 steps, two batches at once and each three times: the last one only as often as there are steps."""


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


@pytest.mark.parametrize("begin", [0, 1, 5, 6, 7, 13])
def test_no_more_batches_than_that_are_kept_however_long_a_run_is(begin):
    batches = Drawn()
    shown = [int(batch) for batch in repeated(batches, range(begin, 14), shown=3, workers=0, kept=2)]
    assert shown == PLAN[begin:], "two are due again at any time"
    assert sorted(batches.drawn) == sorted(set(shown)), "each is drawn once"


def test_of_a_long_stage_at_most_a_hundred_batches_are_in_memory(monkeypatch):
    monkeypatch.setattr(stage_data, "WorldBatches", lambda *_, **__: Drawn())
    settings = LanguageSettings(workers=0, validate_every=0)
    data = stage_data.world_data(SimpleNamespace(config=None), Path(), PERCEPTION, settings, place=0)
    shown = [int(batch) for batch in data.batches(range(1000))]
    assert set(Counter(shown).values()) == {3, 2}
    spans = [(shown.index(number), 999 - shown[::-1].index(number)) for number in set(shown)]
    assert max(sum(first <= step <= last for first, last in spans) for step in range(1000)) == 100


def test_shown_once_nothing_is_repeated():
    batches = Drawn()
    assert [int(batch) for batch in repeated(batches, range(4), shown=1, workers=0)] == [0, 1, 2, 3]
    assert batches.drawn == [0, 1, 2, 3]


def test_batches_of_another_process_are_copied_and_hold_no_file_open():
    """Each tensor that comes from a worker is a shared file; thousands are kept."""
    shown = list(repeated(Drawn(), range(4), shown=2, workers=1))
    assert [int(batch) for batch in shown] == [0, 1, 0, 1]
    assert not any(batch.is_shared() for batch in shown)
