# SPDX-License-Identifier: Apache-2.0
"""What the stage of infusion shows: every object of many scenes, and the features of those seen before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pixelrefer_ros.model import PixelReferConfig, PixelReferNetwork, crop_object, global_image
from pixelrefer_ros.training.data import Pictures
from pixelrefer_ros.training.frames import own_patches
from pixelrefer_ros.training.language_loss import infusion_inputs
from pixelrefer_ros.training.object_facts import Facts
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.vision_pass import encode_pictures
from pixelrefer_ros.training.world import SEED_RANGES, Renderer, SceneSettings, Sight, cast_scene

_SCENE = SceneSettings(frames=1, objects=(3, 8))
_AGAIN = 8  # steps with the same scenes kept, then new ones join them
_KEPT = 64  # batches of which the features are


@dataclass(frozen=True, eq=False, slots=True)
class Views:
    """V objects in pictures.

    Attributes:
        pictures: of them.
        own: (V, 576) bool, the patches of its whole frame that show each.
        facts: of them.
    """

    pictures: Pictures
    own: Tensor
    facts: Facts


class InfusionBatches(Dataset["Views | None"]):
    """Batches by number, the same in any process, on any run; between them what was seen is learned again."""

    def __init__(self, config: PixelReferConfig, *, seed: int, scenes: int) -> None:
        """Of so many scenes each."""
        self._config, self._seed, self._scenes = config, seed, scenes

    def __getitem__(self, number: int) -> Views | None:
        """Draws batch ``number``, if it is one with new scenes."""
        return None if number % _AGAIN else self.draw(number)

    def draw(self, number: int) -> Views:
        """New scenes."""
        owned = SEED_RANGES["train"]
        rng = np.random.default_rng([self._seed, 19, number])
        return draw_views([int(s) for s in rng.integers(owned.start, owned.stop, self._scenes)], self._config)


def draw_views(seeds: Sequence[int], config: PixelReferConfig) -> Views:
    """Every object that can be recognised in the scenes of these seeds."""
    found = Pictures(frames=[], crops=[], frame_of=[])
    views: list[tuple[Sight, int, int]] = []
    own: list[Tensor] = []
    for seed in seeds:
        sight = Sight(Renderer(cast_scene(seed, _SCENE)))
        rgb, masks = sight.renderer.rgb(0), sight.renderer.layers(0).visible
        for number, mask in enumerate(masks):
            if not sight.recognizable(number, 0):
                continue
            found.crops.append(
                crop_object(rgb, mask, mask_num=config.mask_num, patch_budget=config.patch_budget)
            )
            found.frame_of.append(len(found.frames))
            found.names.append((seed, number))
            views.append((sight, number, 0))
            own.append(torch.from_numpy(own_patches(mask)).flatten())
        found.frames.append(global_image(rgb))
    return Views(found, torch.stack(own), Facts.of(views))


class Inputs(NamedTuple):
    """V objects as the object encoder is given them.

    Attributes:
        tokens: T_R (V, n, D_v).
        local: F_l (V, 256, D_v).
        whole: F_g (V, 576, D_v).
        own: (V, 576) bool, see `Views`.
        facts: of the objects.
    """

    tokens: Tensor
    local: Tensor
    whole: Tensor
    own: Tensor
    facts: Facts


class Infused(NamedTuple):
    """V objects as the language model is shown them.

    Attributes:
        tokens: (V, n, D).
        looked_at: (V,) share of their attention in the frame that is on the object's own patches there.
        facts: of the objects.
    """

    tokens: Tensor
    looked_at: Tensor
    facts: Facts


class Seen:
    """Views whose features are kept, to be learned from again: to encode them costs most of it.

    Args:
        network: whose vision encoder sees, and whose object encoder learns.
        bf16: compute the vision encoder in bfloat16.
    """

    def __init__(self, network: PixelReferNetwork, *, bf16: bool = False) -> None:
        """See the class."""
        self._network, self._bf16 = network, bf16
        self._kept: deque[tuple[Views, list[Tensor]]] = deque(maxlen=_KEPT)

    def __len__(self) -> int:
        """Batches kept."""
        return len(self._kept)

    def see(self, batch: Views) -> None:
        """Encodes a batch; the oldest of too many is forgotten."""
        with torch.no_grad(), mixed_precision(self._network.device, bf16=self._bf16):
            features = encode_pictures(self._network.vision, batch.pictures.images)
        self._kept.append((batch, [feature.half() for feature in features]))

    def some(self, rng: np.random.Generator, count: int) -> Infused:
        """So many views, drawn from all that are kept."""
        batches = rng.integers(len(self._kept), size=count)
        numbers, counts = np.unique(batches, return_counts=True)
        return self._infused(
            (number, rng.integers(len(self._kept[number][0].own), size=often).tolist())
            for number, often in zip(numbers.tolist(), counts.tolist(), strict=True)
        )

    def inputs(self) -> Inputs:
        """What the object encoder is given of all views that are kept."""
        parts = [_inputs(self._network, *kept, range(len(kept[0].own))) for kept in self._kept]
        tokens, local, whole, own, facts = zip(*parts, strict=True)
        joined = torch.cat(tokens), torch.cat(local), torch.cat(whole), torch.cat(own)
        return Inputs(*joined, Facts.joined(facts))

    def every(self) -> Infused:
        """All views that are kept."""
        return self._infused((number, range(len(batch.own))) for number, (batch, _) in enumerate(self._kept))

    def _infused(self, chosen: Iterable[tuple[int, Sequence[int]]]) -> Infused:
        parts = [
            _infused(self._network, batch, features, views)
            for (batch, features), views in ((self._kept[number], views) for number, views in chosen)
        ]
        tokens, looked_at, facts = zip(*parts, strict=True)
        return Infused(torch.cat(tokens), torch.cat(looked_at), Facts.joined(facts))


def _inputs(network: PixelReferNetwork, batch: Views, features: list[Tensor], views: Sequence[int]) -> Inputs:
    count = len(batch.own)
    needed = {n for view in views for n in (view, count + view, 2 * count + batch.pictures.frame_of[view])}
    whole = [feature.float() if n in needed else feature for n, feature in enumerate(features)]
    given = infusion_inputs(network, batch.pictures, whole, views)
    return Inputs(*given, batch.own[list(views)].to(given[0].device), batch.facts[list(views)])


def _infused(
    network: PixelReferNetwork, batch: Views, features: list[Tensor], views: Sequence[int]
) -> Infused:
    encoder = network.object_encoder
    given = _inputs(network, batch, features, views)
    asked: list[tuple[Tensor, ...]] = []
    attention = encoder.fusion_attention_global
    hook = attention.register_forward_pre_hook(lambda _, inputs: asked.append(inputs))
    try:
        tokens = encoder.infuse(given.tokens, given.local, given.whole)
    finally:
        hook.remove()
    weights = attention(*asked[0])[1]  # which the encoder itself does without
    looked_at = tokens.new_ones(len(tokens)) if weights is None else _share(weights, given.own)
    return Infused(tokens, looked_at, given.facts)


def _share(weights: Tensor, own: Tensor) -> Tensor:
    """(V,): of an attention (V, n, 576), the share on own patches (V, 576)."""
    return (weights * own[:, None]).sum(dim=2).mean(dim=1)
