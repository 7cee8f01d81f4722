# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer evaluate shapes``: the table of scores of a language model, a tracker, and both together."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.model_source import SHIPPED_MODEL, SHIPPED_TRACKER, resolve_model, resolve_tracker
from pixelrefer_ros.training.world import Example, SceneSettings, Split, scene_examples, scene_seeds

GOALS: dict[str, tuple[float | None, float | None]] = {
    "category": (0.97, 0.90),
    "attributes": (0.97, 0.93),
    "place, relation, comparison": (0.92, 0.88),
    "motion and time": (0.90, 0.88),
    "description: stated facts that are true": (0.95, 0.90),
    "description: true facts that are stated": (0.90, 0.85),
    "honest": (None, None),
}
"""What the shipped models should reach, on seen and unseen combinations."""
TRACKER_GOALS = {
    "first frame J, box": 0.90,
    "first frame J, point": 0.85,
    "J&F, no occluder": 0.88,
    "J&F, occluder": 0.75,
    "J&F, after full occlusion": 0.60,
    "category after a tracked clip": 0.93,
}

_SPATIAL = ("place", "relation", "comparison")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("world", choices=("shapes",), help="what to score on")
    parser.add_argument(
        "--model",
        help="PixelRefer-Lite: a folder, hub id or shipped model; with --tracker-model alone no answers are "
        f"scored, and with neither {SHIPPED_MODEL} and {SHIPPED_TRACKER} are",
    )
    parser.add_argument("--tracker-model", help="SAM 2: likewise; with --model alone no masks are scored")
    parser.add_argument("--seed", type=int, default=0, help="which scenes")
    parser.add_argument(
        "--scenes", type=int, default=50, help="scenes of seen, and as many of unseen combinations"
    )
    parser.add_argument("--questions", type=int, default=10, help="per scene")
    parser.add_argument("--tracker-scenes", type=int, help="default: a fifth of --scenes")
    parser.add_argument("--tracker-frames", type=int, default=60, help="of a clip")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="tune on val, report test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, help="write everything here")


def run(args: argparse.Namespace) -> int:
    """Scores, prints the table, and writes the report.

    Raises:
        ParameterError: a count below 1, or a file that cannot be written.
        CheckpointError: a model cannot be loaded.
    """
    _check(args)
    given = (args.model, args.tracker_model)
    model, tracker = (SHIPPED_MODEL, SHIPPED_TRACKER) if given == (None, None) else given
    model_path = None if model is None else resolve_model(model)
    tracker_path = None if tracker is None else resolve_tracker(tracker)
    if args.json:
        _check_writable(args.json)
    report = evaluate_shapes(
        model_path,
        tracker_path,
        seed=args.seed,
        scenes=args.scenes,
        questions=args.questions,
        tracker_scenes=args.tracker_scenes or max(1, args.scenes // 5),
        tracker_frames=args.tracker_frames,
        split=cast(Literal["test", "val"], args.split),
        device=args.device,
        dtype=args.dtype,
    )
    print("\n".join(table(report)))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def evaluate_shapes(
    model_path: str | Path | None,
    tracker_path: str | Path | None,
    *,
    seed: int,
    scenes: int,
    questions: int = 10,
    tracker_scenes: int = 1,
    tracker_frames: int = 60,
    split: Split = "test",
    device: str = "cpu",
    dtype: str = "float32",
) -> dict[str, Any]:
    """Scores models on scenes of a split; the result holds plain values only.

    Args:
        model_path: PixelRefer-Lite, or None.
        tracker_path: SAM 2, or None.
        seed: which scenes.
        scenes: how many of seen, and of unseen combinations.
        questions: per scene.
        tracker_scenes: how many are tracked, in three kinds of clips each.
        tracker_frames: of a clip.
        split: whose scenes.
        device: of both models.
        dtype: of both models.
    """
    # torch loads slowly: the parser, and a wrong argument, do without.
    from pixelrefer_ros.model import PixelReferLite
    from pixelrefer_ros.tracking import StreamTracker
    from pixelrefer_ros.training import scoring

    started = time.monotonic()
    report: dict[str, Any] = {"world": "shapes", "split": split, "seed": seed, "scenes": scenes}
    model = tracker = None
    if model_path is not None:
        model = PixelReferLite.from_pretrained(model_path, device=device, dtype=dtype)
        report["model"] = f"{model.name}@{model.content_hash[:12]}"
        report["answers"] = {
            combinations: scoring.score_answers(
                model, _examples(split, seed, scenes, questions, combinations)
            ).as_json()
            for combinations in ("seen", "unseen")
        }
        shuffled = list(_examples(split, seed, max(2, scenes // 4), questions, "seen"))
        scores, chance = scoring.score_shuffled(model, shuffled, seed=seed)
        report["shuffled"] = {"answers": scores.as_json(), "chance": chance.as_json()}
    if tracker_path is not None:
        tracker = StreamTracker.from_pretrained(tracker_path, device=device, dtype=dtype)
        report["tracker_model"] = _tracker_name(Path(tracker_path))
        report["tracker"] = scoring.score_tracker(
            tracker, scene_seeds(split, seed, tracker_scenes), frames=tracker_frames
        ).as_json()
    if model is not None and tracker is not None:
        report["system"] = scoring.score_system(
            model, tracker, scene_seeds(split, seed, tracker_scenes), frames=tracker_frames
        ).as_json()
    report["seconds"] = round(time.monotonic() - started, 1)
    return report


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report as lines of text: score, goal and count."""
    yield f"shapes world, {report['split']} scenes of seed {report['seed']}"
    if "answers" in report:
        columns = [f"{name:>8} {'goal':>8} {'count':>6}" for name in ("seen", "unseen")]
        yield f"{report['model']:42} {'   '.join(columns)}"
        cells = {name: answer_cells(report["answers"][name]["rows"]) for name in ("seen", "unseen")}
        for row, goals in GOALS.items():
            parts = [
                f"{_share(cells[name][row][0])} {_share(goal)} {cells[name][row][1]:6}"
                for name, goal in zip(("seen", "unseen"), goals, strict=True)
            ]
            yield f"{row:42} {'   '.join(parts)}"
        shuffled, chance = (overall(report["shuffled"][name]["rows"]) for name in ("answers", "chance"))
        yield f"{'with shuffled regions (chance)':42} {_share(shuffled)} {_share(chance)}"
    if "tracker" in report:
        yield f"{report['tracker_model']:42} {'score':>8} {'goal':>8} {'count':>6}"
        for row, goal in TRACKER_GOALS.items():
            value, count = tracker_cell(report, row)
            if "system" in report or not row.startswith("category"):
                yield f"{row:42} {_share(value)} {_share(goal)} {count:6}"
    yield f"{report['seconds']} s"


def _examples(split: Split, seed: int, scenes: int, questions: int, combinations: str) -> Iterator[Example]:
    settings = SceneSettings(combinations=cast(Literal["seen", "unseen"], combinations))
    for scene_seed in scene_seeds(split, seed, scenes):
        yield from scene_examples(scene_seed, questions, settings=settings)


def answer_cells(rows: dict[str, dict[str, Any]]) -> dict[str, tuple[float | None, int]]:
    """Score (None without any) and count of each row of `GOALS`, from a report's ``answers/.../rows``."""

    def exact(*names: str) -> tuple[float | None, int]:
        found = [rows[name] for name in names if name in rows]
        count = sum(row["count"] for row in found)
        return (sum(row["correct"] for row in found) / count if count else None), count

    description = rows.get("description", {"truthful": None, "complete": None, "stated": 0, "expected": 0})
    return {
        "category": exact("category"),
        "attributes": exact("attributes"),
        "place, relation, comparison": exact(*_SPATIAL),
        "motion and time": exact("time"),
        "description: stated facts that are true": (description["truthful"], description["stated"]),
        "description: true facts that are stated": (description["complete"], description["expected"]),
        "honest": exact("honest"),
    }


def overall(rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Share of right answers over a report's ``rows``; None without any.

    Honest ones do not count: their right answer is the same for every region.
    """
    looking = [row for name, row in rows.items() if name != "honest"]
    count = sum(row["count"] for row in looking)
    return sum(row["correct"] for row in looking) / count if count else None


def content_name(folder: Path) -> str:
    """A checkpoint's name with the first digits of its content's hash: which weights scores are of."""
    from pixelrefer_ros.model.checkpoint import content_hash  # torch loads slowly

    return f"{folder.name}@{content_hash(folder)[:12]}"


def _tracker_name(path: Path) -> str:
    """As `content_name`; of a hub id, one of Meta's files or an exported folder the name alone."""
    from pixelrefer_ros.model.weights import INDEX, SINGLE

    hashed = any((path / file).is_file() for file in (SINGLE, INDEX))
    return content_name(path) if hashed else path.name


def tracker_cell(report: dict[str, Any], row: str) -> tuple[float | None, int]:
    """Score and count of a row of `TRACKER_GOALS`, from a whole report."""
    if row.startswith("category"):
        system = report.get("system", {"category_exact": None, "questions": 0})
        return system["category_exact"], system["questions"]
    tracker = report["tracker"]
    if row.startswith("first"):
        cell = tracker["first_frame_j"][row.split(", ")[1]]
    else:
        cell = tracker["j_and_f"][row.split(", ")[1].removeprefix("after ")]
    return cell["mean"], cell["objects"]


def _share(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{100 * value:7.1f}%"


def _check(args: argparse.Namespace) -> None:
    for name, value in (
        ("--scenes", args.scenes),
        ("--questions", args.questions),
        ("--tracker-scenes", 1 if args.tracker_scenes is None else args.tracker_scenes),
        ("--tracker-frames", args.tracker_frames - 1),
    ):
        if value < 1:
            raise ParameterError(f"{name} is {value}: give at least 1 (at least 2 frames)")
    if args.seed < 0:
        raise ParameterError(f"--seed is {args.seed}: give a number of at least 0")


def _check_writable(file: Path) -> None:
    """Scoring takes long: it is told before that its report could not be written."""
    there = file.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8"):
            pass
        if not there:
            file.unlink()
    except OSError as error:
        raise ParameterError(
            f"--json {file} cannot be written ({error.strerror}): choose another file"
        ) from error


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="pixelrefer evaluate", description=__doc__)
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
