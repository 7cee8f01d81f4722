# SPDX-License-Identifier: Apache-2.0
"""SAM 2's steps on one frame: features, prompting, propagating, remembering. No state but weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import Sam2VideoModel

from pixelrefer_ros.tracking.components import ImageEncoder, MaskDecoder, MemoryEncoder, enlarge
from pixelrefer_ros.tracking.masks import mask_for_model
from pixelrefer_ros.tracking.memory import MemoryBank, Recall
from pixelrefer_ros.tracking.memory_attention import MemoryAttention
from pixelrefer_ros.tracking.pixels import to_pixel_values
from pixelrefer_ros.tracking.prompts import PointPrompt
from pixelrefer_ros.types import Mask, RgbImage

MASK_LOGIT = 10.0
"""Logit of a pixel that a mask prompt sets; minus this off the object (SAM 2's values)."""
PREVIOUS_LOGIT_LIMIT = 32.0
"""An earlier mask given back as a prompt is clamped to this, as in SAM 2."""


@dataclass(frozen=True, eq=False, slots=True)
class Features:
    """A picture's features: (1, C, h, w), (1, C/8, 4h, 4w), (1, C/4, 2h, 2w)."""

    coarse: Tensor
    skip0: Tensor
    skip1: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Decoded:
    """What the decoder says of N objects in one frame.

    Attributes:
        logits: (N, 4h, 4w) float32.
        score: (N,) float32 logits; the object is present above 0.
        pointer: (N, C).
    """

    logits: Tensor
    score: Tensor
    pointer: Tensor


class Sam2:
    """The four components with the steps between them.

    Attributes:
        image_encoder, memory_attention, memory_encoder: the components.
        decode_best: decoder that takes the best of three masks (tracking, single click).
        decode_one: decoder that gives one mask (box, several points).
        image_size: side of the model's input, pixels.
    """

    def __init__(self, model: Sam2VideoModel) -> None:
        """Build the components on the weights of ``model`` (in its device and dtype)."""
        config = model.config
        self.image_size = int(config.image_size)
        self.device = model.no_memory_embedding.device
        self.dtype = model.no_memory_embedding.dtype
        self.image_encoder = ImageEncoder(model)
        self.memory_attention = MemoryAttention(model)
        self.decode_best = MaskDecoder(model, multimask=True)
        self.decode_one = MaskDecoder(model, multimask=False)
        self.memory_encoder = MemoryEncoder(model)
        self._no_memory = model.no_memory_embedding.view(1, -1, 1, 1)
        self._mask_downsample = model.mask_downsample
        self._config = config
        self._bank_shape = {
            "slots": config.num_maskmem,
            "pointer_slots": config.max_object_pointers_in_encoder,
            "grid": model.backbone_feature_sizes[-1][0] * model.backbone_feature_sizes[-1][1],
            "channels": model.mem_dim,
            "width": model.hidden_dim,
        }

    def new_bank(self) -> MemoryBank:
        """Return an empty memory bank of this model's shape."""
        return MemoryBank(**self._bank_shape, device=self.device, dtype=self.dtype)

    def encode(self, rgb: RgbImage) -> Features:
        """Encode a picture, (H, W, 3) uint8."""
        return Features(
            *self.image_encoder(to_pixel_values(rgb, self.image_size, device=self.device, dtype=self.dtype))
        )

    def without_memory(self, features: Features) -> Tensor:
        """Return features for a prompt that no memory conditions: (1, C, h, w)."""
        return features.coarse + self._no_memory

    def with_memory(self, features: Features, recall: Recall) -> Tensor:
        """Return features conditioned on N objects' memories: (N, C, h, w)."""
        return self.memory_attention(
            features.coarse,
            recall.memory,
            recall.memory_valid,
            recall.pointers,
            recall.pointer_distance,
            recall.pointer_valid,
        )

    def propagate(self, conditioned: Tensor, features: Features) -> Decoded:
        """Decode objects from memory alone; ``conditioned`` is (N, C, h, w)."""
        count = conditioned.shape[0]
        points = torch.zeros(count, 1, 2, device=self.device)
        labels = torch.full((count, 1), -1, dtype=torch.int32, device=self.device)
        decoder = self._decoder(0, first=False)
        return Decoded(
            *decoder(conditioned, features.skip0, features.skip1, points, labels, decoder.no_mask())
        )

    def point_at(
        self,
        conditioned: Tensor,
        features: Features,
        prompts: Sequence[PointPrompt],
        size: tuple[int, int],
        *,
        first: bool,
        previous: Tensor | None = None,
    ) -> Decoded:
        """Decode N objects from points or boxes.

        Args:
            conditioned: (N or 1, C, h, w).
            features: of the frame.
            prompts: N prompts, all of the same number of points.
            size: (height, width) of the frame that the points are in.
            first: whether the objects start here, rather than being refined.
            previous: (N, 4h, 4w) logits of the mask to refine.
        """
        height, width = size
        scale = np.array([self.image_size / width, self.image_size / height], np.float32)
        points = torch.from_numpy(np.stack([p.points * scale for p in prompts])).to(self.device)
        labels = torch.from_numpy(np.stack([p.labels for p in prompts])).to(self.device)
        decoder = self._decoder(points.shape[1], first=first)
        dense = decoder.no_mask()
        if previous is not None:
            dense = decoder.embed_mask(previous.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT))
        conditioned = conditioned.expand(len(prompts), -1, -1, -1)
        return Decoded(*decoder(conditioned, features.skip0, features.skip1, points, labels, dense))

    def take_masks(self, features: Features, masks: Sequence[Mask]) -> tuple[Decoded, Tensor]:
        """Take N given masks as the result; the decoder only makes their pointers.

        Args:
            features: of the frame.
            masks: N masks of (H, W) bool.

        Returns:
            The result, and the masks at the model's input, (N, S, S) of 0 and 1.
        """
        full = torch.cat([mask_for_model(mask, self.image_size) for mask in masks]).to(self.device)
        count = len(masks)
        decoder = self.decode_best  # as transformers does
        prompt = self._mask_downsample(full[:, None].to(self.dtype))[:, 0]
        points = torch.zeros(count, 1, 2, device=self.device)
        labels = torch.full((count, 1), -1, dtype=torch.int32, device=self.device)
        coarse = features.coarse.expand(count, -1, -1, -1)
        pointer = decoder(coarse, features.skip0, features.skip1, points, labels, decoder.embed_mask(prompt))[
            2
        ]
        logits = torch.nn.functional.interpolate(
            (full * 2 - 1)[:, None] * MASK_LOGIT,
            size=features.skip0.shape[-2:],
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )[:, 0]
        return Decoded(logits, torch.full((count,), MASK_LOGIT, device=self.device), pointer), full

    def remember_prompted(self, features: Features, decoded: Decoded, full: Tensor | None = None) -> Tensor:
        """Encode memories of prompted masks, whose pixels count as certain: (N, h * w, 64)."""
        mask = (enlarge(decoded.logits, self.image_size) > 0).float() if full is None else full
        return self.memory_encoder(features.coarse, mask, decoded.score > 0)

    def remember_tracked(self, features: Features, decoded: Decoded) -> Tensor:
        """Encode memories of propagated masks: (N, h * w, 64)."""
        mask = enlarge(decoded.logits, self.image_size).sigmoid()
        return self.memory_encoder(features.coarse, mask, decoded.score > 0)

    def _decoder(self, points: int, *, first: bool) -> MaskDecoder:
        """The decoder that the checkpoint's config asks for with so many prompt points."""
        config = self._config
        best = (
            config.multimask_output_in_sam
            and (first or config.multimask_output_for_tracking)
            and config.multimask_min_pt_num <= points <= config.multimask_max_pt_num
        )
        return self.decode_best if best else self.decode_one
