# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer export``: a checkpoint to a folder of ONNX graphs that runs alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from pixelrefer_ros.errors import ParameterError, PixelReferError
from pixelrefer_ros.model import load_network
from pixelrefer_ros.model.checkpoint import content_hash
from pixelrefer_ros.model.hub import find_checkpoint
from pixelrefer_ros.model_source import resolve_model
from pixelrefer_ros.runtime import Manifest, is_exported
from pixelrefer_ros.runtime.manifest import OPSETS, PRECISIONS


def export_model(
    folder: Path,
    out: Path,
    *,
    name: str = "",
    precision: str = "fp32",
    activations: str = "fp32",
    opset: int = 24,
    context_length: int = 0,
    patch_budget: int = 0,
    least_patches: int = 0,
    fixed_context: bool = False,
) -> Manifest:
    """Exports a region language model; see `pixelrefer_ros.export.export_language`.

    Args:
        folder: the checkpoint.
        out: the folder to write.
        name: of the model; empty takes the folder's.
        precision: fp32, fp16, bf16, int8 or int4.
        activations: what the graphs compute in where the weights are int8 or int4: fp32, fp16 or bf16.
        opset: 24 or 20.
        context_length: positions of prompt and answer together, at most; 0 takes the default.
        patch_budget: patches in one call of the vision encoder, at most; 0 takes the model's.
        least_patches: the patch budget is at least this.
        fixed_context: caches of exactly that many positions.

    Raises:
        PixelReferError: the checkpoint cannot be loaded, or a choice is refused.
    """
    from pixelrefer_ros.export.language import (  # only here is onnx wanted
        CONTEXT_LENGTH,
        check_choices,
        export_dtype,
        export_language,
    )

    check_choices(precision, opset)
    dtype = export_dtype(precision, activations)
    if is_exported(folder):
        raise ParameterError(f"{folder} is an exported folder already: give the checkpoint it came from")
    if out.resolve() == folder.resolve():
        raise ParameterError(f"--out is {out}, the checkpoint itself: give another folder")
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
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="a folder or hub id, as the parameter `model` takes it"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder to write")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the weights (fp32)")
    parser.add_argument(
        "--activations",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="what is computed in where the weights are int8 or int4 (fp32, for a CPU)",
    )
    parser.add_argument(
        "--opset", type=int, choices=OPSETS, default=24, help="24, or 20 for TensorRT before 10.15"
    )
    parser.add_argument(
        "--context", metavar="N", type=int, default=0, help="positions of prompt and answer (4096)"
    )
    parser.add_argument(
        "--patch-budget", metavar="N", type=int, default=0, help="patches in one pass of the vision encoder"
    )
    parser.add_argument(
        "--fixed-context",
        action="store_true",
        help="caches of exactly --context positions, not up to so many",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the verb: 0 when everything is written, 2 when it could not be."""
    try:
        for option in ("context", "patch_budget"):
            if getattr(args, option) < 0:
                raise ParameterError(
                    f"--{option.replace('_', '-')} is {getattr(args, option)}; give 1 or more"
                )
        folder, name = find_checkpoint(resolve_model(args.model))
        manifest = export_model(
            folder,
            args.out,
            name=name,
            precision=args.precision,
            activations=args.activations,
            opset=args.opset,
            context_length=args.context,
            patch_budget=args.patch_budget,
            fixed_context=args.fixed_context,
        )
    except PixelReferError as error:
        print(f"pixelrefer export: {error}", file=sys.stderr)
        return 2
    for graph in manifest.graphs.values():
        size = sum((args.out / name).stat().st_size for name in (graph.file, *(d.file for d in graph.data)))
        print(f"{graph.file:<20}{size / 1e6:>10.1f} MB  {graph.sha256[:12]}")
    print(f"{args.out}: {manifest.name}, {manifest.precision}, opset {manifest.opset}")
    return 0
