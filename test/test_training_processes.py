# SPDX-License-Identifier: Apache-2.0
"""Processes that train together: one model, the mean of their gradients, one log, and one end."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from micro_language import SHORTEST
from safetensors.torch import load_file, save_file

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.model import PixelReferLite
from pixelrefer_ros.training.language import TRAINING, train_language
from pixelrefer_ros.training.loop import LOG, PROGRESS, STATE, Loop, Pace, read_progress
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.processes import run_together

STEPS = 4
SHOWN = torch.randn(2, STEPS, 5, 3, generator=torch.Generator().manual_seed(0))
"""Of two processes, what each is shown in its steps."""


def learned(folder, shown) -> torch.nn.Module:
    """A layer that has learned from (processes, steps, 5, 3): of all processes at once."""
    torch.manual_seed(3)
    layer = torch.nn.Linear(3, 2)
    loop = Loop("any", layer, parameter_groups({0.1: [layer]}, weight_decay=0.1), folder, Pace(STEPS))
    loop.run(range(STEPS), lambda step: {"loss": layer(shown[:, step]).square().mean()})
    return layer


def learn_own(folder, number: int) -> None:
    layer = learned(folder, SHOWN[number : number + 1])
    save_file(layer.state_dict(), folder / f"{number}.safetensors")


def test_two_processes_learn_what_one_would_from_both_of_their_batches(tmp_path):
    run_together(2, partial(learn_own, tmp_path))
    alone = learned(tmp_path / "alone", SHOWN).state_dict()
    for number in range(2):
        together = load_file(tmp_path / f"{number}.safetensors")
        for name, value in alone.items():
            # One sum in another order, divided by Adam's root of squares: float32 to five digits.
            torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-5)


def train_both(folder, steps: int, minutes: float, number: int) -> None:
    torch.set_num_threads(1)
    settings = replace(
        SHORTEST,
        reading_steps=steps,
        reading_scenes=(2, 1),
        infusion_steps=steps,
        infusion_scenes=2,
        log_every=1,
        minutes=minutes,
        processes=2,
        process=number,
    )
    train_language(folder, settings)


@pytest.mark.slow
@pytest.mark.long
def test_a_run_of_two_processes_goes_on_writes_once_and_makes_a_model(tmp_path):
    run_together(2, partial(train_both, tmp_path, 2, 1e-9))
    assert read_progress(tmp_path / TRAINING) == {"stage": "reading", "step": 1, "steps": 2}
    run_together(2, partial(train_both, tmp_path, 2, 0.0))
    with (tmp_path / TRAINING / LOG).open(newline="") as file:
        logged = [(row["stage"], int(row["step"])) for row in csv.DictReader(file)]
    expected = [("attributes", 1), ("frames", 1), ("sides", 1), ("reading", 1), ("reading", 2)]
    assert logged == [*expected, ("infusion", 1), ("infusion", 2), ("perception", 1), ("instructions", 1)]
    assert PixelReferLite.from_pretrained(str(tmp_path)).content_hash
    with pytest.raises(ParameterError, match="lower the learning rate"):
        run_together(2, diverge)


def diverge(number: int) -> None:
    """The first of two processes fails while the other waits for it."""
    if number == 0:
        raise ParameterError("the loss is nan: lower the learning rate")
    torch.distributed.barrier()


def test_an_interrupt_ends_all_processes_with_their_state_written(tmp_path):
    tracker = ["tracker", "--out", str(tmp_path), "--steps", "100000", "0", "0", "0", "0", "--scenes", "1"]
    quick = ["--image-size", "64", "--device", "cpu", "--validate-every", "0", "--workers", "0"]
    command = [sys.executable, "-m", "pixelrefer_ros.cli", "train", *tracker, *quick]
    log = tmp_path / TRAINING / LOG
    run = subprocess.Popen(
        [*command, "--processes", "2", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not log.is_file() and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.2)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        printed, _ = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 0, printed
    assert "stopped: the same command goes on" in printed
    assert (tmp_path / TRAINING / STATE).is_file()
    assert read_progress(tmp_path / TRAINING)["step"] >= 20, (tmp_path / TRAINING / PROGRESS).read_text()
