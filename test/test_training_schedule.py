# SPDX-License-Identifier: Apache-2.0
"""Learning rates rise over 3 % of the steps, may stay, and fall with a cosine to zero."""

from __future__ import annotations

import csv

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from pixelrefer_ros.training.loop import LOG, Loop, Pace
from pixelrefer_ros.training.optimizers import parameter_groups

STEPS, HIGHEST = 200, 0.01


def rates(folder, *, flat: float, steps: int = STEPS, schedule: float = 1.0) -> list[float]:
    """As logged after each step."""
    module = torch.nn.Linear(1, 1)
    groups = parameter_groups({HIGHEST: [module]}, weight_decay=0.0)
    loop = Loop("any", module, groups, folder, Pace(steps, log_every=1, flat=flat, schedule=schedule))
    loop.run(range(steps), lambda _: {"loss": module(torch.ones(1, 1)).square().sum()})
    with (folder / LOG).open(newline="") as file:
        return [float(row["rate"]) for row in csv.DictReader(file)]


def test_without_a_flat_part_it_is_the_papers_cosine(tmp_path):
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=HIGHEST)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.03 * STEPS), STEPS)
    assert rates(tmp_path, flat=0.0) == pytest.approx(
        [HIGHEST * schedule.lr_lambdas[0](step + 1) for step in range(STEPS)]
    )


def test_a_flat_part_stays_at_the_highest_rate_and_ends_at_zero_too(tmp_path):
    found = rates(tmp_path, flat=0.6)
    assert found[5 : int(0.63 * STEPS)] == pytest.approx([HIGHEST] * (int(0.63 * STEPS) - 5))
    assert found[:6] == sorted(found[:6])
    falling = found[int(0.63 * STEPS) :]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == pytest.approx(0)


def test_a_stage_may_end_before_its_schedule_does(tmp_path):
    whole = rates(tmp_path / "whole", flat=0.6)
    cut = rates(tmp_path / "cut", flat=0.6, steps=160, schedule=STEPS / 160)
    assert cut == pytest.approx(whole[:160])
    assert 0.1 * HIGHEST < cut[-1] < 0.9 * HIGHEST
