# SPDX-License-Identifier: Apache-2.0
"""SAM 2 as an exported folder: four graphs and the manifest."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from pixelrefer_ros.export.graph import export_graph
from pixelrefer_ros.export.tracker_graphs import plan_tracker_graphs

from pixelrefer_ros import __version__
from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.runtime import Manifest, write_manifest
from pixelrefer_ros.runtime.manifest import OPSETS
from pixelrefer_ros.tracking.checkpoint import load_sam2, locate_sam2, source_hash
from pixelrefer_ros.tracking.shape import Sam2Shape

TRACKER_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precisions SAM 2 is exported in, and their dtypes; the parts that need it stay float32 in each."""


def export_tracker(
    model_folder: str | Path,
    out: str | Path,
    *,
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
        precision: one of `TRACKER_PRECISIONS`.
        opset: 24, or 20 for TensorRT before 10.15.
        image_size: side of the model's input, pixels, a multiple of 32; None: as in the checkpoint.
        max_objects: objects in one batch, at most.

    Returns:
        The folder.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ParameterError: a setting outside its choices.
    """
    if precision not in TRACKER_PRECISIONS:
        raise ParameterError(
            f"precision is {precision!r}: a tracker is exported in one of {', '.join(TRACKER_PRECISIONS)}"
        )
    if opset not in OPSETS:
        raise ParameterError(f"opset is {opset}: give one of {', '.join(map(str, OPSETS))}")
    if max_objects < 1:
        raise ParameterError(f"max_objects is {max_objects}: give 1 or more")
    path, out = locate_sam2(model_folder), Path(out)
    model = load_sam2(path, dtype=TRACKER_PRECISIONS[precision], image_size=image_size)
    out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():  # inference mode's tensors cannot be traced
        plans = plan_tracker_graphs(model, opset=opset, max_objects=max_objects)
        graphs = {plan.name: export_graph(plan, out, opset=opset) for plan in plans}
    versions = {name: version(name) for name in ("torch", "transformers", "onnx", "onnxscript")}
    shrink = model.mask_downsample
    write_manifest(
        out,
        Manifest(
            kind="sam2",
            name=Path(model_folder).name,
            source={"name": Path(model_folder).name, "content_hash": source_hash(path)},
            precision=precision,
            opset=opset,
            versions=versions | {"pixelrefer_ros": __version__},
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
