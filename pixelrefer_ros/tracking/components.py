# SPDX-License-Identifier: Apache-2.0
"""SAM 2's image encoder, mask decoder and memory encoder, each one graph over the object batch.

Together with `MemoryAttention` these are the four components of a tracked frame. They share the
weights of one ``transformers`` `Sam2VideoModel`, hold no state, and take and give tensors only, so
that each can be exported by itself. N is the number of objects, C the model width, h = w = image
size / 16 the feature grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2VideoModel

ABSENT_LOGIT = -1024.0
"""Mask logit everywhere when the decoder says that the object is not in the picture."""


class ImageEncoder(nn.Module):
    """Hiera and its feature pyramid (SAM 2, section 4): one picture to features, once for all objects."""

    def __init__(self, model: Sam2VideoModel) -> None:
        """Share the weights of ``model``."""
        super().__init__()
        self.vision_encoder = model.vision_encoder
        self.conv_s0 = model.mask_decoder.conv_s0
        self.conv_s1 = model.mask_decoder.conv_s1

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode pictures.

        Args:
            pixel_values: (B, 3, S, S), normalised.

        Returns:
            Features (B, C, h, w), and the decoder's skip features (B, C/8, 4h, 4w), (B, C/4, 2h, 2w).
        """
        fine, middle, coarse = self.vision_encoder(pixel_values).fpn_hidden_states
        return coarse, self.conv_s0(fine), self.conv_s1(middle)


class MaskDecoder(nn.Module):
    """Prompt encoder, mask decoder and object pointer.

    Attributes:
        multimask: whether the best of three masks is taken (tracking, and a single click) or the
            single mask, replaced by the best of three where it is unstable (a box, several points).
    """

    def __init__(self, model: Sam2VideoModel, *, multimask: bool) -> None:
        """Share the weights of ``model``."""
        super().__init__()
        self.multimask = multimask
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        self.object_pointer_proj = model.object_pointer_proj
        self.no_object_pointer = model.no_object_pointer
        # Baked: it depends on the image size only.
        dtype = model.no_memory_embedding.dtype
        position = model.get_image_wide_positional_embeddings().detach().to(dtype)
        self.register_buffer("image_position", position, persistent=False)

    def no_mask(self) -> Tensor:
        """Return the dense embedding that stands for "no mask given": (1, C, 1, 1)."""
        return self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)

    def embed_mask(self, logits: Tensor) -> Tensor:
        """Embed mask logits (N, 4h, 4w) given as a prompt: (N, C, h, w)."""
        weight = self.prompt_encoder.mask_embed.conv1.weight
        return self.prompt_encoder.mask_embed(logits[:, None].to(weight.dtype))

    def forward(
        self, features: Tensor, skip0: Tensor, skip1: Tensor, points: Tensor, labels: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode one mask per object.

        Args:
            features: (N, C, h, w), conditioned on memory, or with the no-memory embedding.
            skip0: (1, C/8, 4h, 4w) of `ImageEncoder`.
            skip1: (1, C/4, 2h, 2w) of `ImageEncoder`.
            points: (N, P, 2) float32 pixels of the model's input, P at least 1.
            labels: (N, P) int32: 1 on the object, 0 off it, 2 and 3 corners of a box, -1 no point.
                Without a prompt P is 1 and the label -1; more -1 points would change the result.
            dense: `no_mask` or `embed_mask`.

        Returns:
            Mask logits (N, 4h, 4w) float32, `ABSENT_LOGIT` where the object is absent; object score
            logit (N,) float32, present above 0; object pointer (N, C).
        """
        # Point coordinates stay in float32 (their embedding too): bfloat16 would move them by pixels.
        sparse = self.prompt_encoder._embed_points(points[:, None], labels[:, None], pad=True)
        masks, quality, tokens, score = self.mask_decoder(
            image_embeddings=features,
            image_positional_embeddings=self.image_position,
            sparse_prompt_embeddings=sparse.to(features.dtype),
            dense_prompt_embeddings=dense.to(features.dtype),
            multimask_output=self.multimask,
            high_resolution_features=[skip0, skip1],
        )
        best = (
            quality[:, 0].argmax(-1) if self.multimask else torch.zeros_like(labels[:, 0], dtype=torch.int64)
        )
        rows = torch.arange(features.shape[0], device=features.device)
        mask, token, score = masks[rows, 0, best], tokens[rows, 0, best], score[:, 0, 0]
        present = score > 0
        pointer = torch.where(present[:, None], self.object_pointer_proj(token), self.no_object_pointer)
        logits = torch.where(present[:, None, None], mask.float(), ABSENT_LOGIT)
        return logits, score.float(), pointer


class MemoryEncoder(nn.Module):
    """A mask on its frame's features becomes one memory of the object."""

    def __init__(self, model: Sam2VideoModel) -> None:
        """Share the weights of ``model``."""
        super().__init__()
        self.memory_encoder = model.memory_encoder
        self.absent_embedding = model.occlusion_spatial_embedding_parameter
        self.scale = float(model.config.sigmoid_scale_for_mem_enc)
        self.bias = float(model.config.sigmoid_bias_for_mem_enc)

    def forward(self, features: Tensor, mask: Tensor, present: Tensor) -> Tensor:
        """Encode one memory per object.

        Args:
            features: (1, C, h, w) of `ImageEncoder`, without memory.
            mask: (N, S, S) in [0, 1]: probabilities of a tracked mask, 0 or 1 of a prompted one.
            present: (N,) bool, whether the object is in the picture.

        Returns:
            (N, h * w, 64), row by row.
        """
        scaled = (mask * self.scale + self.bias)[:, None].to(features.dtype)
        memory, _ = self.memory_encoder(features, scaled)
        if self.absent_embedding is not None:
            absent = (~present)[:, None, None, None].to(memory.dtype)
            memory = memory + absent * self.absent_embedding[..., None, None]
        return memory.flatten(2).transpose(1, 2)


def enlarge(logits: Tensor, image_size: int) -> Tensor:
    """Enlarge mask logits (N, 4h, 4w) to the model's input (N, S, S), bilinear."""
    return F.interpolate(
        logits[:, None], size=(image_size, image_size), mode="bilinear", align_corners=False
    ).squeeze(1)
