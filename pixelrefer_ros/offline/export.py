# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer export``: a checkpoint to a folder of ONNX graphs that runs alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from pixelrefer_ros.errors import BackendError, ParameterError, PixelReferError
from pixelrefer_ros.model import load_network
from pixelrefer_ros.model.checkpoint import content_hash
from pixelrefer_ros.model.config import read_json
from pixelrefer_ros.model.hub import find_checkpoint
from pixelrefer_ros.model_source import resolve_model
from pixelrefer_ros.runtime import Manifest, is_exported, newest_opset, read_manifest
from pixelrefer_ros.runtime.manifest import OPSETS, PRECISIONS
from pixelrefer_ros.runtime.whole_files import not_written

LANGUAGE_OPTIONS = ("activations", "context", "patch_budget", "fixed_context", "int8_vision")
TRACKER_OPTIONS = ("image_size", "max_objects")
"""Arguments that only one kind of model has."""


def export_model(
    folder: Path,
    out: Path,
    *,
    name: str = "",
    precision: str = "fp32",
    activations: str = "fp32",
    opset: int | None = None,
    context_length: int = 0,
    patch_budget: int = 0,
    least_patches: int = 0,
    fixed_context: bool = False,
    int8_vision: bool = False,
) -> Manifest:
    """Exports a region language model; see `pixelrefer_ros.export.export_language`.

    Args:
        folder: the checkpoint.
        out: the folder to write.
        name: of the model; empty takes the folder's.
        precision: fp32, fp16, bf16, int8 or int4.
        activations: what the graphs compute in where the weights are int8 or int4: fp32, fp16 or bf16.
        opset: 24 or 20; None takes `default_opset`.
        context_length: positions of prompt and answer together, at most; 0 takes the default.
        patch_budget: patches in one call of the vision encoder, at most; 0 takes the model's.
        least_patches: the patch budget is at least this.
        fixed_context: caches of exactly that many positions.
        int8_vision: the vision encoder multiplies integers of 8 bits, for a CPU.

    Raises:
        PixelReferError: the checkpoint cannot be loaded, or a choice is refused.
        OSError: the folder cannot be written; it has no manifest then.
    """
    from pixelrefer_ros.export import CONTEXT_LENGTH, check_choices, export_dtype, export_language

    opset = default_opset() if opset is None else opset
    check_choices(precision, opset)
    dtype = export_dtype(precision, activations)
    check_folders(folder, out)
    network = load_network(folder, device=torch.device("cpu"), dtype=dtype)
    return export_language(
        network,
        folder,
        out,
        name=name or folder.resolve().name,
        content_hash=content_hash(folder),
        precision=precision,
        opset=opset,
        context_length=context_length or CONTEXT_LENGTH,
        patch_budget=max(patch_budget or network.config.patch_budget, least_patches),
        fixed_context=fixed_context,
        int8_vision=int8_vision,
    )


def default_opset() -> int:
    """The newest opset that this machine's ONNX Runtime runs; the newest of all where there is none."""
    try:
        return newest_opset()
    except BackendError:
        return max(OPSETS)


def check_folders(checkpoint: Path, out: Path) -> None:
    """Refuses to export an exported folder, into the checkpoint or into a file.

    Raises:
        ParameterError: that was asked for.
    """
    if is_exported(checkpoint):
        raise ParameterError(f"{checkpoint} is an exported folder already: give the checkpoint it came from")
    if out.exists() and not out.is_dir():
        raise ParameterError(f"--out is {out}, which is a file: give a folder, which need not exist")
    if out.resolve() == checkpoint.resolve():
        raise ParameterError(f"--out is {out}, the checkpoint itself: give another folder")


def is_tracker(checkpoint: Path) -> bool:
    """Whether a checkpoint is a SAM 2: by its config, or one of Meta's ``.pt`` files alone.

    Raises:
        CheckpointError: there is a config, and it cannot be read.
    """
    if (checkpoint / "config.json").is_file():
        return str(read_json(checkpoint / "config.json").get("model_type")).startswith("sam2")
    return checkpoint.suffix == ".pt" or any(checkpoint.glob("*.pt"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.description = (
        "Write a model as ONNX graphs, in a folder that the parameters `model` and `tracker_model` take. Its "
        "config says which kind of model it is: a region language model (PixelRefer-Lite) or a tracker "
        "(SAM 2)."
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a folder, hub id or Meta's .pt file, as the parameters `model` and `tracker_model` take it",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the weights (fp32); trackers: no int8, int4",
    )
    parser.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        help="24, or 20 for TensorRT before 10.15; by default what the installed ONNX Runtime runs",
    )
    language = parser.add_argument_group("of a region language model")
    language.add_argument(
        "--activations",
        choices=("fp32", "fp16", "bf16"),
        help="what is computed in where the weights are int8 or int4 (fp32, for a CPU)",
    )
    language.add_argument("--context", metavar="N", type=int, help="positions of prompt and answer (4096)")
    language.add_argument(
        "--patch-budget", metavar="N", type=int, help="patches in one pass of the vision encoder"
    )
    language.add_argument(
        "--fixed-context",
        action="store_true",
        default=None,
        help="caches of exactly --context positions, not up to so many",
    )
    language.add_argument(
        "--int8-vision",
        action="store_true",
        default=None,
        help="the vision encoder multiplies integers of 8 bits, which is faster on a CPU (ONNX Runtime only)",
    )
    tracker = parser.add_argument_group("of a tracker")
    tracker.add_argument(
        "--image-size",
        metavar="PX",
        type=int,
        help="side of the model's square input, a multiple of 32 (the checkpoint's)",
    )
    tracker.add_argument("--max-objects", metavar="N", type=int, help="objects in one run (16)")


def run(args: argparse.Namespace) -> int:
    """Runs the verb: 0 when everything is written, 2 when it could not be."""
    try:
        for option in ("context", "patch_budget", "max_objects"):
            value = getattr(args, option)
            if value is not None and value < 1:
                raise ParameterError(f"{_spelled(option)} is {value}; give 1 or more")
        manifest = _export(args)
    except PixelReferError as error:
        print(f"pixelrefer export: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pixelrefer export: {not_written(f'--out {args.out}', error)}", file=sys.stderr)
        return 2
    for graph in manifest.graphs.values():
        size = sum((args.out / name).stat().st_size for name in (graph.file, *(d.file for d in graph.data)))
        print(f"{graph.file:<24}{size / 1e6:>10.1f} MB  {graph.sha256[:12]}")
    if quantised := manifest.settings.get("quantised"):
        print(
            f"decoder.onnx: {quantised['kernels']} of {quantised['of_kernels']} weight matrices are "
            f"{manifest.precision}, {100 * quantised['share']:.1f} % of their numbers"
        )
    print(f"{args.out}: {manifest.name}, {manifest.precision}, opset {manifest.opset}")
    return 0


def _export(args: argparse.Namespace) -> Manifest:
    found = resolve_model(args.model)
    if isinstance(found, Path) and found.suffix == ".pt" and found.is_file():
        checkpoint, name = found, found.stem
    else:
        checkpoint, name = find_checkpoint(found)
    check_folders(checkpoint, args.out)
    tracker = is_tracker(checkpoint)
    _refuse(args, checkpoint, tracker=tracker)
    opset = args.opset or default_opset()
    if args.opset is None and opset < max(OPSETS):
        print(
            f"pixelrefer export: opset {opset}, the newest of ours that the installed ONNX Runtime runs; for "
            f"another machine give --opset {max(OPSETS)}",
            file=sys.stderr,
        )
    if not tracker:
        return export_model(
            checkpoint,
            args.out,
            name=name,
            precision=args.precision,
            activations=args.activations or "fp32",
            opset=opset,
            context_length=args.context or 0,
            patch_budget=args.patch_budget or 0,
            fixed_context=bool(args.fixed_context),
            int8_vision=bool(args.int8_vision),
        )
    from pixelrefer_ros.export import export_tracker

    given = {option: getattr(args, option) for option in TRACKER_OPTIONS}
    given = {option: value for option, value in given.items() if value is not None}
    return read_manifest(
        export_tracker(checkpoint, args.out, name=name, precision=args.precision, opset=opset, **given)
    )


def _refuse(args: argparse.Namespace, checkpoint: Path, *, tracker: bool) -> None:
    """Refuses arguments of the other kind of model."""
    kinds = ("a region language model", "a tracker (SAM 2)")
    kind, other = kinds[::-1] if tracker else kinds
    foreign = LANGUAGE_OPTIONS if tracker else TRACKER_OPTIONS
    given = [_spelled(option) for option in foreign if getattr(args, option) is not None]
    if given:
        raise ParameterError(
            f"{checkpoint} is {kind}, and only {other} is exported with {', '.join(given)}: leave that out"
        )


def _spelled(option: str) -> str:
    return f"--{option.replace('_', '-')}"
