# SPDX-License-Identifier: Apache-2.0
"""SAM 2's steps on one frame: features, prompting, propagating, remembering. No state but weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelrefer_ros.tracking.masks import mask_for_model
from pixelrefer_ros.tracking.memory import MemoryBank, Recall
from pixelrefer_ros.tracking.prompts import PointPrompt
from pixelrefer_ros.tracking.shape import Sam2Shape
from pixelrefer_ros.types import Mask, RgbImage

MASK_LOGIT = 10.0
"""Logit of a pixel that a mask prompt sets; minus this off the object (SAM 2's values)."""
PREVIOUS_LOGIT_LIMIT = 32.0
"""An earlier mask given back as a prompt is clamped to this, as in SAM 2."""


@dataclass(frozen=True, eq=False, slots=True)
class Features:
    """A picture's features: what the decoder and the memory read.

    Attributes:
        coarse: (1, C, h, w).
        skip0: (1, C/8, 4h, 4w).
        skip1: (1, C/4, 2h, 2w).
        plain: (1, C, h, w), ``coarse`` with the no-memory embedding: for a prompt that no memory conditions.
    """

    coarse: Tensor
    skip0: Tensor
    skip1: Tensor
    plain: Tensor


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


class Sam2Steps(ABC):
    """The steps between the four components; who computes the components is left open.

    Attributes:
        shape: sizes of the model.
        device: where its tensors live.
        dtype: of its features, memories and pointers.
    """

    def __init__(self, shape: Sam2Shape, *, device: torch.device, dtype: torch.dtype) -> None:
        self.shape = shape
        self.device = device
        self.dtype = dtype

    @property
    def image_size(self) -> int:
        """Side of the model's input, pixels."""
        return self.shape.image_size

    @abstractmethod
    def encode(self, rgb: RgbImage) -> Features:
        """Encode a picture, (H, W, 3) uint8."""

    @abstractmethod
    def with_memory(self, features: Features, recall: Recall) -> Tensor:
        """Return features conditioned on N objects' memories: (N, C, h, w)."""

    @abstractmethod
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
        """Decode one mask per object.

        Args:
            conditioned: (N or 1, C, h, w).
            features: of the frame.
            points: (N, P, 2) float32, pixels of the model's input.
            labels: (N, P) int32, see `MaskDecoder`.
            mask: (N, 4h, 4w) logits given as a prompt; None: none is given.
            best: take the best of three masks, rather than the single mask.
        """

    @abstractmethod
    def remember(self, features: Features, mask: Tensor, present: Tensor) -> Tensor:
        """Encode memories, (N, h * w, 64), of masks (N, S, S) in [0, 1]; ``present`` is (N,) bool."""

    @abstractmethod
    def shrink_mask(self, full: Tensor) -> Tensor:
        """Shrink given masks (N, S, S) of 0 and 1 to the logits (N, 4h, 4w) that the decoder reads."""

    def new_bank(self) -> MemoryBank:
        """Return an empty memory bank of this model's shape."""
        return MemoryBank(
            slots=self.shape.slots,
            pointer_slots=self.shape.pointer_slots,
            grid=self.shape.side**2,
            channels=self.shape.memory_channels,
            width=self.shape.width,
            device=self.device,
            dtype=self.dtype,
        )

    def without_memory(self, features: Features) -> Tensor:
        """Return features for a prompt that no memory conditions: (1, C, h, w)."""
        return features.plain

    def propagate(self, conditioned: Tensor, features: Features) -> Decoded:
        """Decode objects from memory alone; ``conditioned`` is (N, C, h, w)."""
        points, labels = self._no_points(conditioned.shape[0])
        best = self.shape.takes_best(0, first=False)
        return self.decode(conditioned, features, points, labels, None, best=best)

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
        if previous is not None:
            previous = previous.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
        best = self.shape.takes_best(points.shape[1], first=first)
        return self.decode(conditioned, features, points, labels, previous, best=best)

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
        points, labels = self._no_points(count)
        # The best of three masks, and features without the no-memory embedding: as transformers does.
        made = self.decode(features.coarse, features, points, labels, self.shrink_mask(full), best=True)
        logits = F.interpolate(
            (full * 2 - 1)[:, None] * MASK_LOGIT,
            size=features.skip0.shape[-2:],
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )[:, 0]
        return Decoded(logits, torch.full((count,), MASK_LOGIT, device=self.device), made.pointer), full

    def remember_prompted(self, features: Features, decoded: Decoded, full: Tensor | None = None) -> Tensor:
        """Encode memories of prompted masks, whose pixels count as certain: (N, h * w, 64)."""
        mask = (enlarge(decoded.logits, self.image_size) > 0).float() if full is None else full
        return self.remember(features, mask, decoded.score > 0)

    def remember_tracked(self, features: Features, decoded: Decoded) -> Tensor:
        """Encode memories of propagated masks: (N, h * w, 64)."""
        mask = enlarge(decoded.logits, self.image_size).sigmoid()
        return self.remember(features, mask, decoded.score > 0)

    def _no_points(self, count: int) -> tuple[Tensor, Tensor]:
        """What stands for no point: one point with the label -1 for each of ``count`` objects."""
        points = torch.zeros(count, 1, 2, device=self.device)
        return points, torch.full((count, 1), -1, dtype=torch.int32, device=self.device)


def enlarge(logits: Tensor, image_size: int) -> Tensor:
    """Enlarge mask logits (N, 4h, 4w) to the model's input (N, S, S), bilinear."""
    return F.interpolate(
        logits[:, None], size=(image_size, image_size), mode="bilinear", align_corners=False
    ).squeeze(1)
