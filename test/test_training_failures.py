# SPDX-License-Identifier: Apache-2.0
"""What fails in the middle of training costs nothing that was learned, and is told with a remedy."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from micro_language import SHORTEST
from safetensors.torch import load_file
from torch import nn

from pixelrefer_ros import cli
from pixelrefer_ros.runtime.whole_files import write_tensors
from pixelrefer_ros.training import language
from pixelrefer_ros.training.language import TRAINING, train_language
from pixelrefer_ros.training.loop import STATE, Diverged, Loop, Pace, read_progress
from pixelrefer_ros.training.optimizers import parameter_groups

pytestmark = pytest.mark.usefixtures("one_thread")


def new_loop(folder) -> Loop:
    module = nn.Linear(2, 1)
    return Loop("s", module, parameter_groups({1e-2: [module]}, weight_decay=0.0), folder, Pace(steps=9))


def falling(loop: Loop):
    """A loss of the loop's module."""
    return lambda item: {"loss": loop.module(torch.ones(1, 2)).square().mean() * item}


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A disk that is full, as the system tells it: writing fails in the middle of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_was_learned_before_data_failed_is_saved(tmp_path):
    def data() -> Iterator[float]:
        yield from (1.0, 1.0, 1.0)
        raise OSError("the disk with the pictures is gone")

    loop = new_loop(tmp_path)
    with pytest.raises(OSError, match="pictures"):
        loop.run(data(), falling(loop))
    assert read_progress(tmp_path) == {"stage": "s", "step": 3, "steps": 9}
    again = new_loop(tmp_path)
    assert again.resume() and again.step == 3
    assert torch.equal(again.module.weight, loop.module.weight)


def test_before_the_first_step_there_is_nothing_to_save(tmp_path):
    loop = new_loop(tmp_path)
    with pytest.raises(ZeroDivisionError):
        loop.run([1.0], lambda _: 1 / 0)
    assert read_progress(tmp_path) is None


def test_weights_that_diverged_do_not_take_the_place_of_good_ones(tmp_path):
    loop = new_loop(tmp_path)
    loop.run([1.0, 1.0], falling(loop))
    loop.save()
    good = load_file(tmp_path / STATE)
    with pytest.raises(Diverged, match="lower the learning rate"):
        loop.run([1.0, float("nan")], falling(loop))
    assert read_progress(tmp_path)["step"] == 2
    assert all(torch.equal(good[name], value) for name, value in load_file(tmp_path / STATE).items())


def test_a_full_disk_leaves_the_file_that_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(4)})
    with no_file_larger_than(10_000), pytest.raises(OSError) as raised:
        write_tensors(path, {"a": torch.zeros(100_000)})
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert load_file(path)["a"].shape == (4,)


STEPS = ("--attribute-steps", "1", "--frame-steps", "0", "--side-steps", "0", "--reading-steps", "0")


def test_a_disk_that_is_full_when_training_saves_is_one_line(tmp_path, capsys):
    given = ["train", "language", "--out", str(tmp_path / "made"), *STEPS, "--infusion-steps", "0"]
    with no_file_larger_than(1_000_000):  # of 5 million float32
        status = cli.main([*given, "--steps", "0", "0", "--scenes", "1", "--workers", "0", "--device", "cpu"])
    assert status == cli.BAD_INPUT
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"pixelrefer: --out {tmp_path / 'made'} cannot be written (File too large")
    assert not list((tmp_path / "made" / TRAINING).glob("*.part"))


@pytest.mark.parametrize(
    ("model", "remedy"),
    [("language", "fewer --questions (of --data) or --scenes; "), ("tracker", "fewer --scenes; ")],
)
def test_too_little_memory_is_told_with_what_needs_less(model, remedy, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr(f"pixelrefer_ros.training.{model}.train_{model}", full)
    assert cli.main(["train", model, "--out", str(tmp_path), "--device", "cpu"]) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert remedy in said and "Tried to allocate 9 GiB" in said
    assert len(said.splitlines()) == 1


def test_a_run_that_failed_goes_on_with_the_same_command(tmp_path, monkeypatch):
    settings = replace(SHORTEST, seed=1, steps=(3, 0), save_every=100)
    losses, calls = language.losses, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("no room")
        return losses(*args, **kwargs)

    monkeypatch.setattr(language, "losses", failing)
    with pytest.raises(torch.OutOfMemoryError):
        train_language(tmp_path, settings)
    assert read_progress(tmp_path / TRAINING) == {"stage": "perception", "step": 2, "steps": 3}
    assert train_language(tmp_path, settings)
    assert len(calls) == 4
