# SPDX-License-Identifier: Apache-2.0
"""SAM 2's steps with its components computed by torch: the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pixelrefer_ros.tracking.components import ImageEncoder, MemoryEncoder
from pixelrefer_ros.tracking.mask_decoder import MaskDecoder
from pixelrefer_ros.tracking.memory import Recall
from pixelrefer_ros.tracking.memory_attention import MemoryAttention
from pixelrefer_ros.tracking.pixels import normalise, to_pixels
from pixelrefer_ros.tracking.shape import Sam2Shape
from pixelrefer_ros.tracking.steps import Decoded, Features, Sam2Steps
from pixelrefer_ros.types import RgbImage

if TYPE_CHECKING:
    from transformers import Sam2VideoModel


class Sam2(Sam2Steps):
    """The four components on the weights of one model.

    Attributes:
        image_encoder, memory_attention, mask_decoder, memory_encoder: the components.
    """

    def __init__(self, model: Sam2VideoModel) -> None:
        """Build the components on the weights of ``model`` (in its device and dtype)."""
        embedding = model.no_memory_embedding
        super().__init__(Sam2Shape.of(model.config), device=embedding.device, dtype=embedding.dtype)
        self.image_encoder = ImageEncoder(model)
        self.memory_attention = MemoryAttention(model)
        self.mask_decoder = MaskDecoder(model)
        self.memory_encoder = MemoryEncoder(model)
        self._mask_downsample = model.mask_downsample

    def encode(self, rgb: RgbImage) -> Features:
        """See `Sam2Steps.encode`."""
        pixels = to_pixels(rgb, self.image_size).to(self.device)
        return Features(*self.image_encoder(normalise(pixels, self.dtype)))

    def with_memory(self, features: Features, recall: Recall) -> Tensor:
        """See `Sam2Steps.with_memory`."""
        return self.memory_attention(
            features.coarse,
            recall.memory,
            recall.memory_valid,
            recall.pointers,
            recall.pointer_distance,
            recall.pointer_valid,
        )

    def decode(
        self,
        conditioned: Tensor,
        features: Features,
        points: Tensor,
        labels: Tensor,
        mask: Tensor | None,
        *,
        best: bool,
    ) -> Decoded:
        """See `Sam2Steps.decode`."""
        dense = self.mask_decoder.no_mask() if mask is None else self.mask_decoder.embed_mask(mask)
        conditioned = conditioned.expand(points.shape[0], -1, -1, -1)
        take_best = torch.full((points.shape[0],), best, device=self.device)
        return Decoded(
            *self.mask_decoder(conditioned, features.skip0, features.skip1, points, labels, dense, take_best)
        )

    def remember(self, features: Features, mask: Tensor, present: Tensor) -> Tensor:
        """See `Sam2Steps.remember`."""
        return self.memory_encoder(features.coarse, mask, present)

    def shrink_mask(self, full: Tensor) -> Tensor:
        """See `Sam2Steps.shrink_mask`."""
        return self._mask_downsample(full[:, None].to(self.dtype))[:, 0]
