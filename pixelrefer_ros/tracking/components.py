# SPDX-License-Identifier: Apache-2.0
"""SAM 2's image encoder and memory encoder, each one graph.

Together with `MaskDecoder` and `MemoryAttention` these are the four components of a tracked frame. They
share the weights of one ``transformers`` `Sam2VideoModel`, hold no state, and take and give tensors only, so
that each can be exported by itself. N is the number of objects, C the model width, h = w = image
size / 16 the feature grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Sam2VideoModel


class ImageEncoder(nn.Module):
    """Hiera and its feature pyramid (SAM 2, section 4): one picture to features, once for all objects."""

    def __init__(self, model: Sam2VideoModel) -> None:
        """Share the weights of ``model``."""
        super().__init__()
        self.vision_encoder = model.vision_encoder
        self.conv_s0 = model.mask_decoder.conv_s0
        self.conv_s1 = model.mask_decoder.conv_s1
        self.no_memory = model.no_memory_embedding

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode pictures.

        Args:
            pixel_values: (B, 3, S, S), normalised.

        Returns:
            Features (B, C, h, w); the decoder's skip features (B, C/8, 4h, 4w), (B, C/4, 2h, 2w); and the
            features with the no-memory embedding (B, C, h, w), for prompts that no memory conditions.
        """
        fine, middle, coarse = self.vision_encoder(pixel_values).fpn_hidden_states
        plain = coarse + self.no_memory.view(1, -1, 1, 1)
        return coarse, self.conv_s0(fine), self.conv_s1(middle), plain


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
