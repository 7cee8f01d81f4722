# SPDX-License-Identifier: Apache-2.0
"""What infusion sees before its first step: kept, so that a stopped run sees no scene a second time."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from micro_language import MICRO, SHORTEST
from safetensors.torch import load_file

from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.training import infusion
from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network
from pixelrefer_ros.training.infusion import teach_infusion
from pixelrefer_ros.training.infusion_views import ShownBatches
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import STATE, read_progress
from pixelrefer_ros.training.processes import run_together
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.seen_once import SeenOnce

SETTINGS = replace(SHORTEST, reading_scenes=(1, 0), infusion_batches=4)
AT_ONCE = replace(SETTINGS, minutes=1e-9)
"""Time is up when a call begins."""


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """The numbers of the batches that are drawn."""
    numbers: list[int] = []
    draw = ShownBatches.__getitem__

    def noted(batches: ShownBatches, number: int):
        numbers.append(number)
        return draw(batches, number)

    monkeypatch.setattr(ShownBatches, "__getitem__", noted)
    return numbers


def begin(folder: Path, out: Path) -> None:
    """What reading leaves."""
    out.mkdir()
    Readings.new(new_network(folder, seed=0), None, seed=0).save(out)


def teach(folder: Path, out: Path, settings: LanguageSettings) -> bool:
    """As a call does that begins or goes on."""
    return teach_infusion(new_network(folder, seed=0), folder, out, settings)


def once(
    folder: Path,
    out: Path,
    settings: LanguageSettings = SETTINGS,
    network: PixelReferNetwork | None = None,
) -> SeenOnce:
    network = network or new_network(folder, seed=0)
    batches = ShownBatches(folder, network.config, seed=0, scenes=settings.infusion_scenes)
    return SeenOnce(network, batches, out, settings, deadline=float("inf"))


def test_a_run_whose_time_is_up_while_scenes_are_seen_ends_as_if_it_had_not_been_stopped(
    micro_folder, tmp_path, monkeypatch, drawn
):
    monkeypatch.setattr(infusion, "_BEGUN_WITH", 2)
    monkeypatch.setattr(infusion, "_NOISE", 0.0)  # which no seed of the run fixes
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for out in (whole, stopped):
        begin(micro_folder, out)
    assert teach(micro_folder, whole, SETTINGS)
    assert drawn == [0, 1, 2, 3]
    drawn.clear()
    of_calls = []
    for _ in range(4):
        assert not teach(micro_folder, stopped, AT_ONCE)
        of_calls.append(list(drawn))
        drawn.clear()
    assert of_calls == [[0], [1], [2], [3]], "one batch a call, and none twice"
    assert read_progress(stopped) == {"stage": "infusion", "step": 0, "steps": 1}
    assert teach(micro_folder, stopped, AT_ONCE)
    assert not drawn
    state, expected = load_file(stopped / STATE), load_file(whole / STATE)
    assert state.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(state[name], value)] == []


def test_an_interrupt_keeps_what_was_seen(micro_folder, tmp_path, monkeypatch, drawn):
    begin(micro_folder, out := tmp_path / "training")
    draw = ShownBatches.__getitem__

    def interrupted(batches: ShownBatches, number: int):
        if number == 2:
            raise KeyboardInterrupt
        return draw(batches, number)

    with monkeypatch.context() as patched:
        patched.setattr(ShownBatches, "__getitem__", interrupted)
        assert not teach(micro_folder, out, SETTINGS)
    assert read_progress(out) is None, "the encoder has not begun: nothing of the stage can be gone on with"
    assert drawn == [0, 1]
    assert teach(micro_folder, out, SETTINGS)
    assert drawn == [0, 1, 2, 3]


def test_a_finished_stage_leaves_no_files_of_what_was_seen(micro_folder, tmp_path):
    begin(micro_folder, out := tmp_path / "training")
    assert not teach(micro_folder, out, AT_ONCE)
    assert [file.name for file in (out / "infusion").iterdir()] == ["0_0.safetensors"]
    assert teach(micro_folder, out, SETTINGS)
    assert not (out / "infusion").exists()


def test_files_of_another_encoder_or_recipe_are_not_read(micro_folder, tmp_path, drawn):
    out = tmp_path / "infusion"
    for _ in range(2):
        once(micro_folder, out).seen(range(1))
        once(micro_folder, out).projected(range(1))
        once(micro_folder, out).projected(range(1))
    assert drawn == [0, 0], "only what the vision encoder says is not there any more once it is projected"
    once(micro_folder, out, network=new_network(micro_folder, seed=1)).projected(range(1))
    once(micro_folder, out).projected(range(1))
    once(micro_folder, out, replace(SETTINGS, infusion_scenes=2)).projected(range(1))
    once(micro_folder, out, replace(SETTINGS, bf16=True)).projected(range(1))
    assert drawn == [0] * 6


def test_another_way_of_looking_projects_what_the_vision_encoder_saw_anew(micro_folder, tmp_path, drawn):
    network = new_network(micro_folder, seed=0)
    batches = once(micro_folder, tmp_path / "infusion", network=network)
    batches.seen(range(2))
    [before] = batches.projected(range(1))
    with torch.no_grad():
        network.object_encoder.fusion_attention_global.out_proj.weight.mul_(2)
    [after, _] = batches.projected(range(2))
    assert drawn == [0, 1, 0], "of the first one no views were left"
    assert not torch.equal(before.fused, after.fused)


def test_a_file_that_cannot_be_read_is_seen_anew(micro_folder, tmp_path, drawn):
    out = tmp_path / "infusion"
    [expected] = once(micro_folder, out).projected(range(1))
    [file] = out.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    [asked] = once(micro_folder, out).projected(range(1))
    assert drawn == [0, 0]
    assert torch.equal(asked.fused, expected.fused)


def test_questions_come_back_from_their_file_as_they_were(micro_folder, tmp_path):
    [written] = once(micro_folder, tmp_path / "infusion").projected(range(1))
    [read] = once(micro_folder, tmp_path / "infusion").projected(range(1))
    for name in ("ids", "labels", "length"):
        assert torch.equal(getattr(read.rows, name), getattr(written.rows, name))
    assert torch.equal(read.facts.named, written.facts.named)
    assert torch.equal(read.facts.measured, written.facts.measured)
    assert torch.equal(read.times, written.times)
    assert torch.equal(read.fused, written.fused)
    assert (read.views, read.kinds, read.runs) == (written.views, written.kinds, written.runs)


def see_together(folder: Path, number: int) -> None:
    """As one of two processes; notes what it draws."""
    torch.set_num_threads(1)
    drawn: list[int] = []
    draw = ShownBatches.__getitem__
    ShownBatches.__getitem__ = lambda batches, place: (drawn.append(place), draw(batches, place))[1]
    settings = replace(AT_ONCE, processes=2, process=number)
    teach(folder, folder / "training", settings)
    with (folder / f"{number}.jsonl").open("a") as file:
        file.write(json.dumps(drawn) + "\n")


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_each_with_its_own_share(tmp_path):
    new_checkpoint(tmp_path, MICRO, seed=0)
    begin(tmp_path, tmp_path / "training")
    for _ in range(2):
        run_together(2, partial(see_together, tmp_path))
    for number in range(2):
        drawn = [json.loads(line) for line in (tmp_path / f"{number}.jsonl").read_text().splitlines()]
        assert drawn == [[0], [1]]
    assert read_progress(tmp_path / "training") is None, "time was up each time"
