# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite as an exported folder: four graphs, the manifest, config and tokenizer."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from pixelrefer_ros.export.choices import check_choices, versions
from pixelrefer_ros.export.graph import GraphPlan, export_graph, open_folder
from pixelrefer_ros.export.integer_products import multiply_integers
from pixelrefer_ros.export.language_decoder import DecoderGraph, EmbedGraph
from pixelrefer_ros.export.language_objects import ObjectsGraph
from pixelrefer_ros.export.language_vision import VisionGraph
from pixelrefer_ros.export.quantise import QUANTISED, Quantised, quantise_weights

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.model import PixelReferConfig, PixelReferNetwork
from pixelrefer_ros.model.config import PATCH
from pixelrefer_ros.model.crops import CONTEXT_SIDE, GLOBAL_SIDE
from pixelrefer_ros.model.tokenizer import TOKENIZER_FILES
from pixelrefer_ros.runtime import Graph, Manifest, Profile, write_manifest

CONTEXT_LENGTH = 4096
"""Positions an exported decoder has by default, if the model has as many: about 100 looks at an object."""
CONTEXT_PATCHES, GLOBAL_PATCHES = (CONTEXT_SIDE // PATCH) ** 2, (GLOBAL_SIDE // PATCH) ** 2
MAX_OBJECTS, MAX_FRAMES, MAX_BATCH = 16, 16, 8
_EXAMPLE_CONTEXT = 11  # what the decoder is traced with; a bound of positions must not be below it


def plan_graphs(
    network: PixelReferNetwork,
    *,
    opset: int,
    context_length: int,
    patch_budget: int,
    precision: str = "fp32",
    int8_vision: bool = False,
) -> Iterator[GraphPlan]:
    """The four graphs of a model, one after the other.

    Args:
        network: the networks, in the dtype to export.
        opset: of ONNX.
        context_length: positions of the decoder's caches, at most.
        patch_budget: patches in one call of the vision encoder, at most.
        precision: int8 and int4 quantise the decoder; the others are what the networks' dtype says.
        int8_vision: see `export_language`.
    """
    vision_width, width = network.config.vision.hidden_size, network.config.language.hidden_size
    patches = Profile(1, min(1024, patch_budget), max(patch_budget, GLOBAL_PATCHES))
    dtype = network.dtype
    pictures, objects = torch.tensor([[4, 6], [5, 5], [3, 2]]), 3
    total = int(pictures.prod(dim=1).sum())
    yield GraphPlan(
        name="vision",
        module=VisionGraph(network.vision, opset),
        inputs={"patches": torch.randn(total, 3 * PATCH * PATCH, dtype=dtype), "grids": pictures},
        shapes={"patches": {0: "P"}, "grids": {0: "G"}},
        outputs=["features"],
        profiles={"P": patches, "G": Profile(1, 2, 2 * MAX_OBJECTS)},
        rewrite=multiply_integers if int8_vision else None,
    )
    yield GraphPlan(
        name="objects",
        module=ObjectsGraph(network.object_encoder, network.config, opset),
        inputs={
            "features": torch.randn(total, vision_width, dtype=dtype),
            "chosen": torch.arange(total) % 3 > 0,
            "grids": pictures,
            "boxes": torch.tensor([[0, 0, 90, 120]] * objects),
            "frame_sizes": torch.tensor([[480, 640]] * objects),
            "local": torch.randn(objects, CONTEXT_PATCHES, vision_width, dtype=dtype),
            "whole": torch.randn(2, GLOBAL_PATCHES, vision_width, dtype=dtype),
            "frame_of": torch.tensor([0, 1, 1]),
        },
        shapes={
            "features": {0: "P"},
            "chosen": {0: "P"},
            **{name: {0: "K"} for name in ("grids", "boxes", "frame_sizes", "local", "frame_of")},
            "whole": {0: "F"},
        },
        outputs=["tokens"],
        profiles={"P": patches, "K": Profile(1, 1, MAX_OBJECTS), "F": Profile(1, 1, MAX_FRAMES)},
    )
    yield GraphPlan(
        name="embed",
        module=EmbedGraph(network.language, network.config.region_token_id),
        inputs={"ids": torch.arange(5), "objects": torch.randn(3, width, dtype=dtype)},
        shapes={"ids": {0: "L"}, "objects": {0: "R"}},
        outputs=["embeddings"],
        profiles={
            "L": Profile(1, min(256, context_length), context_length),
            "R": Profile(1, min(network.config.mask_num, context_length), context_length),
        },
        on_host=True,
    )
    yield _plan_decoder(network, opset, context_length, precision)


def _plan_decoder(network: PixelReferNetwork, opset: int, context_length: int, precision: str) -> GraphPlan:
    language = network.config.language
    heads = language.num_key_value_heads
    head_width = getattr(language, "head_dim", None) or language.hidden_size // language.num_attention_heads
    dtype = network.dtype
    past = [
        f"past_{kind}_{layer}" for layer in range(language.num_hidden_layers) for kind in ("key", "value")
    ]
    present = [name.replace("past", "present") for name in past]
    return GraphPlan(
        name="decoder",
        module=DecoderGraph(network.language, opset),
        inputs={
            "embeddings": torch.randn(2, 3, language.hidden_size, dtype=dtype),
            "start": torch.tensor([2, 0]),
            "last": torch.tensor([2, 1]),
            **{name: torch.zeros(2, heads, _EXAMPLE_CONTEXT, head_width, dtype=dtype) for name in past},
        },
        shapes={
            "embeddings": {0: "B", 1: "S"},
            "start": {0: "B"},
            "last": {0: "B"},
            **{name: {0: "B", 2: "C"} for name in past},
        },
        outputs=["logits", *present],
        profiles={
            "B": Profile(1, 1, MAX_BATCH),
            "S": Profile(1, 1, context_length),
            "C": Profile(1, context_length, context_length),
        },
        in_place=list(zip(past, present, strict=True)),
        rewrite=functools.partial(quantise_weights, bits=QUANTISED[precision])
        if precision in QUANTISED
        else None,
    )


def export_language(
    network: PixelReferNetwork,
    source: Path,
    out: Path,
    *,
    name: str,
    content_hash: str,
    precision: str = "fp32",
    opset: int = 24,
    context_length: int = CONTEXT_LENGTH,
    patch_budget: int = 0,
    fixed_context: bool = False,
    int8_vision: bool = False,
) -> Manifest:
    """Exports a model to a folder that runs alone.

    Args:
        network: the networks on the CPU, in the dtype of `export_dtype`.
        source: the checkpoint's folder; its config and tokenizer are copied.
        out: the folder to write; made if it does not exist.
        name: of the model, for the manifest.
        content_hash: of the checkpoint.
        precision: one of `PRECISIONS`; int8 and int4 are of the decoder's weights, the rest is in the
            networks' dtype.
        opset: 24, or 20 for TensorRT before 10.15 and older ONNX Runtimes.
        context_length: positions of prompt and answer together, at most; the model's own bounds it too.
        patch_budget: patches in one call of the vision encoder, at most; 0 takes the model's.
        fixed_context: caches of exactly context_length positions, instead of up to so many.
        int8_vision: the vision encoder multiplies integers of 8 bits, for a CPU; the networks are in float32.

    Raises:
        ParameterError: an unknown precision or opset, too short a context, or two choices that do not go
            together.
    """
    check_choices(precision, opset)
    if int8_vision and network.dtype != torch.float32:
        raise ParameterError(
            f"int8_vision is for a CPU, and the networks compute in {network.dtype}: export in fp32, or in "
            "int8 or int4 with activations in fp32"
        )
    context_length = min(context_length, network.config.language.max_position_embeddings)
    least = max(_EXAMPLE_CONTEXT, network.config.mask_num) + 1
    if context_length < least:
        raise ParameterError(
            f"a context of {context_length} positions is too short for an object's {network.config.mask_num} "
            f"tokens and a question: give {least} or more, hundreds for questions of use (--context)"
        )
    open_folder(out)
    patch_budget = patch_budget or network.config.patch_budget
    graphs: dict[str, Graph] = {}
    settings: dict[str, Any] = {
        "patch_budget": patch_budget,
        "context_length": context_length,
        "mask_num": network.config.mask_num,
        "int8_vision": int8_vision,
    }
    for plan in plan_graphs(
        network,
        opset=opset,
        context_length=context_length,
        patch_budget=patch_budget,
        precision=precision,
        int8_vision=int8_vision,
    ):
        if plan.rewrite is not None:
            plan = dataclasses.replace(plan, rewrite=_noted(plan.rewrite, settings))
        if fixed_context and "C" in plan.profiles:
            plan = with_fixed_context(plan, context_length)
        graphs[plan.name] = export_graph(plan, out, opset=opset)
    _copy_config(network.config, source, out)
    manifest = Manifest(
        kind="pixelrefer-lite",
        name=name,
        source={"name": name, "content_hash": content_hash},
        precision=precision,
        opset=opset,
        versions=versions(),
        settings=settings,
        graphs=graphs,
    )
    write_manifest(out, manifest)
    return manifest


def _noted(
    rewrite: Callable[[onnx_ir.Model], object], settings: dict[str, Any]
) -> Callable[[onnx_ir.Model], None]:
    """The same rewriting; how much it quantised goes to the settings of the manifest."""

    def rewritten(model: onnx_ir.Model) -> None:
        found = rewrite(model)
        if isinstance(found, Quantised):
            settings["quantised"] = dataclasses.asdict(found)

    return rewritten


def with_fixed_context(plan: GraphPlan, context_length: int) -> GraphPlan:
    """The same decoder, with caches of exactly that many positions."""
    inputs = {
        name: torch.zeros(*tensor.shape[:2], context_length, tensor.shape[3], dtype=tensor.dtype)
        if "C" in plan.shapes[name].values()
        else tensor
        for name, tensor in plan.inputs.items()
    }
    shapes = {
        name: {axis: symbol for axis, symbol in axes.items() if symbol != "C"}
        for name, axes in plan.shapes.items()
    }
    profiles = {symbol: profile for symbol, profile in plan.profiles.items() if symbol != "C"}
    return dataclasses.replace(plan, inputs=inputs, shapes=shapes, profiles=profiles)


def _copy_config(config: PixelReferConfig, source: Path, out: Path) -> None:
    """Config and tokenizer; the config says what else is only in the weights' shapes or the tokenizer."""
    fields = json.loads((source / "config.json").read_text(encoding="utf-8"))
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size")
    fields["vision_config"] = {name: getattr(config.vision, name) for name in sizes}
    if config.region_token_id is not None:
        fields["region_token_index"] = config.region_token_id
    (out / "config.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
