# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite with gradients: from a batch to the loss of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelrefer_ros.model import ObjectCrop, PixelReferNetwork, patch_positions
from pixelrefer_ros.training.data import Batch, Pictures
from pixelrefer_ros.training.language_pass import Packed, encode_rows
from pixelrefer_ros.training.region_pass import aggregate_all
from pixelrefer_ros.training.rivals import WordRivals
from pixelrefer_ros.training.text_rows import IGNORED, TextRows
from pixelrefer_ros.training.vision_pass import encode_pictures
from pixelrefer_ros.types import RgbImage

_EARLY, _LATE = 2, 3  # layers


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """The loss of a batch and how it came about.

    Attributes:
        loss: cross-entropy of the answer tokens, a scalar with gradients. A token of an answer of n weighs
            1 / sqrt(n): otherwise long descriptions would drown the one token that says yes or no.
        mistakes: (B,) int64: tokens of each answer that are not the likeliest. Where there is none, greedy
            decoding would write the answer.
        lengths: (B,) int64: tokens of each answer.
        early: (P, n, D): hidden states after the language model's second layer at the tokens of each
            ``<REGION>`` run, in reading order.
        late: (P, D): after its third layer, at the last token of each.
        rows_of_runs: (P,) int64, the question of each.
    """

    loss: Tensor
    mistakes: Tensor
    lengths: Tensor
    early: Tensor
    late: Tensor
    rows_of_runs: Tensor

    @property
    def right(self) -> int:
        """Answers without a mistake."""
        return int((self.mistakes == 0).sum())

    @property
    def answers(self) -> int:
        """Of the batch."""
        return len(self.mistakes)

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return int(self.lengths.sum())


def answer_loss(network: PixelReferNetwork, batch: Batch, rivals: WordRivals | None = None) -> AnswerLoss:
    """Cross-entropy of the answers given prompts and regions (paper, Sec. 6.1: both stages train so).

    Args:
        network: to be taught.
        batch: questions and answers.
        rivals: of the shapes world.
    """
    return embedded_loss(network, prompt_embeddings(network, batch), batch.rows, rivals)


def embedded_loss(
    network: PixelReferNetwork, embeddings: Tensor, text: TextRows, rivals: WordRivals | None = None
) -> AnswerLoss:
    """The same of prompts and answers already embedded and packed, (T, D), as `place_tokens` does."""
    device, packed = network.device, Packed.of(text)
    early, late = _read_after(network)
    # Index arithmetic is on the CPU: a GPU would be waited for at each of these.
    ids = packed.of_token(text.ids)
    targets = packed.of_token(F.pad(text.labels[:, 1:], (0, 1), value=IGNORED))
    answered = targets == packed.of_token(F.pad(text.ids[:, 1:], (0, 1)))  # the others only could be said
    asked = (targets != IGNORED).nonzero().flatten()  # logits only where an answer is: saves the most
    shown = packed.in_reading_order(torch.eq(ids, network.config.region_token_id or 0)).to(device)
    hidden, (read_early, read_late) = encode_rows(network.language.model, embeddings, packed, (early, late))
    logits = network.language.lm_head(hidden[asked.to(device)]).float()
    answers, row, written = targets[asked].to(device), packed.rows[asked], answered[asked]
    wrong = ((logits.argmax(-1) != answers) & written.to(device)).long()
    if rivals is not None:
        said = torch.stack([text.ids, text.ids.roll(1, dims=1)])
        logits = rivals(logits, answers, *(packed.of_token(of)[asked].to(device) for of in said))
    mistakes = torch.zeros(len(text.ids), dtype=torch.long, device=device)
    mistakes.index_add_(0, row.to(device), wrong)
    lengths = torch.zeros(len(text.ids), dtype=torch.long).index_add_(0, row, written.long())
    weights = lengths.float().rsqrt()[row].to(device)
    count = network.config.mask_num
    return AnswerLoss(
        loss=(F.cross_entropy(logits, answers, reduction="none") * weights).sum() / weights.sum(),
        mistakes=mistakes,
        lengths=lengths.to(device),
        early=read_early[shown].unflatten(0, (-1, count)),
        late=read_late[shown].unflatten(0, (-1, count))[:, -1],
        rows_of_runs=packed.rows[shown.cpu()][::count],
    )


def _read_after(network: PixelReferNetwork) -> tuple[int, int]:
    """After how many layers hidden states are read."""
    layers = len(network.language.model.layers)
    return min(_EARLY, layers), min(_LATE, max(1, layers - 1))


def prompt_embeddings(network: PixelReferNetwork, batch: Batch) -> Tensor:
    """(T, D): prompts and answers, packed, with object tokens."""
    return place_tokens(network, batch.rows, view_tokens(network, batch)[batch.views])


def place_tokens(network: PixelReferNetwork, text: TextRows, tokens: Tensor) -> Tensor:
    """(T, D), packed: the i-th ``<REGION>`` token of the prompts becomes the i-th of the tokens (P, n, D)."""
    packed = Packed.of(text)
    ids = packed.of_token(text.ids)
    embeddings = network.language.model.embed_tokens(ids.to(network.device))
    tokens = tokens.flatten(0, 1).to(embeddings.dtype)
    places = packed.in_reading_order(torch.eq(ids, network.config.region_token_id or 0))
    if len(places) != len(tokens):
        raise ValueError(f"the batch has {len(places)} places for object tokens; {len(tokens)} were made")
    return embeddings.index_copy(0, places.to(network.device), tokens)


def view_tokens(network: PixelReferNetwork, batch: Pictures) -> Tensor:
    """(V, n, D) object tokens of every view, with gradients."""
    kept = [feature.float() for feature in batch.features]
    features = kept or picture_features(network, batch.images, batch.learns)
    # Only the encoder gains from half precision; k-means of half precision would
    # choose other tokens than when the model answers.
    with torch.autocast(network.device.type, enabled=False):
        tokens: Tensor = network.object_encoder.infuse(
            *infusion_inputs(network, batch, features, range(len(batch.crops)))
        )
    return tokens


@torch.no_grad()
def keep_features(network: PixelReferNetwork, batch: Pictures) -> None:
    """Encodes pictures once for every time they are shown, and lets them go: the features are smaller.

    For a vision encoder that does not learn.
    """
    if batch.features:
        return
    batch.features = [feature.half() for feature in encode_pictures(network.vision, batch.images)]
    nothing = np.zeros((0, 0, 3), np.uint8)
    batch.crops = [replace(crop, image=nothing, context=nothing) for crop in batch.crops]
    batch.frames = []


def infusion_inputs(
    network: PixelReferNetwork, batch: Pictures, features: list[Tensor], views: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """T_R, F_l and F_g of some views, see `ObjectEncoder.infuse`, given the features of all the images."""
    count = len(batch.crops)
    crops, own = [batch.crops[view] for view in views], [features[view] for view in views]
    local = torch.stack([features[count + view] for view in views])
    whole = torch.stack([features[2 * count + batch.frame_of[view]] for view in views])
    return region_tokens(network, crops, own), local, whole


def region_tokens(network: PixelReferNetwork, crops: list[ObjectCrop], features: list[Tensor]) -> Tensor:
    """T_R (V, n, D_v) of V objects; as `ObjectEncoder.region_tokens` makes them one by one."""
    encoder, reading = network.object_encoder, network.config.position_reading
    device = network.device
    positions = torch.cat([patch_positions(c.grid, c.box, c.frame_size, reading) for c in crops]).to(device)
    everything = torch.cat(features)
    placed = everything + encoder.pos_linear(positions.to(everything.dtype))
    # All index arithmetic is on the CPU: a GPU would be waited for at each of these.
    chosen = [torch.from_numpy(crop.grid_mask > 0).flatten() for crop in crops]
    lengths = torch.tensor([int(own.sum()) for own in chosen])
    most = int(lengths.max())
    rows = torch.cat(chosen).nonzero().flatten()
    places = (torch.arange(most)[None] < lengths[:, None]).flatten().nonzero().flatten()
    members = placed.new_zeros(len(crops) * most, placed.shape[1])
    members = members.index_copy(0, places.to(device), placed[rows.to(device)])
    return aggregate_all(members.unflatten(0, (len(crops), most)), lengths.to(device), encoder.mask_num)


def picture_features(
    network: PixelReferNetwork, pictures: list[RgbImage], learns: list[bool]
) -> list[Tensor]:
    """The vision encoder's features (h w, D_v) of pictures; gradients pass through those that learn.

    Args:
        network: in training.
        pictures: (14 h, 14 w, 3) uint8 each.
        learns: of each picture; empty where all do.
    """
    if not learns:
        return encode_pictures(network.vision, pictures)
    with_gradients = [picture for picture, learning in zip(pictures, learns, strict=True) if learning]
    learning_ones = iter(encode_pictures(network.vision, with_gradients))
    with torch.no_grad():
        others = iter(
            encode_pictures(network.vision, [p for p, on in zip(pictures, learns, strict=True) if not on])
        )
    return [next(learning_ones if learning else others) for learning in learns]
