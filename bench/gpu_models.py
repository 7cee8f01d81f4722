# SPDX-License-Identifier: Apache-2.0
"""The published shapes with random weights, made where they run; their exports and TensorRT engines."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pixelrefer_ros.engines import Asked, build_engines, newest_opset
from pixelrefer_ros.export import export_language, export_tracker
from random_2b import CONFIG, VISION
from transformers import (
    Qwen2ForCausalLM,
    Sam2VideoModel,
    VideoLlama3VisionConfig,
    VideoLlama3VisionModel,
)

from pixelrefer_ros.model import ObjectEncoder, PixelReferNetwork
from pixelrefer_ros.model.config import PixelReferConfig, read_config
from pixelrefer_ros.runtime.tensorrt_plans import Gpu
from pixelrefer_ros.tracking.checkpoint import set_image_size
from pixelrefer_ros.tracking.meta_config import sam2_config
from pixelrefer_ros.tracking.tiny import randomise, tiny_config, write_sam2

REGION = 7
"""The id of ``<REGION>``: random models need no tokenizer."""


@dataclass(frozen=True)
class Shape:
    """A region language model by its sizes.

    Attributes:
        fields: of its ``config.json``.
        vision: of the vision encoder's config.
        prompt: positions of the prompt after which decoding is timed.
        context: positions that exported caches have.
    """

    fields: dict[str, Any]
    vision: dict[str, int]
    prompt: int = 1000
    context: int = 2048

    def config(self) -> PixelReferConfig:
        """The configuration of its networks."""
        fields = self.fields | {"region_token_index": REGION}
        return read_config(Path("random"), fields, VideoLlama3VisionConfig(**self.vision))


SHAPES = {
    "2b": Shape(CONFIG, VISION),
    # Qwen2.5-7B: its embeddings and its head are two matrices.
    "7b": Shape(
        CONFIG
        | {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
        },
        VISION,
    ),
    "smoke": Shape(
        CONFIG
        | {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 512,
            "max_position_embeddings": 256,
            "max_window_layers": 2,
        },
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 14,
        },
        prompt=64,
        context=128,
    ),
}
TRACKERS = {"sam2.1-tiny": (lambda: sam2_config("tiny"), 512), "smoke": (tiny_config, 128)}
"""Configuration and side of the input, px."""


def random_network(shape: Shape, device: torch.device, dtype: torch.dtype) -> PixelReferNetwork:
    """The networks with the weights that their classes start from, made on the device: no file, no copy.

    The same seed on the same kind of device gives the same weights, in another process too.
    """
    config = shape.config()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    # Not float32 and then `to`: that would need twice the memory, and round the rotary tables.
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            network = PixelReferNetwork(
                config,
                VideoLlama3VisionModel(config.vision),
                ObjectEncoder(config.vision.hidden_size, config.language.hidden_size, config.mask_num),
                Qwen2ForCausalLM(config.language),
            )
    finally:
        torch.set_default_dtype(before)
    for module in (network.vision, network.object_encoder, network.language):
        module.eval().requires_grad_(False)
    return network


def weight_bytes(shape: Shape) -> int:
    """Bytes of the language model in bfloat16: what one token has to read.

    Of a model whose head is a matrix of its own the input embeddings count, too, as in the goal.
    """
    with torch.device("meta"):
        language = Qwen2ForCausalLM(shape.config().language)
    return 2 * sum(parameter.numel() for parameter in language.parameters())


def build_language(
    network: PixelReferNetwork,
    shape: Shape,
    folder: Path,
    trt: ModuleType,
    gpu: Gpu,
    *,
    precision: str,
    profile: str | None = None,
) -> dict[str, float]:
    """Exports networks that lie on the CPU and builds the engines; seconds of each.

    Args:
        network: in the dtype of the precision.
        shape: its sizes.
        folder: for the export, with the engines in it; made if it is missing.
        trt: the module ``tensorrt``.
        gpu: to build for.
        precision: of the export.
        profile: of the machine, see `pixelrefer_ros.engines.Asked`; None: by the GPU.
    """
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "config.json").write_text(json.dumps(shape.fields), encoding="utf-8")
    export = functools.partial(
        export_language,
        network,
        source,
        folder,
        name="random",
        content_hash="",
        precision=precision,
        opset=newest_opset(trt),
        context_length=shape.context,
    )
    return _timed(export, lambda: build_engines(folder, trt, gpu, Asked(profile)))


def write_tracker(name: str, folder: Path) -> Path:
    """Writes an untrained SAM 2 of one of `TRACKERS`; its folder."""
    make, image_size = TRACKERS[name]
    config = make()
    set_image_size(config, image_size)
    folder.mkdir(parents=True, exist_ok=True)
    write_sam2(randomise(Sam2VideoModel(config)), folder)
    return folder


def build_tracker(
    checkpoint: Path,
    folder: Path,
    trt: ModuleType,
    gpu: Gpu,
    *,
    precision: str,
    profile: str | None = None,
) -> dict[str, float]:
    """Exports a tracker and builds its engines; see `build_language`."""
    export = functools.partial(
        export_tracker, checkpoint, folder, precision=precision, opset=newest_opset(trt)
    )
    return _timed(export, lambda: build_engines(folder, trt, gpu, Asked(profile)))


def _timed(export: Callable[[], object], build: Callable[[], object]) -> dict[str, float]:
    start = time.perf_counter()
    export()
    exported = time.perf_counter()
    build()
    return {"export_s": exported - start, "build_s": time.perf_counter() - exported}
