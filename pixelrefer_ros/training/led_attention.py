# SPDX-License-Identifier: Apache-2.0
"""Leads a vision encoder's attention to who is beside an object.

An object's patches in a whole frame have to say who is on each side. To find that out from what is read of
them alone takes tens of thousands of frames: nothing tells which of 576 patches to look at. So in the last
two layers each head has one place to look at from an object's patches: the neighbour on its side, and the
object itself where nobody is there. What is looked at is handed on, and read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pixelrefer_ros.training.object_facts import SIDES

UNKNOWN = -1
"""Of who is on a side: it is unclear, or cannot be told itself."""
LED_SIDES = SIDES[:5]
"""On whom attention is led to; who is in front or behind touches the object, and is seen without."""
_LEAST = 1e-4  # of an attention of which the logarithm is taken


class LedAttention:
    """How far attention is from where it is led to, gathered while pictures are encoded.

    Args:
        layers: of the encoder.
        picture_of: (V,) the picture of each object.
        own: (V,) of each (patches,) bool, those that show it; every picture has as many patches.
        beside: (V, sides) int64, the object that is on each of `LED_SIDES`; itself: nobody; or `UNKNOWN`.
    """

    def __init__(self, layers: int, picture_of: Sequence[int], own: Sequence[Tensor], beside: Tensor) -> None:
        self._layers, self._own, self._beside = layers, own, beside
        self._objects: dict[int, list[int]] = {}
        for number, picture in enumerate(picture_of):
            self._objects.setdefault(picture, []).append(number)
        self._lost: list[Tensor] = []
        self._found: list[Tensor] = []

    def __call__(self, pictures: Sequence[int], layer: int, mixed: Tensor) -> None:
        """Takes up a layer's queries and keys; see `vision_pass.Watch`."""
        heads = mixed.shape[2]
        # The last layer has the sides for which the one before it has no head.
        first = (layer - self._layers + 2) * heads
        sides = range(first, min(first + heads, len(LED_SIDES)))
        if layer < self._layers - 2 or not sides:
            return
        for picture, part in zip(pictures, mixed.split(len(self._own[0])), strict=True):
            for side in sides:
                self._lead(part[:, :2, side - first].float(), self._objects.get(picture, []), side)

    def loss(self) -> Tensor:
        """The mean of minus the logarithm of the share of attention that is where it should be."""
        return torch.cat(self._lost).mean() if self._lost else torch.zeros(())

    def share(self) -> float:
        """The mean share of attention that is where it should be."""
        return float(torch.cat(self._found).mean()) if self._found else 0.0

    def _lead(self, turned: Tensor, objects: list[int], side: int) -> None:
        """Takes up one head of one picture: (patches, 2, width), queries and keys."""
        others = self._beside[objects, side].tolist()
        led = [pair for pair in zip(objects, others, strict=True) if pair[1] != UNKNOWN]
        if not led:
            return
        rows = torch.cat([self._own[number].nonzero().flatten() for number, _ in led])
        goals = torch.cat([self._own[other].repeat(int(self._own[number].sum()), 1) for number, other in led])
        queries, keys = turned[rows.to(turned.device), 0], turned[:, 1]
        looked = (queries @ keys.T * turned.shape[-1] ** -0.5).softmax(dim=1)
        found = (looked * goals.to(turned.device)).sum(dim=1)
        self._lost.append(-(found + _LEAST).log())
        self._found.append(found.detach())
