# SPDX-License-Identifier: Apache-2.0
"""``python -m pixelrefer_ros.training.model_card``: the README.md beside shipped weights.

Everything in it is read: the recipe that training left in the folder, the weights' size, and the scores of
``pixelrefer evaluate shapes --json``. A model in ``models/`` counts as shipped once it has its card
(`pixelrefer_ros.model_source.embedded_models`), so it is written when the weights are final.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pixelrefer_ros.errors import CheckpointError, InputFileError, PixelReferError
from pixelrefer_ros.training.evaluate import (
    GOALS,
    TRACKER_GOALS,
    answer_cells,
    content_name,
    overall,
    tracker_cell,
)
from pixelrefer_ros.training.world import COLORS, MOTIONS, SHAPES, SIZES, SURFACES

CARD, WEIGHTS, RECIPE = "README.md", "model.safetensors", "recipe.json"
HISTORY = "history"
"""Of a recipe: in words, how weights came about that no single command made."""
LIMITS_MB = {"language": 20, "tracker": 10}
"""What a shipped model may weigh."""

_FLAGS = {
    "seed": "--seed",
    "processes": "--processes",
    "steps": "--steps",
    "scenes": "--scenes",
    "attribute_steps": "--attribute-steps",
    "frame_steps": "--frame-steps",
    "side_steps": "--side-steps",
    "reading_steps": "--reading-steps",
    "infusion_steps": "--infusion-steps",
    "image_size": "--image-size",
    "sizes.mask_num": "--mask-num",
    "bf16": "--bf16",
}
_MEASURED = {"parameters", "parts", HISTORY}
_SCORED = {"language": "answers", "tracker": "tracker"}
_NAMED = {"language": "model", "tracker": "tracker_model"}
_LOCAL_OUTPUT = "fusion_attention_local.out_proj.weight"
_WHAT = {
    "language": "PixelRefer-Lite, a region-level vision-language model: it answers questions about objects.",
    "tracker": "SAM 2, video segmentation: it follows objects from a box, a point or a mask.",
}
_LIMITS = {
    "language": (
        f"It was shown {len(SHAPES)} shapes, {len(COLORS)} colours, {len(SURFACES)} surfaces, {len(SIZES)} "
        f"sizes and {len(MOTIONS)} motions, and nothing else: what it says of a photograph means nothing.",
        "It was asked in English, in the wordings of the shapes world only.",
        "It was shown single pictures, and 2 to 8 frames of up to 3.1 s, from 320x240 to 640x480.",
    ),
    "tracker": (
        "It was shown flat shapes on dull backgrounds, from 320x240 to 640x480 at 10 frames a second, and "
        "nothing else: its masks on photographs mean nothing.",
        "It was shown objects that are hidden for up to 1.5 s.",
    ),
}

_Cells = tuple[tuple[float | None, int, float | None], ...]


def card(folder: Path, report: Mapping[str, Any], *, trained_on: str = "") -> str:
    """The text of a model card.

    Args:
        folder: of the finished checkpoint, as `pixelrefer train` left it.
        report: of `evaluate_shapes`, with this model in it.
        trained_on: the machine and the time it took, in words.

    Raises:
        CheckpointError: the folder holds no weights or no recipe.
        InputFileError: the report has no scores of such a model, or is not of the test split; or the model
            went on from another checkpoint.
    """
    kind = _kind(folder)
    _check(folder, kind, report)
    return "\n".join(_lines(folder, kind, report, trained_on)) + "\n"


def _check(folder: Path, kind: str, report: Mapping[str, Any]) -> None:
    """The scores must be of these weights, on test scenes; and these must have begun as random numbers."""
    if report.get("split") != "test" or _SCORED[kind] not in report:
        raise InputFileError(
            f"the report is of {report.get('split')} scenes and has {', '.join(report)}: the card of a "
            f"{kind} model needs {_SCORED[kind]!r} of test scenes; run `pixelrefer evaluate shapes` with it"
        )
    if started := _recipe(folder).get("start_from"):
        raise InputFileError(
            f"{folder} went on from {started}: this card is of what learned on the shapes world alone; "
            "write down what that checkpoint's card and your data say"
        )
    scored, found = report[_NAMED[kind]], content_name(folder)
    if scored != found:
        raise InputFileError(f"the scores are of {scored}, the folder holds {found}: evaluate these weights")


def _lines(folder: Path, kind: str, report: Mapping[str, Any], trained_on: str) -> Iterator[str]:
    recipe = _recipe(folder)
    megabytes = (folder / WEIGHTS).stat().st_size / 1e6
    yield from ("---", "license: apache-2.0", "---", f"# {folder.name}", "", _WHAT[kind])
    yield f"{recipe['parameters'] / 1e6:.1f} million parameters in {megabytes:.1f} MB (float16), trained from"
    yield "nothing by pixelrefer_ros, which it comes with: no other weights, no pictures of other origin."
    if megabytes > LIMITS_MB[kind]:
        yield f"**It is larger than the {LIMITS_MB[kind]} MB that a shipped model may have.**"
    yield from ("", "## Data", "")
    yield "The shapes world (`pixelrefer_ros.training.world`): short videos drawn from seeds, with exact"
    yield "masks, and questions whose answers are known. Training, validation and test scenes have disjoint"
    yield "seeds; some combinations of shape, colour and surface are never trained on (*unseen* below)."
    yield from ("", "## Recipe", "")
    if HISTORY in recipe:
        yield f"No single command made these weights: {recipe[HISTORY]}."
        yield "The command with today's defaults, of which they are not the outcome:"
        yield ""
    yield from (f"    {command(kind, folder, recipe)}", "")
    others = {name: value for name, value in _changed(kind, recipe).items() if name not in _FLAGS}
    if others:
        yield f"with settings that have no option: {', '.join(f'`{k}` = {v}' for k, v in others.items())}."
    if trained_on:
        yield f"Trained on {trained_on}."
    if HISTORY not in recipe:
        yield f"All settings are in `{RECIPE}`."
    yield from ("", "## Scores", "")
    yield f"`pixelrefer evaluate shapes --seed {report['seed']} --scenes {report['scenes']}`, test scenes;"
    yield "goals in brackets, n answers, facts or objects. They are of"
    yield f"`{report[_NAMED[kind]]}`: its name, and the first digits of its files' SHA-256."
    yield ""
    columns = ("seen combinations", "unseen combinations") if kind == "language" else ("score",)
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    missed = []
    for row, cells in _rows(kind, report):
        yield f"| {row} | {' | '.join(_cell(*cell) for cell in cells)} |"
        for column, (value, _, goal) in zip(columns, cells, strict=True):
            if goal is not None and (value is None or value < goal):
                missed.append(f"{row} ({column})" if len(columns) > 1 else row)
    yield ""
    yield f"Goals not reached: {'; '.join(missed)}." if missed else "Every goal is reached."
    if kind == "language":
        said, chance = (
            _percent(overall(report["shuffled"][which]["rows"])) for which in ("answers", "chance")
        )
        yield f"Asked about the regions of other scenes instead: {said} right, where chance gives {chance}."
    yield from ("", "## Limits", "")
    yield from (f"- {limit}" for limit in _LIMITS[kind])
    if _local_infusion_is_silent(folder):
        yield "- Its local infusion (the paper's Sec. 4.3) has learned nothing: it adds one constant vector."


def command(kind: str, folder: Path, recipe: Mapping[str, Any]) -> str:
    """The one command that makes the model again, with whatever differs from the defaults."""
    words = ["pixelrefer", "train", kind, "--out", folder.name, "--seed", str(recipe["seed"])]
    for name, value in _changed(kind, recipe).items():
        if name in _FLAGS and name != "seed":
            words.append(_FLAGS[name])
            if value is not True:  # a switch
                words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def _changed(kind: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a recipe that differ from today's defaults, flat: ``sizes.mask_num``."""
    if kind == "language":
        from pixelrefer_ros.training.language_settings import LanguageSettings

        defaults = _flat(asdict(LanguageSettings()))
    else:
        from pixelrefer_ros.training.tracker_settings import TrackerSettings

        defaults = _flat(asdict(TrackerSettings()))
    return {
        name: value
        for name, value in _flat(recipe).items()
        if name not in _MEASURED and value != defaults.get(name)
    }


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(settings, default=str))  # tuples become lists, as in the file
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": of_it for inner, of_it in value.items()}
        else:
            flat[name] = value
    return flat


def _rows(kind: str, report: Mapping[str, Any]) -> Iterator[tuple[str, _Cells]]:
    """Each row of the table: value, count and goal of every column."""
    if kind == "tracker":
        for row, goal in TRACKER_GOALS.items():
            if "system" in report or not row.startswith("category"):
                yield row, ((*tracker_cell(dict(report), row), goal),)
        return
    seen, unseen = (answer_cells(report["answers"][name]["rows"]) for name in ("seen", "unseen"))
    for row, goals in GOALS.items():
        yield row, ((*seen[row], goals[0]), (*unseen[row], goals[1]))


def _cell(value: float | None, count: int, goal: float | None) -> str:
    wanted = "" if goal is None else f" ({_percent(goal)})"
    return f"{_percent(value)}{wanted}, n = {count}"


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _local_infusion_is_silent(folder: Path) -> bool:
    """Whether nothing that an object's surroundings hold reaches its tokens by local infusion."""
    with safe_open(folder / WEIGHTS, "numpy") as weights:
        outputs = [name for name in weights.keys() if name.endswith(_LOCAL_OUTPUT)]  # noqa: SIM118 (no mapping)
        return bool(outputs) and not any(weights.get_tensor(name).any() for name in outputs)


def _kind(folder: Path) -> str:
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder / WEIGHTS} does not exist: give the folder of a finished training run"
        )
    return "language" if "parts" in _recipe(folder) else "tracker"


def _recipe(folder: Path) -> dict[str, Any]:
    try:
        recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        return dict(recipe)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / RECIPE} cannot be read ({error}): `pixelrefer train` writes it"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Writes the card of one model; exit status 2 where it cannot."""
    parser = argparse.ArgumentParser(prog="pixelrefer_ros.training.model_card", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the finished checkpoint, with its recipe.json")
    parser.add_argument("--scores", type=Path, required=True, help="of `pixelrefer evaluate shapes --json`")
    parser.add_argument("--trained-on", default="", help='in words: "two CPU cores, 5 hours"')
    args = parser.parse_args(arguments)
    try:
        report = json.loads(args.scores.read_text(encoding="utf-8"))
        text = card(args.folder, report, trained_on=args.trained_on)
    except (OSError, ValueError, PixelReferError) as error:
        print(f"model card: {error}", file=sys.stderr)
        return 2
    (args.folder / CARD).write_text(text, encoding="utf-8")
    print(args.folder / CARD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
