# SPDX-License-Identifier: Apache-2.0
"""Teaches a new vision encoder to see many objects at once, and who is beside whom.

An encoder that has learned to name objects from their own crops (`attributes`) hardly tells their shapes in
a whole frame, where its attention has everything to go to. And what is around an object can only come from
its frame (paper, Algorithm 1: global infusion), where no answer says which of the patches it is about. So
windows of frames grow from an object's own to the whole frame, and an object's patches there tell what it
is, where it is, and who is on each of its sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import VideoLlama3VisionModel

from pixelrefer_ros.model import GLOBAL_SIDE, PATCH, PixelReferConfig, PixelReferNetwork, global_image
from pixelrefer_ros.training.attributes import (
    ATTRIBUTES,
    CELLS,
    SCENE,
    AttributeBatch,
    AttributeHeads,
    attribute_losses,
    cells_of,
    draw_objects,
    share,
)
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.signs import COLUMNS, EMPTY, OWN, UNCLEAR, Facts
from pixelrefer_ros.training.vision_pass import encode_pictures
from pixelrefer_ros.training.vision_stage import teach_vision
from pixelrefer_ros.training.world import (
    SEED_RANGES,
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    scene_seeds,
)
from pixelrefer_ros.types import RgbImage

STAGE = "frames"
SIDE = GLOBAL_SIDE // PATCH
"""Patches across and down a frame."""
_OUTLINE, _PLACE, _AROUND = 2.0, 5.0, 0.3  # weights of the losses; around is of one column
_LEAST_MARGIN = 2.0  # patches
_GROWN = 0.6  # share of the steps after which margins reach across the frame
_FIRST_WHOLE, _ALL_WHOLE = 0.24, 0.72  # shares of the steps between which whole frames replace windows
_OWN_SHARE = 0.5  # of a patch that an object covers at least, unless it covers no patch so far
_INSIDE = 0.95  # of an object that a window shows at least, to name it
_FLAT, _SCHEDULE = 0.5, 1.2  # see `Pace`
_WATCHED = 40  # validation scenes
_CROPPED = 4  # of so many scenes, one shows crops: what was learned of them has to stay


@dataclass(frozen=True, eq=False, slots=True)
class FrameBatch:
    """Pictures of several objects each, and V objects in them.

    Attributes:
        images: whole frames and windows of them, each (14 h, 14 w, 3) uint8.
        outlines: (patches of all images, 49) float32, 1 where a cell of the patch shows any object.
        picture_of: per object the number of its image.
        own: per object (h w,) bool, the patches of its image that show it.
        whole: (V,) bool, whether its image is a whole frame, so that it shows who is around.
        facts: of the V objects.
        crops: objects by themselves, as in the stage before.
    """

    images: list[RgbImage]
    outlines: Tensor
    picture_of: list[int]
    own: list[Tensor]
    whole: Tensor
    facts: Facts
    crops: AttributeBatch


class FrameHeads(nn.Module):
    """Linear readings of an encoder's features; left out of the finished checkpoint."""

    def __init__(self, width: int) -> None:
        """Of an encoder ``width`` wide."""
        super().__init__()
        self.crops = AttributeHeads(width)
        self.norm = nn.LayerNorm(width)
        self.named = nn.ModuleList(nn.Linear(width, values) for values in COLUMNS)
        self.place = nn.Linear(width, 2)
        self.outline = nn.Linear(width, CELLS**2)


class FrameBatches(Dataset[FrameBatch]):
    """Batches by number: the same in any process, on any run. Of a run of so many steps, windows grow."""

    def __init__(self, config: PixelReferConfig, *, seed: int, scenes: int, steps: int) -> None:
        """See the class."""
        self._config, self._seed, self._scenes, self._steps = config, seed, scenes, steps

    def __getitem__(self, number: int) -> FrameBatch:
        """Draws batch ``number``."""
        owned = SEED_RANGES["train"]
        rng = np.random.default_rng([self._seed, 13, number])
        seeds = [int(seed) for seed in rng.integers(owned.start, owned.stop, size=self._scenes)]
        done = number / self._steps
        whole = min(1.0, max(0.0, (done - _FIRST_WHOLE) / (_ALL_WHOLE - _FIRST_WHOLE)))
        margin = _LEAST_MARGIN + (SIDE - _LEAST_MARGIN) * min(1.0, done / _GROWN)
        return draw_frames(seeds, self._config, rng=rng, whole=whole, margin=margin)


def draw_frames(
    seeds: Sequence[int],
    config: PixelReferConfig,
    *,
    rng: np.random.Generator,
    scene: SceneSettings = SCENE,
    whole: float = 1.0,
    margin: float = 0.0,
) -> FrameBatch:
    """The scenes of these seeds.

    Args:
        seeds: of the scenes.
        config: of the model.
        rng: the only source of chance.
        scene: of what kind they are.
        whole: share of the scenes that are shown as one frame; of the others, windows around their objects.
        margin: around an object, in patches, at most.
    """
    images: list[RgbImage] = []
    outlines: list[NDArray[np.float32]] = []
    picture_of: list[int] = []
    own: list[Tensor] = []
    wholes: list[bool] = []
    views: list[tuple[Sight, int, int]] = []
    for seed in seeds:
        renderer = Renderer(cast_scene(seed, scene))
        sight, frame, masks = Sight(renderer), global_image(renderer.rgb(0)), renderer.layers(0).visible
        shares = {
            number: cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            for number, mask in enumerate(masks)
            if sight.recognizable(number, 0)
        }
        cells = cells_of(np.logical_or.reduce(masks), SIDE, SIDE)
        entire = bool(rng.random() < whole)
        windows = [(slice(0, SIDE), slice(0, SIDE))] if entire else _windows(rng, shares, margin)
        for rows, columns in windows:
            picture = len(images)
            images.append(
                np.ascontiguousarray(
                    frame[
                        rows.start * PATCH : rows.stop * PATCH, columns.start * PATCH : columns.stop * PATCH
                    ]
                )
            )
            outlines.append(cells[rows, columns].reshape(-1, CELLS**2))
            for number, of_object in shares.items():
                inside = of_object[rows, columns]
                if inside.sum() < _INSIDE * of_object.sum():
                    continue
                picture_of.append(picture)
                own.append(torch.from_numpy(inside >= min(_OWN_SHARE, inside.max())).flatten())
                wholes.append(entire)
                views.append((sight, number, 0))
    return FrameBatch(
        images=images,
        outlines=torch.from_numpy(np.concatenate(outlines)),
        picture_of=picture_of,
        own=own,
        whole=torch.tensor(wholes),
        facts=Facts.of(views),
        crops=draw_objects(seeds[::_CROPPED], config),
    )


def _windows(
    rng: np.random.Generator, shares: dict[int, NDArray[np.float32]], margin: float
) -> Iterator[tuple[slice, slice]]:
    """Windows, in patches, around objects until every one has been inside of one."""
    shown: set[int] = set()
    for number in rng.permutation(list(shares)).tolist():
        if number in shown:
            continue
        taken = [np.flatnonzero((shares[number] > 0).any(axis=axis)) for axis in (1, 0)]
        before, after = rng.uniform(0, margin, size=(2, 2)).round().astype(int)
        rows, columns = (
            slice(max(0, int(along[0]) - int(less)), min(SIDE, int(along[-1]) + 1 + int(more)))
            for along, less, more in zip(taken, before, after, strict=True)
        )
        shown |= {other for other, of in shares.items() if of[rows, columns].sum() >= _INSIDE * of.sum()}
        yield rows, columns


def frame_losses(
    vision: VideoLlama3VisionModel,
    heads: FrameHeads,
    batch: FrameBatch,
    *,
    bf16: bool = False,
    around_weight: float = _AROUND,
) -> dict[str, Tensor | float]:
    """What the encoder is taught by, and how much of it is right.

    Args:
        vision: the encoder.
        heads: its readings.
        batch: what it sees.
        bf16: compute the encoder in bfloat16.
        around_weight: of the loss of each column that says who is around.

    Returns:
        "loss"; the shares of "shape", "color" and "surface" named rightly; "around": of the colours and
        shapes of who is on a side; "off": mean distance of the middle, as shares of the frame's sides;
        "crops": the share of crops of which every attribute is named.
    """
    device = heads.outline.weight.device
    with mixed_precision(device, bf16=bf16):
        features = encode_pictures(vision, batch.images)
    means = [
        features[picture][own.to(device)].mean(dim=0)
        for picture, own in zip(batch.picture_of, batch.own, strict=True)
    ]
    normed = heads.norm(torch.stack(means).float())
    named, whole = batch.facts.named.to(device), batch.whole.to(device)
    cells = heads.outline(torch.cat(features).float())
    loss = _OUTLINE * F.binary_cross_entropy_with_logits(cells, batch.outlines.to(device))
    off = (heads.place(normed) - batch.facts.measured[:, :2].to(device)).abs()[whole]
    loss = loss + _PLACE * off.sum() / len(named)
    found: dict[str, Tensor | float] = {}
    around: list[Tensor] = []
    for column, head in enumerate(heads.named):
        clear = whole & (named[:, column] != UNCLEAR) if column >= OWN else torch.ones_like(whole)
        logits, truth = head(normed)[clear], named[clear, column]
        weight = around_weight if column >= OWN else 1.0
        loss = loss + weight * F.cross_entropy(logits, truth, reduction="sum") / len(named)
        right = logits.argmax(dim=1) == truth
        if column < OWN:
            found[tuple(ATTRIBUTES)[column]] = share(right)
        else:
            around.append(right[truth != EMPTY])  # that nobody is there is soon learned of an object's place
    crops = attribute_losses(vision, heads.crops, batch.crops, bf16=bf16)
    every = torch.cat(around)
    return {
        "loss": loss + crops["loss"],
        **found,
        "around": share(every) if len(every) else 0.0,
        "off": float(off.detach().mean()) if len(off) else 0.0,
        "crops": crops["right"],
    }


def teach_frames(network: PixelReferNetwork, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, see `teach_vision`."""
    rng = np.random.default_rng(settings.seed)
    return teach_vision(
        STAGE,
        network,
        FrameHeads,
        frame_losses,
        batches=FrameBatches(
            network.config, seed=settings.seed, scenes=settings.frame_scenes, steps=settings.frame_steps
        ),
        watched=draw_frames(scene_seeds("val", settings.seed, _WATCHED), network.config, rng=rng)
        if settings.validate_every
        else None,
        out=out,
        settings=settings,
        pace=settings.pace(settings.frame_steps, flat=_FLAT, schedule=_SCHEDULE),
    )
