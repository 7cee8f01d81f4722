# SPDX-License-Identifier: Apache-2.0
"""What the last layers of a new language model are taught by: how an object differs from its first frame."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from pixelrefer_ros.training.changes import ChangeHeads, Changes
from pixelrefer_ros.training.checkpoints import new_network
from pixelrefer_ros.training.curriculum import COMPARING, SCENE, Course, Part
from pixelrefer_ros.training.language_loss import embedded_loss, place_tokens
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.reading import ReadingBatches, teach_reading
from pixelrefer_ros.training.readings import SIGNS, Readings
from pixelrefer_ros.training.signs import COLUMNS, Facts, Signs

FILMED = Course("filmed", (Part(1, ("motion", "hidden_when", "larger", "timed"), SCENE),), rate=1.0, flat=0.0)


@pytest.fixture(scope="module")
def network(micro_folder):
    return new_network(micro_folder, seed=0)


@pytest.fixture(scope="module")
def batch(micro_folder, network):
    return ReadingBatches(micro_folder, network.config, seed=1, scenes=3, course=FILMED)[0]


def facts(*measured: tuple[float, ...]) -> Facts:
    return Facts(torch.zeros(len(measured), len(COLUMNS), dtype=torch.long), torch.tensor(measured))


def test_each_frame_is_compared_with_the_first_of_the_same_object_and_the_one_before():
    changes = Changes.of(
        facts(
            (0.2, 0.5, 0.1, 1.0, 0.0),
            (0.3, 0.5, 0.2, 1.0, math.pi / 2),
            (0.1, 0.6, 0.4, 0.5, math.pi / 2),
            (0.9, 0.9, 0.3, 1.0, 0.0),  # another object, of one picture
        ),
        torch.tensor([0.0, 0.4, 1.4, 0.0]),
    )
    nothing = [0.0] * 8
    wanted = torch.tensor(
        [
            nothing,
            [0.1, 0.0, math.log(2), 0.1, 0.0, math.log(2), math.pi / 2, 0.4],
            [-0.1, 0.1, math.log(4), -0.2, 0.1, math.log(2), 0.0, 1.0],
            nothing,
        ]
    )
    torch.testing.assert_close(changes.measured, wanted, atol=1e-6, rtol=0)  # float32 of numbers near 1
    assert changes.later.tolist() == [False, True, True, False]


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
    assert Changes.of(still, torch.tensor(times)).gap.tolist() == gaps


def test_of_single_pictures_nothing_is_taught(network):
    changes = Changes.of(facts((0.5, 0.5, 0.2, 1.0, 0.0), (0.1, 0.5, 0.2, 1.0, 0.0)), torch.zeros(2))
    assert float(ChangeHeads(8)(torch.randn(2, 2, 8), changes)) == 0.0


def test_times_start_anew_with_every_object_and_follow_its_frames(batch):
    """Those of the prompts: the first of each object is 0, and then they rise."""
    assert len(batch.times) == len(batch.views)
    runs = [run.tolist() for run in batch.times.split(_lengths(batch.times))]
    assert all(run[0] == 0 and run == sorted(set(run)) for run in runs)
    regions = sum(kind == "larger" for kind in batch.kinds) * 2 + sum(
        kind != "larger" for kind in batch.kinds
    )
    assert len(runs) == regions


def _lengths(times: torch.Tensor) -> list[int]:
    starts = [*(times == 0).nonzero().flatten().tolist(), len(times)]
    return [after - before for before, after in pairwise(starts)]


def test_late_states_are_what_the_language_model_has_at_the_end_of_each_view(batch, network):
    width = network.config.language.hidden_size
    signs = Signs(width, network.config.mask_num)
    with torch.no_grad():
        embeddings = place_tokens(network, batch.rows.ids, signs(batch.facts)[batch.views])
        found = embedded_loss(network, embeddings, batch.rows).late
        hidden = network.language.model(inputs_embeds=embeddings, output_hidden_states=True).hidden_states
        places = (batch.rows.ids == network.config.region_token_id).nonzero()
        rows, columns = places[network.config.mask_num - 1 :: network.config.mask_num].unbind(dim=1)
    # float32 sums of other lengths of padding
    wanted = torch.stack([layer[rows, columns] for layer in hidden[-2:]])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_readings_of_the_measures_themselves_learn_them():
    torch.manual_seed(0)
    count = 400
    measured = torch.rand(count, 5) * torch.tensor([1.0, 1.0, 0.2, 0.0, 6.0]) + 0.1
    times = torch.tensor([0.0, 0.3, 0.6, 1.0] * (count // 4))
    changes = Changes.of(Facts(torch.zeros(count, 1, dtype=torch.long), measured), times)
    heads = ChangeHeads(9)
    hidden = torch.cat([changes.measured, changes.gap[:, None]], dim=1)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        loss = heads(hidden.expand(2, -1, -1), changes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_the_course_of_comparing_learns_from_changes_and_from_no_answer(micro_folder, tmp_path):
    network = new_network(micro_folder, seed=0)
    before = {name: value.clone() for name, value in network.language.state_dict().items()}
    settings = LanguageSettings(
        comparing_steps=2, reading_scenes=1, workers=0, validate_every=0, log_every=1
    )
    assert teach_reading(network, micro_folder, tmp_path, settings, COMPARING, 2)
    moved = {
        name for name, value in network.language.state_dict().items() if not torch.equal(before[name], value)
    }
    assert any("layers.0.self_attn" in name for name in moved)
    log = (tmp_path / "log.csv").read_text().splitlines()
    columns = dict(zip(log[0].split(","), log[-1].split(","), strict=True))
    assert float(columns["loss"]) == pytest.approx(float(columns["changes"]), abs=1e-4)
    new, left = Readings.new(network, seed=0).signs.state_dict(), load_file(tmp_path / SIGNS)
    assert all(torch.equal(new[name], value) for name, value in left.items()), "object tokens may aim at them"
