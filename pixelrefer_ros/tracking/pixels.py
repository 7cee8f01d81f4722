# SPDX-License-Identifier: Apache-2.0
"""A camera picture as SAM 2's image encoder reads it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from pixelrefer_ros.types import RgbImage

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def to_pixel_values(
    rgb: RgbImage, image_size: int, *, device: torch.device | str, dtype: torch.dtype
) -> torch.Tensor:
    """Scale a picture to the model's square (the aspect ratio is not kept, as in SAM 2) and normalise it.

    The scaling runs on the CPU in uint8: a quarter of the float's memory traffic, and only the small
    picture travels to the device.

    Args:
        rgb: (H, W, 3) uint8.
        image_size: side of the model's input, pixels.
        device: where the result lives.
        dtype: of the result.

    Returns:
        (1, 3, image_size, image_size), normalised with ImageNet's mean and deviation.
    """
    # torch warns when it wraps memory that numpy calls read-only; frames often are.
    pixels = np.require(rgb, requirements=["C", "W"])
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    if picture.shape[-2:] != (image_size, image_size):
        picture = F.interpolate(
            picture, size=(image_size, image_size), mode="bilinear", align_corners=False, antialias=True
        )
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=device).view(1, 3, 1, 1) * 255
    return ((picture.to(device).float() - mean) / std).to(dtype)
