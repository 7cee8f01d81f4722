# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: whether one may begin or go on there, and the recipe that lies beside the weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.training import processes
from pixelrefer_ros.training.language_settings import RECIPE, TRAINING
from pixelrefer_ros.training.loop import PROGRESS, read_progress

if TYPE_CHECKING:
    from pixelrefer_ros.training.run_settings import RunSettings

OPTIONS = {
    "seed": "--seed",
    "start_from": "--from",
    "lora_rank": "--lora",
    "data": "--data",
    "scenes": "--scenes",
    "questions": "--questions",
    "sizes.mask_num": "--mask-num",
    "image_size": "--image-size",
    "bf16": "--bf16",
    "processes": "--processes",
}
"""What a run cannot change on its way, and how it is told."""

_OF_CALLS = (
    "workers",
    "device",
    "minutes",
    "deadline",
    "log_every",
    "save_every",
    "validate_every",
    "process",
)
_FREE = ("most_broken", "media")  # of the recipe, and yet another call may give them anew
_PATHS = ("start_from", "data")  # compared by name: folders may be moved while a run is stopped
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")

Stages = Mapping[str, tuple[str, int]]
"""By the names of a run's stages, in order: the setting that holds its steps (``steps.0``), and how many."""


def plain(settings: RunSettings, *left_out: str) -> dict[str, Any]:
    """Settings as a recipe holds them: without those of a single call.

    Args:
        settings: of the run.
        left_out: what further names begin with that say nothing about this run.
    """
    values: dict[str, Any] = json.loads(json.dumps(asdict(settings), default=str))
    return {
        k: v for k, v in values.items() if k not in _OF_CALLS and not (left_out and k.startswith(left_out))
    }


def recipe_for(out: Path, settings: Mapping[str, Any], stages: Stages) -> dict[str, Any]:
    """What is to be written by `write_recipe` once the run has begun or taken up its state.

    A run that goes on keeps what it began with: the steps of stages that are over, and settings without an
    option, whose defaults another version of this package may have changed.

    Args:
        out: the folder of the run; nothing is written yet.
        settings: of `plain`.
        stages: of the run.

    Returns:
        Plain values; of several processes the first one checks and writes, and the others get none.

    Raises:
        CheckpointError: the recipe or the progress that is there cannot be read.
        ParameterError: the folder holds a model that no run here has made, or a run with other settings.
    """
    if not processes.is_first():
        return {}
    progress = read_progress(out / TRAINING)
    if progress is None:
        _refuse_weights(out)
        return dict(settings)
    if progress["stage"] not in stages:
        raise ParameterError(
            f"{out / TRAINING / PROGRESS} is of stage {progress['stage']!r}; this run has only "
            f"{', '.join(stages)}: give another --out"
        )
    _, steps = stages[progress["stage"]]
    if steps != progress["steps"]:
        raise ParameterError(
            f"{out / TRAINING / PROGRESS} is of a run of {progress['steps']} steps, this one has "
            f"{steps} in stage {progress['stage']!r}: give the same number, or another --out"
        )
    before, now = dict(_flat(_read(out))), dict(_flat(settings))
    other = [
        f"{option} was {before[name]} and is {now[name]}"
        for name, option in OPTIONS.items()
        if name in before and name in now and _named(name, before[name]) != _named(name, now[name])
    ]
    if other:
        raise ParameterError(
            f"{out} holds a run with other settings: {', '.join(other)}: give the same, or another --out"
        )
    names = list(stages)
    ahead = {setting for setting, _ in map(stages.__getitem__, names[names.index(progress["stage"]) :])}
    kept = {k: v for k, v in before.items() if k in now and k not in _FREE and k not in ahead}
    return _nested(now | kept)


def write_recipe(out: Path, recipe: Mapping[str, Any]) -> None:
    """Writes it into the folder, which is made if need be; of several processes the first one does."""
    if processes.is_first():
        out.mkdir(parents=True, exist_ok=True)
        (out / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")


def _refuse_weights(out: Path) -> None:
    found = sorted(file.name for pattern in _WEIGHTS for file in out.glob(pattern))
    if found:
        raise ParameterError(
            f"{out} holds a model ({found[0]}) and no {TRAINING}/{PROGRESS}: no run can go on there, and a "
            "new one would overwrite it: give another --out"
        )


def _read(out: Path) -> dict[str, Any]:
    """The recipe that is there; empty where none is, as in a folder that was begun by hand."""
    path = out / RECIPE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): give another --out") from error


def _named(name: str, value: Any) -> Any:
    """A value to be compared."""
    if name not in _PATHS or value is None:
        return value
    own = value if isinstance(value, list) else [value]
    return [Path(os.path.abspath(path)).name for path in own]


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Pairs of which ``sizes.mask_num`` and ``steps.0`` are one each."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", of_it) for inner, of_it in value.items())
        elif name == "steps" and isinstance(value, list):
            yield from ((f"{name}.{place}", steps) for place, steps in enumerate(value))
        else:
            yield name, value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of `_flat`."""
    values: dict[str, Any] = {}
    for name, value in flat.items():
        outer, _, inner = name.partition(".")
        if not inner:
            values[outer] = value
        elif inner.isdecimal():
            values.setdefault(outer, []).append(value)
        else:
            values.setdefault(outer, {})[inner] = value
    return values
