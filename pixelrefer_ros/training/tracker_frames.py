# SPDX-License-Identifier: Apache-2.0
"""SAM 2's image encoder in training: many frames at once, and only some of them with gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2VideoModel

from pixelrefer_ros.tracking import MEAN, STD


@dataclass(frozen=True, eq=False, slots=True)
class FrameFeatures:
    """Frames as the decoder reads them.

    Attributes:
        coarse: (..., C, h, w).
        skip0: (..., C/8, 4h, 4w).
        skip1: (..., C/4, 2h, 2w).
    """

    coarse: Tensor
    skip0: Tensor
    skip1: Tensor

    def of(self, clip_of: Tensor, time: int) -> FrameFeatures:
        """The frames (B, T, ...) of one time, for N objects in their clips."""
        return FrameFeatures(*(level[clip_of, time] for level in (self.coarse, self.skip0, self.skip1)))

    def rows(self, chosen: Tensor) -> FrameFeatures:
        """Some of N objects."""
        return FrameFeatures(self.coarse[chosen], self.skip0[chosen], self.skip1[chosen])


def encode_frames(model: Sam2VideoModel, pictures: Tensor, *, learning: float = 1.0) -> FrameFeatures:
    """Features of all frames of all clips.

    Args:
        model: in training.
        pictures: (B, T, 3, S, S) uint8.
        learning: share of the frames, drawn anew each time, through which the encoder learns: backward
            costs twice what forward does, and the frames of a clip are much alike.

    Returns:
        Features (B, T, ...).
    """
    mean = torch.tensor(MEAN, device=pictures.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=pictures.device).view(1, 3, 1, 1) * 255
    values = (pictures.flatten(0, 1).float() - mean) / std
    count = round(learning * len(values))
    if count >= len(values):
        levels = _levels(model, values)
    else:
        order = torch.randperm(len(values), device=values.device)
        with torch.no_grad():
            fixed = _levels(model, values[order[count:]])
        back = order.argsort()
        taught = _levels(model, values[order[:count]]) if count else tuple(f[:0] for f in fixed)
        levels = tuple(torch.cat(pair)[back] for pair in zip(taught, fixed, strict=True))
    return FrameFeatures(*(level.unflatten(0, pictures.shape[:2]) for level in levels))


def _levels(model: Sam2VideoModel, values: Tensor) -> tuple[Tensor, ...]:
    """Coarse features and the decoder's skips, as `ImageEncoder` computes them, in fewer operations.

    The neck's widening of the two fine levels and the decoder's narrowing of the same are linear: they are
    multiplied first. The position encodings, which transformers computes for every level, are not needed.
    """
    backbone, neck, decoder = model.vision_encoder.backbone, model.vision_encoder.neck, model.mask_decoder
    hidden = backbone(values).intermediate_hidden_states
    coarsest, coarse = (_pointwise(hidden[i], neck.convs[3 - i]) for i in (3, 2))
    coarse = coarse + F.interpolate(coarsest, scale_factor=2.0, mode="nearest")
    skip1, skip0 = (
        _pointwise(hidden[i], neck.convs[3 - i], narrow)
        for i, narrow in ((1, decoder.conv_s1), (0, decoder.conv_s0))
    )
    return coarse, skip0, skip1


def _pointwise(hidden: Tensor, widen: nn.Conv2d, narrow: nn.Conv2d | None = None) -> Tensor:
    """One or two 1 x 1 convolutions on (B, h, w, C) as one matrix: (B, O, h, w)."""
    weight: Tensor = widen.weight.flatten(1)
    bias = widen.bias
    if narrow is not None and bias is not None:
        second = narrow.weight.flatten(1)
        weight, bias = second @ weight, F.linear(bias, second, narrow.bias)
    return F.linear(hidden, weight, bias).permute(0, 3, 1, 2)
