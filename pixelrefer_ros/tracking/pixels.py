# SPDX-License-Identifier: Apache-2.0
"""A camera picture as SAM 2's image encoder reads it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from pixelrefer_ros.types import RgbImage

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def to_pixels(rgb: RgbImage, image_size: int) -> torch.Tensor:
    """Scale a picture to the model's square; the aspect ratio is not kept, as in SAM 2.

    The scaling runs on the CPU in uint8: a quarter of the float's memory traffic, and only the small
    picture travels to the device.

    Args:
        rgb: (H, W, 3) uint8.
        image_size: side of the model's input, pixels.

    Returns:
        (1, image_size, image_size, 3) uint8, contiguous.
    """
    # torch warns when it wraps memory that numpy calls read-only; frames often are.
    pixels = np.require(rgb, requirements=["C", "W"])
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    if picture.shape[-2:] != (image_size, image_size):
        picture = F.interpolate(
            picture, size=(image_size, image_size), mode="bilinear", align_corners=False, antialias=True
        )
    return picture.permute(0, 2, 3, 1).contiguous()


def normalise(pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Normalise pixels (B, S, S, 3) uint8 with ImageNet's mean and deviation: (B, 3, S, S) of ``dtype``."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1) * 255
    return ((pixels.float().permute(0, 3, 1, 2) - mean) / std).to(dtype)


def to_pixel_values(
    rgb: RgbImage, image_size: int, *, device: torch.device | str, dtype: torch.dtype
) -> torch.Tensor:
    """`to_pixels`, then `normalise`: a picture as (1, 3, image_size, image_size) on a device."""
    return normalise(to_pixels(rgb, image_size).to(device), dtype)
