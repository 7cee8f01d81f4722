# SPDX-License-Identifier: Apache-2.0
"""What the stage of infusion shows: questions about scenes, and what the vision encoder sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pixelrefer_ros.model import (
    ObjectCrop,
    ObjectEncoder,
    PixelReferConfig,
    PixelReferNetwork,
    crop_object,
    global_image,
)
from pixelrefer_ros.training import language_loss
from pixelrefer_ros.training.asked import Asked, ask
from pixelrefer_ros.training.films import FILMS
from pixelrefer_ros.training.frames import own_patches
from pixelrefer_ros.training.numbered_batches import NumberedBatches
from pixelrefer_ros.training.object_facts import Facts
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.vision_pass import encode_pictures
from pixelrefer_ros.training.world import (
    GLIMPSES,
    OFFERED,
    VIDEO_VIEWS,
    Draft,
    SceneSettings,
    Sight,
    scene_drafts,
)
from pixelrefer_ros.types import RgbImage

_STILL = SceneSettings(frames=1, objects=(2, 8))
_OF_STILLS = tuple(kind for kind in OFFERED if OFFERED[kind].views != "video")
_QUESTIONS = (26, 22)  # of a still, of a video
_FEW_VIEWS = (2, 8)  # of every other video
_FILMED_EVERY = 6  # scenes: a video has some eight frames to be seen, and says nothing of who is around
_TOGETHER = 128  # objects whose tokens are computed at once


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """Questions, and V views in F frames that they look at.

    Attributes:
        crops: of the V views.
        frames: F whole frames, (336, 336, 3) uint8.
        frame_of: (V,) the frame of each view.
        own: (V, 576) bool, the patches of its whole frame that show each.
        asked: about these views.
    """

    crops: list[ObjectCrop]
    frames: list[RgbImage]
    frame_of: list[int]
    own: Tensor
    asked: Asked


class ShownBatches(NumberedBatches[Shown, int]):
    """Pictures, and every sixth scene a video."""

    STREAM = 19

    def __getitem__(self, number: int) -> Shown:
        """Draws batch ``number``."""
        rng = self._chance(number)
        drafts: list[tuple[Sight, str, Draft]] = []
        place = 0
        while place < self._scenes or not drafts:  # by chance a scene may offer nothing
            drafts += scene_questions(
                self._scene(rng),
                filmed=(number * self._scenes + place) % _FILMED_EVERY == _FILMED_EVERY - 1,
                combinations="unseen" if self._split != "train" and place % 2 else "seen",
            )
            place += 1
        return _show(*ask(drafts, self._tokenizer, self._config), self._config)


def scene_questions(
    seed: int, *, filmed: bool, combinations: Literal["seen", "unseen"]
) -> list[tuple[Sight, str, Draft]]:
    """Questions of every kind that a still, or a video, offers; those about videos look at one object."""
    settings = replace(FILMS[seed // 2 % len(FILMS)] if filmed else _STILL, combinations=combinations)
    return list(
        scene_drafts(
            seed,
            _QUESTIONS[filmed],
            settings=settings,
            kinds=tuple(OFFERED) if filmed else _OF_STILLS,
            video_views=VIDEO_VIEWS if seed % 2 else _FEW_VIEWS,
            moments=1 if filmed else 0,
            glimpses=GLIMPSES if filmed else 0.0,
        )
    )


def _show(asked: Asked, looks: Sequence[tuple[Sight, int, int]], config: PixelReferConfig) -> Shown:
    places: dict[tuple[int, int], int] = {}
    frames: list[RgbImage] = []
    crops: list[ObjectCrop] = []
    own: list[Tensor] = []
    drawn: dict[int, RgbImage] = {}
    for sight, number, index in looks:
        key = (sight.scene.seed, index)
        if key not in places:
            places[key] = len(frames)
            drawn[len(frames)] = sight.renderer.rgb(index)
            frames.append(global_image(drawn[len(frames)]))
        rgb, mask = drawn[places[key]], sight.renderer.layers(index).visible[number]
        crops.append(crop_object(rgb, mask, mask_num=config.mask_num, patch_budget=config.patch_budget))
        own.append(torch.from_numpy(own_patches(mask)).flatten())
    frame_of = [places[sight.scene.seed, index] for sight, _, index in looks]
    return Shown(crops, frames, frame_of, torch.stack(own), asked)


@dataclass(frozen=True, eq=False, slots=True)
class Seen:
    """V views as the object encoder is given them, without local infusion.

    Attributes:
        tokens: T_R (V, n, D_v).
        whole: F_g (F, 576, D_v) float16.
        frame_of: (V,) the frame of each.
        own: (V, 576) bool, see `Shown`.
        facts: of the views.
    """

    tokens: Tensor
    whole: Tensor
    frame_of: Tensor
    own: Tensor
    facts: Facts

    def __getitem__(self, views: Tensor) -> Seen:
        """Some of the views, in their frames."""
        chosen = self.facts[views.tolist()]
        return Seen(self.tokens[views], self.whole, self.frame_of[views], self.own[views], chosen)


@torch.no_grad()
def see(network: PixelReferNetwork, shown: Shown, *, bf16: bool = False) -> Seen:
    """Encodes crops and frames."""
    count = len(shown.crops)
    with mixed_precision(network.device, bf16=bf16):
        features = encode_pictures(network.vision, [*(crop.image for crop in shown.crops), *shown.frames])
    features = [feature.float() for feature in features]
    return Seen(
        language_loss.region_tokens(network, shown.crops, features[:count]),
        torch.stack(features[count:]).half(),
        torch.tensor(shown.frame_of, device=network.device),
        shown.own.to(network.device),
        shown.asked.facts,
    )


@torch.no_grad()
def fused(encoder: ObjectEncoder, seen: Seen) -> Tensor:
    """(V, n, D_v) float16, what the object encoder projects; its local infusion says nothing yet."""
    parts = torch.arange(len(seen.tokens)).split(_TOGETHER)
    return torch.cat([encoder.fuse(*_given(seen[part])).half() for part in parts])


def looked_at(encoder: ObjectEncoder, seen: Seen) -> Tensor:
    """(V,) the share of the tokens' attention in the frame that is on their object's own patches there."""
    asked: list[tuple[Tensor, ...]] = []
    attention = encoder.fusion_attention_global
    hook = attention.register_forward_pre_hook(lambda _, inputs: asked.append(inputs))
    try:
        encoder.fuse(*_given(seen))
    finally:
        hook.remove()
    weights = attention(*asked[0])[1]  # which the encoder itself does without
    if weights is None:  # an encoder without global infusion
        return seen.tokens.new_ones(len(seen.tokens))
    return (weights * seen.own[:, None]).sum(dim=2).mean(dim=1)


def _given(seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """T_R, F_l and F_g of each view; no surroundings, since local infusion says nothing yet."""
    whole = seen.whole[seen.frame_of].float()
    return seen.tokens, whole.new_zeros(len(whole), 1, whole.shape[-1]), whole
