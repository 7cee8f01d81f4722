# SPDX-License-Identifier: Apache-2.0
"""SAM 2's prompt encoder and mask decoder as one graph over the object batch.

``transformers`` chooses between the best of three masks and the single mask outside the graph, for a
whole batch. Here every mask comes from one pass and each object has its own choice, so that one graph
serves tracking, clicks, boxes and given masks alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

ABSENT_LOGIT = -1024.0
"""Mask logit everywhere when the decoder says that the object is not in the picture."""


class MaskDecoder(nn.Module):
    """Prompt encoder, mask decoder and object pointer."""

    image_position: Tensor

    def __init__(self, model: Sam2VideoModel) -> None:
        """Share the weights of ``model``."""
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        self.object_pointer_proj = model.object_pointer_proj
        self.no_object_pointer = model.no_object_pointer
        self.image_size = int(model.config.image_size)
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
        self,
        features: Tensor,
        skip0: Tensor,
        skip1: Tensor,
        points: Tensor,
        labels: Tensor,
        dense: Tensor,
        take_best: Tensor,
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
            take_best: (N,) bool, whether the best of three masks is taken (tracking, and a single
                click), or the single mask, replaced by the best of three where it is unstable (a box,
                several points).

        Returns:
            Mask logits (N, 4h, 4w) float32, `ABSENT_LOGIT` where the object is absent; object score
            logit (N,) float32, present above 0; object pointer (N, C).
        """
        sparse = self._embed_points(points, labels).to(features.dtype)
        masks, quality, tokens, score = self._decode(features + dense, skip0, skip1, sparse)
        best = quality[:, 1:].argmax(-1) + 1
        single = self._stable(masks[:, 0], best) if self._falls_back else torch.zeros_like(best)
        rows = torch.arange(features.shape[0], device=features.device)
        mask = masks[rows, torch.where(take_best, best, single)]
        # The single mask's pointer comes from its own token, even where its mask was replaced.
        token = tokens[rows, torch.where(take_best, best, torch.zeros_like(best))]
        present = score > 0
        pointer = torch.where(present[:, None], self.object_pointer_proj(token), self.no_object_pointer)
        logits = torch.where(present[:, None, None], mask.float(), ABSENT_LOGIT)
        return logits, score.float(), pointer

    @property
    def _falls_back(self) -> bool:
        return bool(self.mask_decoder.dynamic_multimask_via_stability)

    def _embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Embed points (N, P, 2): (N, P + 1, C) float32, the last one "no point", as in SAM 2.

        Coordinates and their embedding stay in float32: bfloat16 would move them by pixels.
        """
        encoder = self.prompt_encoder
        # Half a pixel leads to the pixel's centre.
        points = torch.cat((points + 0.5, torch.zeros_like(points[:, :1])), dim=1)
        labels = torch.cat((labels, torch.full_like(labels[:, :1], -1)), dim=1)
        table = encoder.shared_embedding.positional_embedding.float()
        angle = 2 * math.pi * ((2 * (points / self.image_size) - 1) @ table)
        place = torch.cat((angle.sin(), angle.cos()), dim=-1)
        given = (labels >= 0)[..., None]
        kind = encoder.point_embed(labels.clamp(min=0))
        return torch.where(given, place + kind, encoder.not_a_point_embed.weight.float())

    def _decode(
        self, image: Tensor, skip0: Tensor, skip1: Tensor, sparse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four masks (N, 4, 4h, 4w), their quality (N, 4), tokens (N, 4, C), object score (N,)."""
        decoder = self.mask_decoder
        count, height, width = image.shape[0], image.shape[-2], image.shape[-1]
        own = (decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens)
        prompt = torch.cat((*(table.weight.expand(count, -1, -1) for table in own), sparse), dim=1)
        tokens, grid = decoder.transformer(
            point_embeddings=prompt[:, None],
            image_embeddings=image,
            image_positional_embeddings=self.image_position,
            attention_similarity=None,
        )
        tokens, grid = tokens[:, 0], grid[:, 0].transpose(1, 2).unflatten(2, (height, width))
        fine = decoder.activation(
            decoder.upscale_layer_norm(enlarge_twice(grid, decoder.upscale_conv1) + skip1)
        )
        fine = decoder.activation(enlarge_twice(fine, decoder.upscale_conv2) + skip0)
        of_masks = tokens[:, 2 : 2 + decoder.num_mask_tokens]
        weights = torch.stack(
            [mlp(of_masks[:, i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
        )
        masks = (weights @ fine.flatten(2)).unflatten(2, (4 * height, 4 * width))
        quality = decoder.iou_prediction_head(tokens[:, 1])
        return masks, quality, of_masks, decoder.pred_obj_score_head(tokens[:, 0])[:, 0]

    def _stable(self, single: Tensor, best: Tensor) -> Tensor:
        """The mask's number: 0 where the single mask (N, 4h, 4w) is stable, else the best of three.

        Stable is a mask that hardly changes when its threshold moves a little.
        """
        delta = self.mask_decoder.dynamic_multimask_stability_delta
        inner = (single > delta).flatten(1).sum(-1).float()
        outer = (single > -delta).flatten(1).sum(-1).float()
        stability = torch.where(outer > 0, inner / outer, 1.0)
        stable = stability >= self.mask_decoder.dynamic_multimask_stability_thresh
        return torch.where(stable, torch.zeros_like(best), best)


def enlarge_twice(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution with kernel and stride 2, (N, C, h, w) to (N, O, 2h, 2w).

    Its outputs do not overlap, so that it is a convolution of each pixel to four. TensorRT cannot build
    the transposed one in bfloat16 for a batch whose size changes.
    """
    weight, bias = layer.weight, layer.bias
    to_four = weight.permute(1, 2, 3, 0).flatten(0, 2)[..., None, None]
    return F.pixel_shuffle(F.conv2d(x, to_four, None if bias is None else bias.repeat_interleave(4)), 2)
