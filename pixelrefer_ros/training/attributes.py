# SPDX-License-Identifier: Apache-2.0
"""Teaches a new vision encoder what objects are, from their own crops and before any language.

The paper starts from a trained SigLIP encoder (Sec. 6.1). One that begins with random weights learns to see
through a language model only after hours, since nothing tells it which pixels the words are about. Naming
shape, colour and surface from an object's own patches, and drawing its outline, does so directly and costs a
fraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import VideoLlama3VisionModel

from pixelrefer_ros.model import PATCH, ObjectCrop, PixelReferConfig, PixelReferNetwork, crop_object
from pixelrefer_ros.training.data import repeated
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.rivals import among_rivals
from pixelrefer_ros.training.vision_pass import encode_pictures
from pixelrefer_ros.training.vision_stage import teach_vision
from pixelrefer_ros.training.world import (
    COLORS,
    SEED_RANGES,
    SHAPES,
    SURFACES,
    TURNS,
    Renderer,
    SceneSettings,
    Sight,
    Split,
    cast_scene,
    scene_seeds,
)
from pixelrefer_ros.types import Mask, RgbImage

STAGE = "attributes"
SCENE = SceneSettings(frames=1, objects=(3, 8))
ATTRIBUTES: dict[str, tuple[str, ...]] = {"shape": SHAPES, "color": tuple(COLORS), "surface": SURFACES}
"""What is named, and its values."""

_MARGIN = 1  # patches of surroundings that stay around an object
_WHOLE_EVERY = 4  # one crop of so many is shown whole, as object tokens are made from: others cost a third
CELLS = 7
"""Of a patch's side: an outline is drawn in cells of 2 x 2 pixels."""
_OUTLINE, _TURN = 2.0, 1.0  # weights of their losses: how it is turned says later that it rotates
_WATCHED = 60  # validation scenes
_SHOWN = 3  # how often a batch is


@dataclass(frozen=True, eq=False, slots=True)
class AttributeBatch:
    """V objects of single pictures.

    Attributes:
        images: V crops, each (14 h, 14 w, 3) uint8; most are trimmed to the object.
        own: per object (h w,) bool, the patches that show it.
        outlines: (patches of all images, 49) float32, 1 where a cell of the patch is the object's.
        labels: (V, attributes) int64, places in the values of `ATTRIBUTES`.
        turns: (V, 2) float32, sine and cosine of how each is turned, see `Facts.measured`.
    """

    images: list[RgbImage]
    own: list[Tensor]
    outlines: Tensor
    labels: Tensor
    turns: Tensor


class AttributeHeads(nn.Module):
    """Linear readings of an encoder's features; left out of the finished checkpoint."""

    def __init__(self, width: int) -> None:
        """Of an encoder ``width`` wide."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.named = nn.ModuleDict({name: nn.Linear(width, len(of)) for name, of in ATTRIBUTES.items()})
        self.outline = nn.Linear(width, CELLS**2)
        # Drawn last: the others' first weights stay what they were.
        self.turn = nn.Linear(width, 2)


class AttributeBatches(Dataset[AttributeBatch]):
    """The objects of ``scenes`` scenes by the batch's number: the same in any process, on any run."""

    def __init__(self, config: PixelReferConfig, *, seed: int, scenes: int, split: Split = "train") -> None:
        self._config, self._seed, self._scenes, self._split = config, seed, scenes, split

    def __getitem__(self, number: int) -> AttributeBatch:
        """Draws batch ``number``."""
        owned = SEED_RANGES[self._split]
        rng = np.random.default_rng([self._seed, 7, number])
        return draw_objects(
            [int(seed) for seed in rng.integers(owned.start, owned.stop, size=self._scenes)], self._config
        )


def draw_objects(seeds: Sequence[int], config: PixelReferConfig) -> AttributeBatch:
    """Every object that can be told in the scenes of these seeds; there may be none."""
    images: list[RgbImage] = []
    own: list[Tensor] = []
    outlines: list[Tensor] = []
    labels: list[list[int]] = []
    turns: list[float] = []
    for seed in seeds:
        renderer = Renderer(cast_scene(seed, SCENE))
        sight, rgb, masks = Sight(renderer), renderer.rgb(0), renderer.layers(0).visible
        for number, spec in enumerate(renderer.scene.objects):
            if not sight.recognizable(number, 0):
                continue
            crop = crop_object(rgb, masks[number], mask_num=config.mask_num, patch_budget=config.patch_budget)
            whole = len(images) % _WHOLE_EVERY == _WHOLE_EVERY - 1
            rows, columns = (slice(None), slice(None)) if whole else _trimmed(crop.grid_mask)
            grid = crop.image.reshape(crop.grid[0], PATCH, crop.grid[1], PATCH, 3)[rows, :, columns]
            images.append(np.ascontiguousarray(grid.reshape(grid.shape[0] * PATCH, -1, 3)))
            own.append(torch.from_numpy(crop.grid_mask[rows, columns] > 0).flatten())
            outlines.append(
                torch.from_numpy(_outline(crop, masks[number])[rows, columns].reshape(-1, CELLS**2))
            )
            labels.append([of.index(getattr(spec.combination, name)) for name, of in ATTRIBUTES.items()])
            turns.append(TURNS[spec.combination.shape] * spec.angle)
    if not images:
        nothing = torch.zeros(0, len(ATTRIBUTES)).long()
        return AttributeBatch([], [], torch.zeros(0, CELLS**2), nothing, torch.zeros(0, 2))
    turned = torch.tensor(turns)
    both = torch.stack([turned.sin(), turned.cos()], dim=1)
    return AttributeBatch(images, own, torch.cat(outlines), torch.tensor(labels), both)


def _trimmed(grid_mask: NDArray[np.float32]) -> tuple[slice, slice]:
    """Without most of the padding, which has several times as many patches as the object."""
    rows, columns = (np.flatnonzero((grid_mask > 0).any(axis=axis)) for axis in (1, 0))
    return tuple(  # type: ignore[return-value] # of two
        slice(max(0, int(taken[0]) - _MARGIN), min(size, int(taken[-1]) + 1 + _MARGIN))
        for taken, size in zip((rows, columns), grid_mask.shape, strict=True)
    )


def _outline(crop: ObjectCrop, mask: Mask) -> NDArray[np.float32]:
    """(h', w', 49): which cells of each patch are the object's."""
    top, left, bottom, right = crop.box
    return cells_of(mask[top : bottom + 1, left : right + 1], *crop.grid)


def cells_of(mask: Mask, rows: int, columns: int) -> NDArray[np.float32]:
    """(rows, columns, 49) float32: which cells of each patch a mask covers, scaled to so many patches."""
    covered = cv2.resize(
        mask.astype(np.float32), (CELLS * columns, CELLS * rows), interpolation=cv2.INTER_AREA
    )
    cells = (covered > 0.5).reshape(rows, CELLS, columns, CELLS).transpose(0, 2, 1, 3)
    return cells.reshape(rows, columns, CELLS**2).astype(np.float32)


def attribute_losses(
    vision: VideoLlama3VisionModel, heads: AttributeHeads, batch: AttributeBatch, *, bf16: bool = False
) -> dict[str, Tensor | float]:
    """What the encoder is taught by, and how much of it is right.

    Returns:
        "loss": cross-entropy summed over attributes and outline; "right": the share of objects of which
        every attribute is; the share of each attribute; and "turn": the mean distance of the angle's sine and
        cosine.
    """
    device = heads.outline.weight.device
    with mixed_precision(device, bf16=bf16):
        features = encode_pictures(vision, batch.images)
    means = [
        of_object[own.to(device)].mean(dim=0) for of_object, own in zip(features, batch.own, strict=True)
    ]
    normed = heads.norm(torch.stack(means).float())
    labels = batch.labels.to(device).unbind(dim=1)
    of_name = dict(zip(heads.named, labels, strict=True))
    cells = heads.outline(torch.cat(features).float())
    loss = _OUTLINE * F.binary_cross_entropy_with_logits(cells, batch.outlines.to(device))
    right: dict[str, Tensor] = {}
    for name, head in heads.named.items():
        logits, truth = head(normed), of_name[name]
        right[name] = logits.argmax(dim=1) == truth
        if name == "shape":
            logits = among_rivals(logits, of_name["color"], of_name["surface"])
        loss = loss + F.cross_entropy(logits, truth)
    turn = heads.turn(normed) - batch.turns.to(device)
    loss = loss + _TURN * turn.square().sum(dim=1).mean()
    every = torch.stack(list(right.values())).all(dim=0)
    shares: dict[str, Tensor | float] = {name: share(of) for name, of in right.items()}
    return {"loss": loss, "right": share(every), **shares, "turn": float(turn.detach().norm(dim=1).mean())}


def share(right: Tensor) -> float:
    """Of True."""
    return float(right.float().mean())


def teach_attributes(network: PixelReferNetwork, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, see `teach_vision`."""
    batches = AttributeBatches(network.config, seed=settings.shown_by, scenes=settings.attribute_scenes)
    return teach_vision(
        STAGE,
        network,
        AttributeHeads,
        attribute_losses,
        batches=partial(repeated, batches, shown=_SHOWN, workers=settings.workers),
        watched=draw_objects(scene_seeds("val", 0, _WATCHED), network.config)
        if settings.validate_every
        else None,
        out=out,
        settings=settings,
        pace=settings.pace(settings.attribute_steps),
    )
