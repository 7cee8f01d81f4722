# SPDX-License-Identifier: Apache-2.0
"""What a new language model is taught by beside answers: who is on each side, and how objects differ."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from pixelrefer_ros.training.checkpoints import new_network
from pixelrefer_ros.training.comparison_heads import ComparisonHeads, Comparisons
from pixelrefer_ros.training.language_loss import embedded_loss, place_tokens
from pixelrefer_ros.training.language_pass import Packed
from pixelrefer_ros.training.object_facts import COLUMNS, EMPTY, OWN, SIDES, UNCLEAR, Facts
from pixelrefer_ros.training.reading import ReadingBatches
from pixelrefer_ros.training.runs import Runs
from pixelrefer_ros.training.side_heads import SideHeads
from pixelrefer_ros.training.signs import Signs
from pixelrefer_ros.training.world import MOTIONS, SHAPES

STAR = SHAPES.index("star")  # looks the same after a fifth of a turn


@pytest.fixture(scope="module")
def network(micro_folder):
    return new_network(micro_folder, seed=0)


@pytest.fixture(scope="module")
def batch(micro_folder, network):
    return ReadingBatches(micro_folder, network.config, seed=1, scenes=(1, 1))[0]


def facts(*measured: tuple[float, ...], own: list[list[int]] | None = None) -> Facts:
    named = torch.zeros(len(measured), len(COLUMNS), dtype=torch.long)
    if own is not None:
        named[:, :OWN] = torch.tensor(own)
    return Facts(named, torch.tensor(measured))


def runs(rows: list[int], times: list[float]) -> Runs:
    return Runs.of(torch.tensor(rows), torch.tensor(times))


def test_of_a_video_frames_are_compared_with_the_objects_first_and_of_a_picture_objects_with_the_first():
    found = runs([0, 0, 0, 1, 1, 1, 2], [0.0, 0.4, 0.8, 0.0, 0.0, 0.0, 0.0])
    assert found.first.tolist() == [0, 0, 0, 3, 3, 3, 6]
    assert found.before.tolist() == [0, 0, 1, 3, 3, 4, 6]
    assert found.filmed.tolist() == [True] * 3 + [False] * 4
    assert found.later.tolist() == [False, True, True, False, True, True, False]


def test_a_second_object_of_a_video_begins_anew():
    assert runs([0, 0, 0, 0], [0.0, 0.4, 0.0, 0.4]).first.tolist() == [0, 0, 2, 2]


def test_differences_are_from_the_first_and_from_the_one_before():
    true = Comparisons.of(
        facts(
            (0.2, 0.5, 0.1, 1.0, 0.0),
            (0.3, 0.5, 0.2, 1.0, math.pi / 2),
            (0.1, 0.6, 0.4, 0.5, math.pi / 2),
            own=[[STAR, 0, 0]] * 3,
        ),
        runs([0, 0, 0], [0.0, 0.4, 1.4]),
    )
    wanted = torch.tensor(
        [
            [0.0] * 7,
            [
                0.1,
                0.0,
                math.log(2),
                0.1,
                0.0,
                math.log(2),
                math.pi / 10,
            ],  # the star's angle counts five times
            [-0.1, 0.1, math.log(4), -0.2, 0.1, math.log(2), 0.0],
        ]
    )
    torch.testing.assert_close(true.measured, wanted, atol=1e-6, rtol=0)  # float32 of numbers near 1


def test_of_several_objects_it_is_known_what_they_share_and_who_is_furthest_so_far():
    true = Comparisons.of(
        facts(
            (0.2, 0.5, 0.1, 1.0, 0.0),
            (0.8, 0.4, 0.2, 1.0, 0.0),
            (0.5, 0.1, 0.3, 1.0, 0.0),
            own=[[1, 2, 3], [1, 5, 0], [4, 5, 3]],
        ),
        runs([0, 0, 0], [0.0, 0.0, 0.0]),
    )
    assert true.same[1].tolist() == [1, 0, 0, 1, 0, 0]
    assert true.same[2].tolist() == [0, 0, 1, 0, 1, 0]
    #                               left right high low large small
    assert true.ends[0].tolist() == [1, 1, 1, 1, 1, 1]
    assert true.ends[1].tolist() == [0, 1, 1, 0, 1, 0]
    assert true.ends[2].tolist() == [0, 0, 1, 0, 1, 0]
    assert (true.motion == -1).all(), "pictures do not move"


@pytest.mark.parametrize(
    ("last", "motion"),
    [
        ((0.5, 0.5, 0.2, 1.0, 0.0), "still"),
        ((0.3, 0.5, 0.2, 1.0, 0.0), "left"),
        ((0.7, 0.52, 0.2, 1.0, 0.0), "right"),
        ((0.5, 0.3, 0.2, 1.0, 0.0), "up"),
        ((0.5, 0.7, 0.2, 1.0, 0.0), "down"),
        ((0.5, 0.5, 0.3, 1.0, 0.0), "growing"),
        ((0.5, 0.5, 0.12, 1.0, 0.0), "shrinking"),
        ((0.5, 0.5, 0.2, 1.0, 1.5), "rotating"),
        ((0.44, 0.5, 0.2, 1.0, 0.0), None),  # too little to be called a motion, too much for none
    ],
)
def test_a_motion_is_the_one_large_change_since_the_first_frame(last, motion):
    true = Comparisons.of(facts((0.5, 0.5, 0.2, 1.0, 0.0), last), runs([0, 0], [0.0, 1.0]))
    assert true.motion[1] == (-1 if motion is None else MOTIONS.index(motion))


def test_turning_is_told_by_the_angle_before_and_the_angle_since():
    angles = (0.5, 1.3, 1.1)
    true = Comparisons.of(
        facts(*[(0.5, 0.5, 0.2, 1.0, angle) for angle in angles], own=[[STAR, 0, 0]] * 3),
        runs([0, 0, 0], [0.0, 0.4, 0.8]),
    )
    for place, (before, now) in enumerate(pairwise(angles), start=1):
        wanted = [math.sin(before), math.cos(before), math.sin(2 * before), math.cos(2 * before)]
        wanted += [math.cos(now - before), math.sin(now - before)]
        # float32 of numbers near 1
        assert true.turning[place].tolist() == pytest.approx(wanted, abs=1e-6)


def test_of_pictures_no_turning_is_told():
    heads = ComparisonHeads(8)
    pictures = facts((0.2, 0.5, 0.1, 1.0, 0.0), (0.8, 0.4, 0.2, 1.0, 2.0))
    heads(torch.randn(2, 8), pictures, runs([0, 0], [0.0, 0.0])).backward()
    assert heads.turning.weight.grad is None
    heads(torch.randn(2, 8), pictures, runs([0, 0], [0.0, 0.4])).backward()
    assert heads.turning.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("times", "gaps"),
    [
        ([0.0, 0.4, 0.8, 1.2], [-1, -1, 0, 0]),
        ([0.0, 0.4, 0.8, 2.2], [-1, -1, 0, 1]),
        ([0.0, 0.4, 0.8, 2.2, 2.6], [-1, -1, 0, 1, 1]),
        ([0.0, 0.4, 0.8, 1.5], [-1, -1, 0, -1]),  # 1.75 times the usual step: neither
        ([0.0, 1.4], [-1, -1]),  # with one step nothing is usual
    ],
)
def test_a_gap_is_known_once_a_step_is_much_longer_than_the_usual_one(times, gaps):
    still = facts(*[(0.5, 0.5, 0.2, 1.0, 0.0)] * len(times))
    assert Comparisons.of(still, runs([0] * len(times), times)).gap.tolist() == gaps


def test_of_one_object_in_one_picture_nothing_is_compared():
    heads = ComparisonHeads(8)
    alone = facts((0.5, 0.5, 0.2, 1.0, 0.0), (0.1, 0.5, 0.2, 1.0, 0.0))
    assert float(heads(torch.randn(2, 8), alone, runs([0, 1], [0.0, 0.0]))) == 0.0


def test_readings_of_the_truth_itself_learn_it():
    torch.manual_seed(0)
    count = 400
    measured = torch.rand(count, 5) * torch.tensor([1.0, 1.0, 0.2, 0.0, 6.0]) + 0.1
    rows, times = torch.arange(count) // 4, torch.tensor([0.0, 0.3, 0.6, 1.0] * (count // 8))
    shown = Runs.of(rows, torch.cat([times, torch.zeros(count // 2)]))
    own = torch.randint(0, 4, (count, OWN)).tolist()
    seen = facts(*[tuple(row) for row in measured.tolist()], own=own)
    true = Comparisons.of(seen, shown)
    motions = torch.nn.functional.one_hot(true.motion.clamp(min=0), len(MOTIONS)).float()
    told = (true.measured, true.same, true.ends, motions, true.gap[:, None], true.turning)
    hidden = torch.cat(told, dim=1)
    heads = ComparisonHeads(hidden.shape[1])
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        loss = heads(hidden, seen, shown)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("count", [1, 4, 8])
def test_each_token_tells_of_its_sides_and_only_of_what_is_clear(count):
    torch.manual_seed(0)
    width, views = 32, 60
    named = torch.randint(2, 22, (views, len(COLUMNS)))
    named[:, :OWN] = 0
    named[:20, OWN::2] = named[:20, OWN + 1 :: 2] = UNCLEAR
    named[20:30, OWN::2] = named[20:30, OWN + 1 :: 2] = EMPTY
    seen = Facts(named, torch.zeros(views, 5))
    heads = SideHeads(width, count)
    tokens = torch.nn.Parameter(torch.randn(views, count, width))
    nobody, share = heads(tokens, seen, torch.zeros(views, dtype=torch.bool))
    assert (float(nobody), share) == (0.0, 0.0)
    heads(tokens, seen, torch.ones(views, dtype=torch.bool))[0].backward()
    taught = tokens.grad.abs().sum(dim=2)
    assert not taught[:20].any(), "nobody can say who is there"
    assert taught[20:].any(dim=0).sum() == min(count, len(SIDES))
    optimizer = torch.optim.Adam([*heads.parameters(), tokens], lr=0.05)
    for _ in range(150):
        loss, share = heads(tokens, seen, torch.ones(views, dtype=torch.bool))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert share > 0.9


def test_times_start_anew_with_every_object_and_follow_its_frames(batch):
    """Those of the prompts: the first of each object is 0, and then they rise."""
    assert len(batch.times) == len(batch.views)
    starts = [*(batch.times == 0).nonzero().flatten().tolist(), len(batch.times)]
    of_objects = [batch.times[a:b].tolist() for a, b in pairwise(starts)]
    assert all(times[0] == 0 and times == sorted(set(times)) for times in of_objects)
    assert any(len(times) > 1 for times in of_objects)


def test_states_are_what_the_language_model_has_at_each_object(batch, network):
    count = network.config.mask_num
    signs = Signs(network.config.language.hidden_size, count)
    with torch.no_grad():
        embeddings = place_tokens(network, batch.rows, signs(batch.facts)[batch.views])
        found = embedded_loss(network, embeddings, batch.rows)
        packed = Packed.of(batch.rows)
        padded = torch.zeros(*batch.rows.ids.shape, embeddings.shape[1])
        padded[packed.rows, packed.columns] = embeddings
        hidden = network.language.model(inputs_embeds=padded, output_hidden_states=True).hidden_states
    rows, columns = (batch.rows.ids == network.config.region_token_id).nonzero().unbind(dim=1)
    assert torch.equal(found.rows_of_runs, rows[::count])
    early = hidden[min(2, len(hidden) - 1)][rows, columns].unflatten(0, (-1, count))
    # float32 sums of other lengths of padding
    torch.testing.assert_close(found.early, early, atol=1e-5, rtol=1e-4)
    late = hidden[-2][rows, columns].unflatten(0, (-1, count))[:, -1]
    torch.testing.assert_close(found.late, late, atol=1e-5, rtol=1e-4)
