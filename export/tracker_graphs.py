# SPDX-License-Identifier: Apache-2.0
"""SAM 2's components as they are exported: tensors in, tensors out, constants baked.

The names of the parameters and of the outputs are those of the graphs' inputs and outputs;
`pixelrefer_ros.tracking.graphs` feeds them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pixelrefer_ros.export.graph import GraphPlan
from pixelrefer_ros.export.operators import FUSED_OPSET
from torch import Tensor, nn
from transformers import Sam2VideoModel

from pixelrefer_ros.runtime import Profile
from pixelrefer_ros.tracking.memory_attention import MemoryAttention
from pixelrefer_ros.tracking.pixels import normalise
from pixelrefer_ros.tracking.prompts import MAX_POINTS
from pixelrefer_ros.tracking.sam2 import Sam2

OBJECTS, POINTS = "N", "P"
"""The symbols: N objects in one batch, P prompt points of each."""
USUAL_OBJECTS = 4
"""Engines are fastest at so many objects."""


class ImageGraph(nn.Module):
    """The image encoder, normalisation included: a camera's bytes go in, three per pixel."""

    def __init__(self, sam2: Sam2) -> None:
        """Share the weights of ``sam2``."""
        super().__init__()
        self.encoder, self.dtype = sam2.image_encoder, sam2.dtype

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(1, S, S, 3) uint8 to what `ImageEncoder` gives."""
        outputs: tuple[Tensor, ...] = self.encoder(normalise(pixels, self.dtype))
        return outputs


class DecoderGraph(nn.Module):
    """The mask decoder, the embedding of a given mask included; each object has one, or none."""

    def __init__(self, sam2: Sam2) -> None:
        """Share the weights of ``sam2``."""
        super().__init__()
        self.decoder = sam2.mask_decoder

    def forward(
        self,
        conditioned: Tensor,
        skip0: Tensor,
        skip1: Tensor,
        points: Tensor,
        labels: Tensor,
        mask: Tensor,
        mask_given: Tensor,
        take_best: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `MaskDecoder`; ``mask`` (N, 4h, 4w) float32 counts where ``mask_given`` (N,) bool is set."""
        decoder = self.decoder
        dense = torch.where(mask_given[:, None, None, None], decoder.embed_mask(mask), decoder.no_mask())
        decoded: tuple[Tensor, Tensor, Tensor] = decoder(
            conditioned, skip0, skip1, points, labels, dense, take_best
        )
        return decoded


def plan_tracker_graphs(model: Sam2VideoModel, *, opset: int, max_objects: int) -> Iterator[GraphPlan]:
    """The four graphs of a model, one after the other.

    Args:
        model: in the dtype to export.
        opset: of ONNX.
        max_objects: objects in one run, at most; a graph takes at least 2.
    """
    sam2 = Sam2(model)
    shape, dtype = sam2.shape, sam2.dtype
    width, side, image = shape.width, shape.side, shape.image_size
    count, points = 2, 3
    most = max(max_objects, count)  # the example's: with a bound of 1, its size would become the only one
    objects = {OBJECTS: Profile(1, min(USUAL_OBJECTS, most), most)}
    features = torch.zeros(1, width, side, side, dtype=dtype)
    yield GraphPlan(
        name="image_encoder",
        module=ImageGraph(sam2),
        inputs={"pixels": torch.zeros(1, image, image, 3, dtype=torch.uint8)},
        shapes={},
        outputs=["coarse", "skip0", "skip1", "plain"],
        profiles={},
    )
    yield GraphPlan(
        name="memory_attention",
        module=MemoryAttention(model, whole_masks=opset >= FUSED_OPSET),
        inputs={
            "features": features,
            "memory": torch.zeros(count, shape.slots, side * side, shape.memory_channels, dtype=dtype),
            "memory_valid": torch.ones(count, shape.slots, dtype=torch.bool),
            "pointers": torch.zeros(count, shape.pointer_slots, width, dtype=dtype),
            "pointer_distance": torch.ones(count, shape.pointer_slots),
            "pointer_valid": torch.ones(count, shape.pointer_slots, dtype=torch.bool),
        },
        shapes={
            name: {0: OBJECTS}
            for name in ("memory", "memory_valid", "pointers", "pointer_distance", "pointer_valid")
        },
        outputs=["conditioned"],
        profiles=objects,
    )
    yield GraphPlan(
        name="mask_decoder",
        module=DecoderGraph(sam2),
        inputs={
            "conditioned": torch.zeros(count, width, side, side, dtype=dtype),
            "skip0": torch.zeros(1, width // 8, 4 * side, 4 * side, dtype=dtype),
            "skip1": torch.zeros(1, width // 4, 2 * side, 2 * side, dtype=dtype),
            "points": torch.zeros(count, points, 2),
            "labels": torch.ones(count, points, dtype=torch.int32),
            "mask": torch.zeros(count, 4 * side, 4 * side),
            "mask_given": torch.ones(count, dtype=torch.bool),
            "take_best": torch.ones(count, dtype=torch.bool),
        },
        shapes={name: {0: OBJECTS} for name in ("conditioned", "mask", "mask_given", "take_best")}
        | {name: {0: OBJECTS, 1: POINTS} for name in ("points", "labels")},
        outputs=["logits", "score", "pointer"],
        profiles={**objects, POINTS: Profile(1, 2, MAX_POINTS)},
    )
    yield GraphPlan(
        name="memory_encoder",
        module=sam2.memory_encoder,
        inputs={
            "features": features,
            "mask": torch.zeros(count, image, image),
            "present": torch.ones(count, dtype=torch.bool),
        },
        shapes={"mask": {0: OBJECTS}, "present": {0: OBJECTS}},
        outputs=["memory"],
        profiles=objects,
    )
