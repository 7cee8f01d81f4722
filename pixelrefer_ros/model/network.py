# SPDX-License-Identifier: Apache-2.0
"""The three networks of PixelRefer-Lite in torch; no tokenizer is needed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pixelrefer_ros.model.config import PixelReferConfig
from pixelrefer_ros.model.crops import ObjectCrop
from pixelrefer_ros.model.object_encoder import ObjectEncoder
from pixelrefer_ros.model.position import patch_positions
from pixelrefer_ros.model.region_network import GlobalFeatures, ObjectTokens, RegionNetwork
from pixelrefer_ros.runtime import Decoder, GraphDecoder, TorchSession, embedding_of

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM, VideoLlama3VisionModel

__all__ = ["GlobalFeatures", "ObjectTokens", "PixelReferNetwork", "RegionNetwork"]


@dataclass(frozen=True, eq=False)
class PixelReferNetwork(RegionNetwork):
    """The loaded networks, all of one dtype on one device.

    Attributes:
        config: what shapes the computation.
        vision: patches to features; no attention crosses from one picture to another.
        object_encoder: features of a region to object tokens.
        language: object tokens and text to text.
    """

    config: PixelReferConfig
    vision: VideoLlama3VisionModel
    object_encoder: ObjectEncoder
    language: Qwen2ForCausalLM

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return self.language.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return self.language.model.embed_tokens.weight.dtype

    @torch.inference_mode()
    def encode_patches(self, patches: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Features of pictures; see `RegionNetwork.encode_patches`."""
        features: torch.Tensor = self.vision(
            pixel_values=patches.to(self.dtype),
            grid_thw=torch.tensor([(1, *grid) for grid in grids], device=self.device),
            merge_sizes=torch.ones(len(grids), dtype=torch.long, device=self.device),
        ).last_hidden_state
        return features

    @torch.inference_mode()
    def object_tokens(
        self,
        crops: Sequence[ObjectCrop],
        crop_features: Sequence[torch.Tensor],
        context_features: Sequence[torch.Tensor],
        whole: torch.Tensor,
    ) -> torch.Tensor:
        """Object tokens from encoded pictures; see `RegionNetwork.object_tokens`."""
        reading = self.config.position_reading
        tokens: torch.Tensor = self.object_encoder(
            crop_features,
            [
                patch_positions(crop.grid, crop.box, crop.frame_size, reading, device=self.device)
                for crop in crops
            ],
            [torch.from_numpy(crop.grid_mask > 0).flatten().to(self.device) for crop in crops],
            torch.stack(list(context_features)),
            whole,
        )
        return tokens

    @torch.inference_mode()
    def prompt_embeddings(self, token_ids: Sequence[int], objects: Sequence[ObjectTokens]) -> torch.Tensor:
        """A prompt with its object tokens; see `RegionNetwork.prompt_embeddings`."""
        places = self.region_places(token_ids, objects)
        ids = torch.tensor(list(token_ids), dtype=torch.long, device=self.device)
        embeddings: torch.Tensor = self.language.model.embed_tokens(ids)
        if objects:
            values = torch.cat([tokens.to(embeddings) for tokens in objects])
            embeddings = embeddings.index_copy(0, torch.tensor(places, device=self.device), values)
        return embeddings

    @torch.inference_mode()
    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits after every position; see `RegionNetwork.logits`."""
        logits: torch.Tensor = self.language(inputs_embeds=embeddings[None], use_cache=False).logits[0]
        return logits

    def decoder(self) -> Decoder:
        """The language model with caches of its own."""
        return GraphDecoder(
            TorchSession(self.language),
            embedding_of(self.language),
            context_length=self.config.language.max_position_embeddings,
            device=self.device,
        )
