# SPDX-License-Identifier: Apache-2.0
"""SAM 2 as an exported folder: four graphs and the manifest."""

from __future__ import annotations

from pathlib import Path

import torch
from pixelrefer_ros.export.choices import DTYPES, check_opset, versions
from pixelrefer_ros.export.graph import export_graph, open_folder
from pixelrefer_ros.export.tracker_graphs import plan_tracker_graphs

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.runtime import Manifest, write_manifest
from pixelrefer_ros.tracking.checkpoint import load_sam2, locate_sam2, source_hash
from pixelrefer_ros.tracking.shape import Sam2Shape


def export_tracker(
    model_folder: str | Path,
    out: str | Path,
    *,
    name: str = "",
    precision: str = "fp32",
    opset: int = 24,
    image_size: int | None = None,
    max_objects: int = 16,
) -> Path:
    """Export a SAM 2 checkpoint; `StreamTracker.from_pretrained` runs what comes out.

    The graphs are ``image_encoder``, ``memory_attention``, ``mask_decoder`` and ``memory_encoder``, see
    `pixelrefer_ros.tracking`; scaling pictures and masks, and the memory bank, stay outside. Points,
    their embedding, mask logits, scores and rotary encodings are float32 in every precision.

    Args:
        model_folder: as `StreamTracker.from_pretrained` takes it.
        out: folder for the result; made if it is missing.
        name: of the model, for the manifest; empty takes the checkpoint's.
        precision: fp32, fp16 or bf16; the parts that need it stay float32 in each.
        opset: 24, or 20 for TensorRT before 10.15.
        image_size: side of the model's input, pixels, a multiple of 32; None: as in the checkpoint.
        max_objects: objects in one run, at most; more are followed in several.

    Returns:
        The folder.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ParameterError: a setting outside its choices.
    """
    if precision not in DTYPES:
        raise ParameterError(
            f"precision is {precision!r}: a tracker is exported in one of {', '.join(DTYPES)}"
        )
    check_opset(opset)
    if max_objects < 1:
        raise ParameterError(f"max_objects is {max_objects}: give 1 or more")
    path, out = locate_sam2(model_folder), Path(out)
    dtype = str(DTYPES[precision]).removeprefix("torch.")
    model = load_sam2(path, dtype=dtype, image_size=image_size)
    open_folder(out)
    with torch.no_grad():  # inference mode's tensors cannot be traced
        plans = plan_tracker_graphs(model, opset=opset, max_objects=max_objects)
        graphs = {plan.name: export_graph(plan, out, opset=opset) for plan in plans}
    name = name or Path(model_folder).name
    shrink = model.mask_downsample
    write_manifest(
        out,
        Manifest(
            kind="sam2",
            name=name,
            source={"name": name, "content_hash": source_hash(path)},
            precision=precision,
            opset=opset,
            versions=versions(),
            settings=Sam2Shape.of(model.config).to_settings()
            | {
                "max_objects": max_objects,
                # 17 numbers that make a decoder's prompt of a given mask.
                "mask_downsample": {
                    "weight": shrink.weight.float().flatten().tolist(),
                    "bias": shrink.bias.float().tolist(),
                },
            },
            graphs=graphs,
        ),
    )
    return out
