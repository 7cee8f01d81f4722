# SPDX-License-Identifier: Apache-2.0
"""How a mask in training is compared with the truth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COMPARED = 2
"""Masks are compared at twice the decoder's resolution, half of the model's input: edges count finely."""


def mask_losses(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Focal cross-entropy over the object's area, and 1 minus the soft overlap.

    A mask of true size comes of pixels that all weigh the same. But an object covers a hundredth of a
    picture, and a model that knows nothing then learns to answer "nowhere", and stays there. To weigh
    object and background alike gets it going, and makes masks too large. So the background's pixels weigh as
    in the latter while a mask is wrong, and come to weigh what the object's do as it becomes right.

    Args:
        logits: (N, 4h, 4w).
        truth: (N, S, S) bool, each with at least one pixel.

    Returns:
        Two losses (N,).
    """
    side = COMPARED * logits.shape[-1]
    fine = F.interpolate(logits[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]
    target = F.avg_pool2d(truth[:, None].float(), truth.shape[-1] // side)[:, 0]
    found = fine.sigmoid()
    both, area = (found * target).flatten(1).sum(1), target.flatten(1).sum(1)
    either = found.flatten(1).sum(1) + area - both
    alike = area / (side * side - area).clamp(min=1)
    outside = torch.maximum((both / either).detach(), alike).clamp(max=1)[:, None, None]
    entropy = F.binary_cross_entropy_with_logits(fine, target, reduction="none")
    missed = (found - target).abs()  # focal: what is clear already counts less
    weighed = entropy * missed * (target + outside * (1 - target))
    edge = weighed.flatten(1).sum(1) / (area + 1)
    dice = 1 - (2 * both + 1) / (either + both + 1)
    return edge, dice


def jaccard(logits: Tensor, truth: Tensor) -> Tensor:
    """(N,) J at the model's input size of logits (N, 4h, 4w) and masks (N, S, S)."""
    found = (
        F.interpolate(logits[:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0
    )
    union = (found | truth).flatten(1).sum(1).clamp(min=1)
    return torch.as_tensor((found & truth).flatten(1).sum(1) / union)
