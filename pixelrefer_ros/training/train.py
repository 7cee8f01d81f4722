# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer train language|tracker``: one command makes a model, and goes on with a stopped run."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from pixelrefer_ros.errors import ParameterError

DEVICES = ("auto", "cpu", "cuda")


_PREPARING = ("attribute", "frame", "side", "reading", "infusion")
"""Stages before the paper's two, as their options are called."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments; what is not given keeps the default of the settings' class."""
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    language = models.add_parser("language", help="PixelRefer-Lite, in two stages")
    _common(language)
    language.add_argument(
        "--steps", type=int, nargs=2, metavar=("STAGE1", "STAGE2"), help="0 leaves a stage out"
    )
    language.add_argument(
        "--attribute-steps",
        type=int,
        metavar="STEPS",
        help="before both stages, to teach a new vision encoder the world's objects; 0 leaves it out",
    )
    language.add_argument(
        "--frame-steps",
        type=int,
        metavar="STEPS",
        help="after that, to teach it to see many objects at once; 0 leaves it out",
    )
    language.add_argument(
        "--side-steps",
        type=int,
        metavar="STEPS",
        help="after that, to teach it who is beside whom, and sizes and angles; 0 leaves it out",
    )
    language.add_argument(
        "--reading-steps",
        type=int,
        metavar="STEPS",
        help="after that, to teach a new language model the world's language; 0 leaves it out",
    )
    language.add_argument(
        "--infusion-steps",
        type=int,
        metavar="STEPS",
        help="after that, to teach new object tokens to be what it reads; 0 leaves it out",
    )
    language.add_argument(
        "--lora",
        type=int,
        default=0,
        metavar="RANK",
        help="with --from: low-rank updates of the language model are trained, not its weights; the object "
        "encoder is trained in full all the same, and no validation is scored",
    )
    language.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="with --from: your own records (see docs/training.md), one file, or one per stage; without: the "
        "shapes world",
    )
    language.add_argument("--media", type=Path, metavar="FOLDER", help="where paths in --data start from")
    language.add_argument("--questions", type=int, help="per step, with --data")
    language.add_argument(
        "--max-broken", type=float, metavar="SHARE", help="of --data that may be left out (0.05)"
    )
    language.add_argument("--mask-num", type=int, help="object tokens of a region, of a new model only")
    tracker = models.add_parser("tracker", help="SAM 2 on prompted clips with memory")
    _common(tracker)
    tracker.add_argument(
        "--steps",
        type=int,
        nargs=5,
        metavar=("SKETCHES", "CLIPS", "HIDING", "PICTURES", "FILMS"),
        help="of the stages; 0 leaves one out (with --from, the first three if nothing is said)",
    )
    tracker.add_argument(
        "--image-size", type=int, help="side of the model's input, px; with --from, the checkpoint's own"
    )


def run(args: argparse.Namespace) -> int:
    """Trains until the end, or until ``--minutes`` are over.

    Raises:
        CheckpointError: ``--from`` or the state in ``--out`` cannot be used.
        InputFileError: ``--data`` cannot be read, or too much of it is broken.
        ParameterError: a setting that cannot be or would do nothing, a device that is not there, or an
            ``--out`` that holds another model or a run with other settings.
    """
    import torch  # slow to load: help and typing errors do without

    _check(args)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("--device is cuda, but torch sees no GPU here: use cpu")
    if device == "cuda" and args.processes > 1:
        raise ParameterError(f"--processes is {args.processes}: on a GPU train with one")
    if args.processes > 1:
        from pixelrefer_ros.training.processes import run_together

        run_together(args.processes, partial(_train, args, device))
    else:
        _train(args, device)
    return 0


def _train(args: argparse.Namespace, device: str, process: int = 0) -> None:
    import torch

    from pixelrefer_ros.training.kept_memory import keep_memory

    keep_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    given: dict[str, Any] = {
        "seed": args.seed,
        "device": device,
        "bf16": device == "cuda" if args.bf16 is None else args.bf16,
        "minutes": args.minutes,
        "processes": args.processes,
        "process": process,
        "start_from": args.start_from,
    }
    for name in ("scenes", "workers", "validate_every", "save_every"):
        if getattr(args, name) is not None:
            given[name] = getattr(args, name)
    try:
        finished = _language(args, given) if args.model == "language" else _tracker(args, given)
    except torch.OutOfMemoryError as error:
        shown = "--questions (of --data) or --scenes" if args.model == "language" else "--scenes"
        less = ", or --lora" if args.model == "language" and args.start_from and not args.lora else ""
        raise ParameterError(
            f"{device} has too little memory: give another --out and fewer {shown}{less}; "
            f"docs/training.md says what a model needs ({str(error).splitlines()[0]})"
        ) from error
    if process == 0:
        command = "finished" if finished else "stopped: the same command goes on"
        print(f"{args.out}: {command}")


def _language(args: argparse.Namespace, given: dict[str, Any]) -> bool:
    from pixelrefer_ros.training import language
    from pixelrefer_ros.training.checkpoints import Sizes

    if args.steps is not None:
        given["steps"] = tuple(args.steps)
    if args.data:
        given["data"] = tuple(args.data)
        given["media"] = args.media
    for name, setting in (("questions", "questions"), ("max_broken", "most_broken")):
        if getattr(args, name) is not None:
            given[setting] = getattr(args, name)
    for what in _PREPARING:
        if (steps := getattr(args, f"{what}_steps")) is not None:
            given[f"{what}_steps"] = steps
    if args.mask_num is not None:
        given["sizes"] = Sizes(mask_num=args.mask_num)
    if args.start_from is not None:
        given["rates"] = language.LOW_RANK if args.lora else language.FINE_TUNING
    return language.train_language(args.out, language.LanguageSettings(**given, lora_rank=args.lora))


def _tracker(args: argparse.Namespace, given: dict[str, Any]) -> bool:
    from pixelrefer_ros.training.tracker import TrackerSettings, further_settings, train_tracker

    if args.start_from is not None:
        given |= further_settings(args.start_from)
    if args.steps is not None:
        given["steps"] = tuple(args.steps)
    if args.image_size is not None:
        given["image_size"] = args.image_size
    return train_tracker(args.out, TrackerSettings(**given))


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the checkpoint; training/ holds log and state"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and scenes")
    parser.add_argument("--from", dest="start_from", type=Path, help="a checkpoint's folder to go on from")
    parser.add_argument("--scenes", type=int, help="of the shapes world, per step")
    parser.add_argument("--workers", type=int, help="processes that draw scenes")
    parser.add_argument(
        "--validate-every",
        type=int,
        metavar="STEPS",
        help="score validation scenes, and keep the best; 0: never",
    )
    parser.add_argument(
        "--save-every", type=int, metavar="STEPS", help="save the state, from which a stopped run goes on"
    )
    parser.add_argument(
        "--threads", type=int, help="of the computation on a CPU; default: torch's own choice"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="that train together on a CPU, each shown as much in a step as one would be alone",
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="stop this call after so many; 0: train to the end"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="products in bfloat16 (the default on a GPU; quicker on a CPU with instructions for it)",
    )


def _check(args: argparse.Namespace) -> None:
    lowest = {"--seed": (args.seed, 0), "--scenes": (args.scenes, 1), "--workers": (args.workers, 0)}
    lowest |= {"--threads": (args.threads, 1), "--processes": (args.processes, 1)}
    lowest |= {"--minutes": (args.minutes, 0)}
    lowest |= {"--steps": (None if args.steps is None else min(args.steps), 0)}
    lowest |= {"--validate-every": (args.validate_every, 0), "--save-every": (args.save_every, 1)}
    if args.model == "language":
        lowest |= {"--lora": (args.lora, 0), "--mask-num": (args.mask_num, 1)}
        lowest |= {f"--{what}-steps": (getattr(args, f"{what}_steps"), 0) for what in _PREPARING}
        lowest |= {"--questions": (args.questions, 1), "--max-broken": (args.max_broken, 0)}
    for name, (value, least) in lowest.items():
        if value is not None and value < least:
            raise ParameterError(f"{name} is {value}: give at least {least}")
    if args.model == "language":
        _check_together(args)


def _check_together(args: argparse.Namespace) -> None:
    """What needs another option, or would do nothing beside it."""
    if args.data and len(args.data) > 2:
        raise ParameterError(f"--data has {len(args.data)} files: give one, or one for each of two stages")
    of_data = {"--media": args.media, "--questions": args.questions, "--max-broken": args.max_broken}
    if args.data is None and any(value is not None for value in of_data.values()):
        raise ParameterError("--media, --questions and --max-broken are about --data: give it too")
    if args.start_from is None:
        if args.lora:
            raise ParameterError("--lora needs --from: low-rank updates are of a trained checkpoint")
        if args.data:
            raise ParameterError("--data needs --from: a new model cannot learn to see from records alone")
    else:
        of_new = {"--mask-num": args.mask_num}
        of_new |= {f"--{what}-steps": getattr(args, f"{what}_steps") for what in _PREPARING}
        if given := [name for name, value in of_new.items() if value]:  # of 0 steps none are run
            raise ParameterError(f"{', '.join(given)}: only of a new model; leave out either this or --from")
    if args.data and args.scenes is not None:
        raise ParameterError("--scenes is of the shapes world: with --data say --questions per step")


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="pixelrefer train", description=__doc__)
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
