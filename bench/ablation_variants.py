# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite with one part changed or left out, as in the paper's Tables 7, 8 and 9.

Each variant is the project's own network and training with one thing put in its place from outside; the
package knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from pixelrefer_ros.model import PATCH, ObjectCrop, ObjectEncoder, PixelReferNetwork, crops
from pixelrefer_ros.model.crops import GLOBAL_SIDE
from pixelrefer_ros.model.object_encoder import HEADS
from pixelrefer_ros.training import language, language_loss
from pixelrefer_ros.training.checkpoints import Sizes, new_network

TOKEN_NUMBERS = (1, 8, 16, 32)
"""Of Table 7."""

_GRID = GLOBAL_SIDE // PATCH


class NoPosition(nn.Linear):
    """Adds nothing."""

    def forward(self, positions: Tensor) -> Tensor:
        """(P, 2) to zeros (P, D_v)."""
        return positions.new_zeros(*positions.shape[:-1], self.out_features)


class NoAttention(nn.MultiheadAttention):
    """Adds nothing."""

    def forward(self, query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Zeros in place of what the query would have found."""
        return torch.zeros_like(query), None


class MaskPooling(ObjectEncoder):
    """One token: the mean of the whole frame's features under the mask, with no crop and no position.

    It needs `mask_weights` in place of the region's own tokens.
    """

    def fuse(self, tokens: Tensor, local: Tensor, whole: Tensor) -> Tensor:
        """The weights (K, 1, 576) of the frame's patches to tokens (K, 1, D_v)."""
        return super().fuse(tokens @ whole, local, whole)


def mask_weights(_network: PixelReferNetwork, regions: list[ObjectCrop], features: list[Tensor]) -> Tensor:
    """(V, 1, 576): how much of each patch of the frame an object covers; sums to 1."""
    weights = []
    for region in regions:
        top, left, last_row, last_column = region.box
        canvas = np.zeros(region.frame_size, np.float32)
        size = (last_column + 1 - left, last_row + 1 - top)
        canvas[top : last_row + 1, left : last_column + 1] = cv2.resize(region.grid_mask, size)
        covered = cv2.resize(canvas, (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()
        weights.append(covered / covered.sum())
    return torch.from_numpy(np.stack(weights))[:, None].to(features[0])


def pooling(network: PixelReferNetwork) -> PixelReferNetwork:
    """With `MaskPooling` as its object encoder."""
    own = network.object_encoder
    pooled = MaskPooling(network.config.vision.hidden_size, network.config.language.hidden_size, own.mask_num)
    pooled.load_state_dict(own.state_dict())
    return replace(network, object_encoder=pooled)


def without(*parts: str) -> Callable[[PixelReferNetwork], PixelReferNetwork]:
    """Leaves out parts of the object encoder: "pos_linear", "fusion_attention_local", "..._global"."""

    def change(network: PixelReferNetwork) -> PixelReferNetwork:
        width = network.config.vision.hidden_size
        for part in parts:
            nothing = NoPosition(2, width) if part == "pos_linear" else NoAttention(width, HEADS)
            setattr(network.object_encoder, part, nothing)
        return network

    return change


@dataclass(frozen=True)
class Variant:
    """One row of the tables.

    Attributes:
        name: of its folder.
        title: in the table.
        tokens: n, of a region in a frame; None: as many as the default model.
        change: of a network, new or loaded.
        replaced: (module, name, value) put in place while it trains and is scored.
    """

    name: str
    title: str
    tokens: int | None = None
    change: Callable[[PixelReferNetwork], PixelReferNetwork] = lambda network: network
    replaced: tuple[tuple[Any, str, Any], ...] = ()

    def sizes(self, default: Sizes) -> Sizes:
        """Of its model."""
        return default if self.tokens is None else replace(default, mask_num=self.tokens)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Training and scoring inside use this variant."""

        def new(folder: Path, *, seed: int) -> PixelReferNetwork:
            return self.change(new_network(folder, seed=seed))

        with ExitStack() as stack:
            for module, name, value in (*self.replaced, (language, "new_network", new)):
                stack.enter_context(mock.patch.object(module, name, value))
            yield


FULL = "full"
_LOCAL, _GLOBAL = "fusion_attention_local", "fusion_attention_global"
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(FULL, f"full model, {Sizes().mask_num} object tokens"),
        *(
            Variant(f"tokens-{count}", f"{count} object token{'s' * (count > 1)}", tokens=count)
            for count in TOKEN_NUMBERS
            if count != Sizes().mask_num
        ),
        Variant(
            "mask-pooling",
            "mask pooling instead of SAOT",
            tokens=1,
            change=pooling,
            replaced=((language_loss, "region_tokens", mask_weights),),
        ),
        Variant("no-expansion", "without expansion of the crop", replaced=((crops, "PADDING", 0),)),
        Variant("no-position", "without position", change=without("pos_linear")),
        Variant("no-local", "without local infusion", change=without(_LOCAL)),
        Variant("no-global", "without global infusion", change=without(_GLOBAL)),
        Variant("no-infusion", "without any infusion", change=without(_LOCAL, _GLOBAL)),
    )
}


def of_tokens(count: int) -> str:
    """The name of the variant with so many object tokens."""
    return FULL if count == Sizes().mask_num else f"tokens-{count}"
