# SPDX-License-Identifier: Apache-2.0
"""The bank of questions: what is still answered wrongly is asked more often, and nothing is mixed up."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from pixelrefer_ros.training.checkpoints import new_network
from pixelrefer_ros.training.question_bank import QuestionBank
from pixelrefer_ros.training.reading import NewQuestions, ReadingBatches
from pixelrefer_ros.training.world import OFFERED, SHAPES
from pixelrefer_ros.training.world.vocabulary import ROUND_SHAPES


@pytest.fixture(scope="module")
def network(micro_folder):
    return new_network(micro_folder, seed=0)


@pytest.fixture(scope="module")
def batch(micro_folder, network):
    return ReadingBatches(micro_folder, network.config, seed=2, scenes=(2, 1))[0]


def asked(bank: QuestionBank, rounds: int = 40) -> Counter[str]:
    return Counter(kind for n in range(rounds) for kind in bank.draw(np.random.default_rng(n), 400).kinds)


def test_a_drawn_question_keeps_its_words_its_facts_and_its_times(batch, network):
    bank = QuestionBank()
    bank.add(batch)
    assert len(bank) == len(batch.kinds)
    given = {}
    first = 0
    for place, runs in enumerate(batch.runs):
        length = int(batch.rows.length[place])
        own = batch.views[first : first + runs]
        given[tuple(batch.rows.ids[place, :length].tolist())] = (
            batch.kinds[place],
            batch.facts[own].named,
            batch.times[first : first + runs],
        )
        first += runs
    drawn = bank.draw(np.random.default_rng(0), 2000)
    assert drawn.rows.length.sum() >= 2000
    assert int((drawn.rows.ids == network.config.region_token_id).sum()) == len(drawn.views) * (
        network.config.mask_num
    )
    first = 0
    for place, runs in enumerate(drawn.runs):
        ids = tuple(drawn.rows.ids[place, : int(drawn.rows.length[place])].tolist())
        kind, named, times = given[ids]
        own = drawn.views[first : first + runs]
        assert drawn.kinds[place] == kind
        assert torch.equal(drawn.facts[own].named, named)
        assert torch.equal(drawn.times[first : first + runs], times)
        first += runs


def test_objects_are_turned_each_alike_in_all_of_its_frames_and_nothing_else_changes(batch):
    bank = QuestionBank()
    bank.add(batch)
    drawn = bank.draw(np.random.default_rng(0), 3000)
    turned = drawn.turned(np.random.default_rng(1))
    assert turned.rows is drawn.rows and torch.equal(turned.facts.named, drawn.facts.named)
    assert torch.equal(turned.facts.measured[:, :-1], drawn.facts.measured[:, :-1])
    by = turned.facts.measured[:, -1] - drawn.facts.measured[:, -1]
    round_ones = torch.tensor([shape in ROUND_SHAPES for shape in SHAPES])[drawn.facts.named[:, 0]]
    assert not by[round_ones].any(), "a round shape has no angle"
    starts = [*(drawn.times == 0).nonzero().flatten().tolist(), len(drawn.times)]
    of_objects = [by[first:last] for first, last in pairwise(starts)]
    # float32 of angles up to some twenty
    assert all(torch.allclose(angles, angles[:1], atol=1e-5) for angles in of_objects)
    moved = [float(angles[0]) for angles in of_objects if angles.any()]
    assert len({round(angle, 3) for angle in moved}) == len(moved) > 5


def test_a_bank_keeps_the_newest_of_a_kind_or_all(batch):
    few, every = QuestionBank(kept=2), QuestionBank(kept=None)
    for bank in (few, every):
        for _ in range(3):
            bank.add(batch)
    assert len(every) == 3 * len(batch.kinds)
    assert len(few) == sum(min(2, 3 * count) for count in Counter(batch.kinds).values())
    kind, newest = next((k, p) for p, k in reversed(list(enumerate(batch.kinds))))
    length = int(batch.rows.length[newest])
    drawn = few.draw(np.random.default_rng(0), 20_000)  # each of its kind comes up
    of_kind = [
        row[: int(n)].tolist()
        for row, n, k in zip(drawn.rows.ids, drawn.rows.length, drawn.kinds, strict=True)
        if k == kind
    ]
    assert batch.rows.ids[newest, :length].tolist() in of_kind


def test_what_is_answered_wrongly_is_asked_more_often(batch):
    bank = QuestionBank()
    bank.add(batch)
    kind, other = (name for name, _ in Counter(batch.kinds).most_common(2))
    before = asked(bank)
    for name in OFFERED:
        if name != kind:
            right = torch.zeros(200, dtype=torch.long)
            bank.answered([name] * 200, right, right + 3)
    after = asked(bank)
    assert after[kind] > 2 * before[kind]
    assert 0 < after[other] < before[other], "what is known is asked now and then"


def test_how_wrong_kinds_are_goes_on_with_a_stopped_run():
    bank, again = QuestionBank(), QuestionBank()
    bank.answered(["color"] * 30, torch.zeros(30), torch.ones(30))
    again.load_state_dict(bank.state_dict())
    assert torch.equal(again.wrong, bank.wrong)
    assert float(bank.wrong[list(OFFERED).index("color")]) < 0.5 < float(bank.wrong[-1])


def test_a_stopped_run_goes_on_with_the_questions_whose_turn_it_is(batch):
    of_one_kind = replace(batch, kinds=["color"] * len(batch.kinds))
    whole, stopped, resumed = (QuestionBank(kept=None) for _ in range(3))
    for bank in (whole, stopped, resumed):
        bank.add(of_one_kind)
    first, second = (whole.draw(np.random.default_rng(0), 500) for _ in range(2))
    stopped.draw(np.random.default_rng(0), 500)
    resumed.load_state_dict(stopped.state_dict())
    again = resumed.draw(np.random.default_rng(0), 500)
    assert again.rows.ids.tolist() == second.rows.ids.tolist() != first.rows.ids.tolist()


def test_a_state_of_before_turns_were_kept_is_taken_up():
    old, bank = QuestionBank(), QuestionBank()
    old.answered(["color"] * 30, torch.zeros(30), torch.ones(30))
    state = {name: value for name, value in old.state_dict().items() if name != "turns"}
    bank.load_state_dict(state)
    assert torch.equal(bank.wrong, old.wrong)
    assert not bank.turns.any()


def test_new_questions_join_every_few_steps(micro_folder, network):
    new = NewQuestions(ReadingBatches(micro_folder, network.config, seed=0, scenes=(1, 0)))
    assert [number for number in range(7) if new[number] is not None] == [0, 3, 6]
