# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite in torch: frames and masks to object tokens, questions to streamed answers."""

from __future__ import annotations

from pixelrefer_ros.model.bpe import write_bpe_tokenizer
from pixelrefer_ros.model.checkpoint import EMBEDDINGS, HEAD, REGION_PREFIX, load_network
from pixelrefer_ros.model.compiled import CompiledNetwork, open_network
from pixelrefer_ros.model.config import (
    MODEL_TYPE,
    PATCH,
    PATCH_BUDGET,
    PixelReferConfig,
    PositionReading,
    read_config,
)
from pixelrefer_ros.model.crops import GLOBAL_SIDE, ObjectCrop, crop_object, global_image
from pixelrefer_ros.model.kmeans import CONVERGED as KMEANS_CONVERGED
from pixelrefer_ros.model.kmeans import ITERATIONS as KMEANS_ITERATIONS
from pixelrefer_ros.model.network import GlobalFeatures, ObjectTokens, PixelReferNetwork
from pixelrefer_ros.model.object_encoder import ObjectEncoder
from pixelrefer_ros.model.patches import patchify
from pixelrefer_ros.model.pixelrefer import PixelReferLite
from pixelrefer_ros.model.position import patch_positions
from pixelrefer_ros.model.prompt import TURN_END, TimedTokens, chat_pieces, region_text
from pixelrefer_ros.model.region_network import RegionNetwork
from pixelrefer_ros.model.tiny import write_tiny_checkpoint
from pixelrefer_ros.model.tokenizer import TOKENIZER_FILES, ChatTokenizer
from pixelrefer_ros.model.vision_config import VISION_PREFIX, vision_config
from pixelrefer_ros.model.weights import SINGLE
from pixelrefer_ros.runtime import GREEDY, NO_TOKEN, AnswerRequest, Finish, GeneratedToken, Sampling

__all__ = [
    "EMBEDDINGS",
    "GLOBAL_SIDE",
    "GREEDY",
    "HEAD",
    "KMEANS_CONVERGED",
    "KMEANS_ITERATIONS",
    "MODEL_TYPE",
    "NO_TOKEN",
    "PATCH",
    "PATCH_BUDGET",
    "REGION_PREFIX",
    "SINGLE",
    "TOKENIZER_FILES",
    "TURN_END",
    "VISION_PREFIX",
    "AnswerRequest",
    "ChatTokenizer",
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
    "chat_pieces",
    "crop_object",
    "global_image",
    "load_network",
    "open_network",
    "patch_positions",
    "patchify",
    "read_config",
    "region_text",
    "vision_config",
    "write_bpe_tokenizer",
    "write_tiny_checkpoint",
]
