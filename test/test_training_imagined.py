# SPDX-License-Identifier: Apache-2.0
"""Views of which no picture was drawn: they say what the facts say, and sound like views that were seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_language import MICRO

from pixelrefer_ros.training.asked import Asked
from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network
from pixelrefer_ros.training.imagined import Imagination
from pixelrefer_ros.training.question_bank import QuestionBank
from pixelrefer_ros.training.reading import ReadingBatches
from pixelrefer_ros.training.signs import Signs

WIDTH, TOKENS = 24, 4


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    new_checkpoint(folder, MICRO, seed=0)
    config = new_network(folder, seed=0).config
    return ReadingBatches(folder, config, seed=4, scenes=(6, 3))


@pytest.fixture(scope="module")
def many(batches) -> list[Asked]:
    return [batches[number] for number in range(20)]


def seen(batch: Asked, signs: Signs, noise: float) -> Asked:
    """As if pictures had been seen: what is true, linearly, and of each view some noise."""
    with torch.no_grad():
        said = signs.meaning(batch.facts)
    remains = noise * torch.randn(len(said), TOKENS, WIDTH)
    return replace(batch, fused=(said[:, None] + remains).half())


def drawn(batch: Asked) -> Asked:
    bank = QuestionBank()
    bank.add(batch)
    return bank.draw(np.random.default_rng(0), 2000)


def test_what_is_imagined_says_the_facts_and_is_as_noisy_as_what_was_seen(batches, many):
    torch.manual_seed(0)
    signs = Signs(WIDTH, TOKENS)
    imagination = Imagination([seen(batch, signs, 0.5) for batch in many])
    asked = drawn(batches[100])
    imagined = imagination(asked, np.random.default_rng(0))
    with torch.no_grad():
        meant = signs.meaning(asked.facts)
    assert imagined.shape == (len(asked.views), TOKENS, WIDTH)
    off = imagined.mean(dim=1) - meant
    # Four tokens of deviation 0.5 have a mean of deviation 0.25; the rest is what regression does not find.
    assert float(off.square().sum() / (meant - meant.mean(dim=0)).square().sum()) < 0.3
    within = imagined - imagined.mean(dim=1, keepdim=True)
    # A deviation of 0.5 about the mean of four is 0.5 sqrt(3 / 4) = 0.43.
    assert 0.38 < float(within.square().mean().sqrt()) < 0.48


def runs_of(batch: Asked) -> list[tuple[int, int, bool]]:
    """First and last run of each question, and whether it is about a video."""
    ends = np.cumsum(batch.runs)
    starts = ends - batch.runs
    return [(int(a), int(b), bool(batch.times[a:b].any())) for a, b in zip(starts, ends, strict=True)]


def test_what_remains_of_a_video_stays_together(batches, many):
    torch.manual_seed(0)
    signs = Signs(WIDTH, TOKENS)
    watched = []
    for questions in many:
        batch = seen(questions, signs, 0.0)
        for first, last, filmed in runs_of(batch):  # of every video something of its own
            if filmed:
                batch.fused[sorted(set(batch.views[first:last]))] += torch.randn(WIDTH).half()
        watched.append(batch)
    asked = drawn(batches[100])
    with torch.no_grad():
        off = Imagination(watched)(asked, np.random.default_rng(1)).mean(dim=1) - signs.meaning(asked.facts)
    videos = [off[first:last] for first, last, filmed in runs_of(asked) if filmed]
    within = torch.cat([video - video.mean(dim=0) for video in videos]).square().mean()
    between = torch.stack([video.mean(dim=0) for video in videos]).var(dim=0).mean()
    assert float(within) < 0.5 * float(between)


def test_questions_of_both_kinds_are_one_batch(batches):
    signs = Signs(WIDTH, TOKENS)
    one, other = (drawn(seen(batches[number], signs, 0.1)) for number in (0, 1))
    both = Asked.joined([one, other])
    assert both.kinds == one.kinds + other.kinds
    assert both.fused is not None
    assert len(both.fused) == len(both.facts.named) == len(one.fused) + len(other.fused)
    assert both.views[len(one.views)] == len(one.facts.named)
    rows, count = both.rows, len(one.kinds)
    for of, start in ((one.rows, 0), (other.rows, count)):
        for row, length in enumerate(of.length.tolist()):
            assert torch.equal(rows.ids[start + row, :length], of.ids[row, :length])
            assert torch.equal(rows.labels[start + row, :length], of.labels[row, :length])
    assert Asked.joined([one, replace(other, fused=None)]).fused is None
