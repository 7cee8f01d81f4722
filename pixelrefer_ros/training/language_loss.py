# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite with gradients: from a batch to the loss of its answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelrefer_ros.model import PixelReferNetwork, patchify
from pixelrefer_ros.model.config import PATCH
from pixelrefer_ros.model.position import patch_positions
from pixelrefer_ros.training.data import IGNORED, Batch
from pixelrefer_ros.types import RgbImage

PATCHES_PER_PASS = 32768
"""The vision encoder takes so many patches at a time: it bounds what one pass holds in memory."""


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """Attributes hold the loss of a batch and how it came about.

    Attributes:
        loss: cross-entropy per answer token, a scalar with gradients.
        right: answers of which every token is the likeliest: greedy decoding would write them so.
        answers: of the batch.
        tokens: of all answers.
    """

    loss: Tensor
    right: int
    answers: int
    tokens: int


def answer_loss(network: PixelReferNetwork, batch: Batch) -> AnswerLoss:
    """Cross-entropy of the answers given prompts and regions (paper, Sec. 6.1: both stages train so)."""
    device = network.device
    labels = batch.labels.to(device)
    hidden = network.language.model(
        inputs_embeds=prompt_embeddings(network, batch),
        attention_mask=_mask(batch).to(device),
        use_cache=False,
    ).last_hidden_state
    targets = labels[:, 1:]
    asked = targets != IGNORED
    logits = network.language.lm_head(
        hidden[:, :-1][asked]
    ).float()  # only where an answer is: saves the most
    wanted = targets[asked]
    wrong = (logits.argmax(-1) != wanted).long()
    row = asked.nonzero()[:, 0]
    mistakes = torch.zeros(len(labels), dtype=torch.long, device=device).index_add_(0, row, wrong)
    return AnswerLoss(
        loss=F.cross_entropy(logits, wanted),
        right=int((mistakes == 0).sum()),
        answers=len(labels),
        tokens=len(wanted),
    )


def prompt_embeddings(network: PixelReferNetwork, batch: Batch) -> Tensor:
    """(B, L, D): the i-th ``<REGION>`` token of the batch becomes the i-th object token."""
    ids = batch.ids.to(network.device)
    embeddings = network.language.model.embed_tokens(ids)
    tokens = view_tokens(network, batch)[batch.views].flatten(0, 1).to(embeddings.dtype)
    places = torch.eq(ids, network.config.region_token_id or 0).flatten().nonzero().flatten()
    if len(places) != len(tokens):
        raise ValueError(f"the batch has {len(places)} places for object tokens; {len(tokens)} were made")
    return embeddings.flatten(0, 1).index_copy(0, places, tokens).view_as(embeddings)


def view_tokens(network: PixelReferNetwork, batch: Batch) -> Tensor:
    """(V, n, D) object tokens of every view, with gradients."""
    crops, config = batch.crops, network.config
    pictures = [*(crop.image for crop in crops), *(crop.context for crop in crops), *batch.frames]
    features = picture_features(network, pictures)
    count = len(crops)
    whole = torch.stack(features[2 * count :])[batch.frame_of]
    tokens: Tensor = network.object_encoder(
        features[:count],
        [
            patch_positions(c.grid, c.box, c.frame_size, config.position_reading, device=network.device)
            for c in crops
        ],
        [torch.from_numpy(crop.grid_mask > 0).flatten().to(network.device) for crop in crops],
        torch.stack(features[count : 2 * count]),
        whole,
    )
    return tokens


def picture_features(network: PixelReferNetwork, pictures: list[RgbImage]) -> list[Tensor]:
    """The vision encoder's features (h w, D_v) of pictures of (14 h, 14 w, 3), several in a pass."""
    features: list[Tensor] = []
    for group in _passes(pictures):
        grids = [(1, picture.shape[0] // PATCH, picture.shape[1] // PATCH) for picture in group]
        pixels = torch.cat([patchify(picture, device=network.device) for picture in group])
        encoded = network.vision(
            pixel_values=pixels.to(network.dtype),
            grid_thw=torch.tensor(grids, device=network.device),
            merge_sizes=torch.ones(len(grids), dtype=torch.long, device=network.device),
        ).last_hidden_state
        features += encoded.split([rows * columns for _, rows, columns in grids])
    return features


def _passes(pictures: list[RgbImage]) -> Iterator[list[RgbImage]]:
    group: list[RgbImage] = []
    patches = 0
    for picture in pictures:
        size = (picture.shape[0] // PATCH) * (picture.shape[1] // PATCH)
        if group and patches + size > PATCHES_PER_PASS:
            yield group
            group, patches = [], 0
        group.append(picture)
        patches += size
    yield group


def _mask(batch: Batch) -> Tensor:
    return (torch.arange(batch.ids.shape[1])[None] < batch.length[:, None]).long()
