# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite in torch: frames and masks to object tokens, questions to streamed answers."""

from __future__ import annotations

from pixelrefer_ros.model.checkpoint import load_network
from pixelrefer_ros.model.compiled import CompiledNetwork, open_network
from pixelrefer_ros.model.config import PATCH_BUDGET, PixelReferConfig, PositionReading
from pixelrefer_ros.model.crops import ObjectCrop, crop_object, global_image
from pixelrefer_ros.model.network import GlobalFeatures, ObjectTokens, PixelReferNetwork
from pixelrefer_ros.model.object_encoder import ObjectEncoder
from pixelrefer_ros.model.patches import patchify
from pixelrefer_ros.model.pixelrefer import PixelReferLite, never
from pixelrefer_ros.model.prompt import REGION_TAG, TimedTokens, region_text
from pixelrefer_ros.model.region_network import RegionNetwork
from pixelrefer_ros.model.tiny import write_tiny_checkpoint
from pixelrefer_ros.runtime import GREEDY, NO_TOKEN, Finish, GeneratedToken, Sampling

__all__ = [
    "GREEDY",
    "NO_TOKEN",
    "PATCH_BUDGET",
    "REGION_TAG",
    "CompiledNetwork",
    "Finish",
    "GeneratedToken",
    "GlobalFeatures",
    "ObjectCrop",
    "ObjectEncoder",
    "ObjectTokens",
    "PixelReferConfig",
    "PixelReferLite",
    "PixelReferNetwork",
    "PositionReading",
    "RegionNetwork",
    "Sampling",
    "TimedTokens",
    "crop_object",
    "global_image",
    "load_network",
    "never",
    "open_network",
    "patchify",
    "region_text",
    "write_tiny_checkpoint",
]
