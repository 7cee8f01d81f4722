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
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pixelrefer_ros.model import GLOBAL_SIDE, PATCH, PixelReferConfig, PixelReferNetwork, global_image
from pixelrefer_ros.training.attributes import ATTRIBUTES, CELLS, SCENE, cells_of, draw_objects
from pixelrefer_ros.training.data import repeated
from pixelrefer_ros.training.frame_losses import NOT_ASKED, FrameBatch, FrameHeads, frame_losses
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.object_facts import Facts
from pixelrefer_ros.training.vision_stage import teach_vision
from pixelrefer_ros.training.world import (
    SEED_RANGES,
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    scene_seeds,
)
from pixelrefer_ros.types import Mask, RgbImage

STAGE = "frames"
SIDE = GLOBAL_SIDE // PATCH
"""Patches across and down a frame."""
_LEAST_MARGIN = 2.0  # patches
_GROWN = 0.6  # share of the steps after which margins reach across the frame
_FIRST_WHOLE, _ALL_WHOLE = 0.24, 0.72  # shares of the steps between which whole frames replace windows
_OWN_SHARE = 0.5  # of a patch that an object covers at least, unless it covers no patch so far
_EMPTY = 0.05  # share of the patches that show no object which are asked for it
_INSIDE = 0.95  # of an object that a window shows at least, to name it
_FLAT, _SCHEDULE = 0.5, 1.2  # see `Pace`
_WATCHED = 40  # validation scenes
_CROPPED = 4  # of so many scenes, one shows crops: what was learned of them has to stay


class FrameBatches(Dataset[FrameBatch]):
    """Batches by number: the same in any process, on any run. Of a run of so many steps, windows grow."""

    def __init__(self, config: PixelReferConfig, *, seed: int, scenes: int, steps: int) -> None:
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
    patches: list[Tensor] = []
    for seed in seeds:
        renderer = Renderer(cast_scene(seed, scene))
        sight, frame, masks = Sight(renderer), global_image(renderer.rgb(0)), renderer.layers(0).visible
        shares = {number: _shares(mask) for number, mask in enumerate(masks) if sight.recognizable(number, 0)}
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
            shown: list[tuple[NDArray[np.bool_], list[int]]] = []
            for number, of_object in shares.items():
                inside = of_object[rows, columns]
                if inside.sum() < _INSIDE * of_object.sum():
                    continue
                picture_of.append(picture)
                it = sight.scene.objects[number].combination
                shown.append(
                    (_owned(inside), [of.index(getattr(it, name)) for name, of in ATTRIBUTES.items()])
                )
                own.append(torch.from_numpy(shown[-1][0]).flatten())
                wholes.append(entire)
                views.append((sight, number, 0))
            empty = cells[rows, columns].sum(axis=-1) == 0
            patches.append(patch_names(empty, shown, rng))
    crops = draw_objects(seeds[::_CROPPED], config)
    return FrameBatch(
        images=images,
        outlines=torch.from_numpy(np.concatenate(outlines)),
        picture_of=picture_of,
        own=own,
        whole=torch.tensor(wholes),
        facts=Facts.of(views),
        crops=crops if crops.images else None,
        patches=torch.cat(patches),
    )


def patch_names(
    empty: NDArray[np.bool_],
    shown: Sequence[tuple[NDArray[np.bool_], Sequence[int]]],
    rng: np.random.Generator,
) -> Tensor:
    """(h w, 3) int64: what patches of a picture name, see `FrameBatch`.

    Args:
        empty: (h, w) bool, the patches that show no object.
        shown: the objects that can be told: the (h, w) patches of each, and the places of its shape, colour
            and surface among their values; the nearest last.
        rng: which of the empty patches are asked for it: there are many more of them.
    """
    asked = empty & (rng.random(empty.shape) < _EMPTY)
    named = np.where(asked, 0, NOT_ASKED)[:, :, None].repeat(len(ATTRIBUTES), axis=2)
    for own, it in shown:
        named[own] = np.add(it, 1)
    return torch.from_numpy(named).flatten(0, 1)


def own_patches(mask: Mask) -> NDArray[np.bool_]:
    """(24, 24) bool: the patches of a whole frame that show an object; at least one."""
    return _owned(_shares(mask))


def _shares(mask: Mask) -> NDArray[np.float32]:
    """(24, 24): how much of each patch of a whole frame an object covers."""
    shares = cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(shares, np.float32)


def _owned(shares: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(shares >= min(_OWN_SHARE, shares.max()))


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


def watched_frames(config: PixelReferConfig, settings: LanguageSettings) -> FrameBatch | None:
    """Whole frames of validation scenes; None where nothing is watched."""
    if not settings.validate_every:
        return None
    rng = np.random.default_rng(settings.seed)
    return draw_frames(scene_seeds("val", settings.seed, _WATCHED), config, rng=rng)


def teach_frames(network: PixelReferNetwork, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, see `teach_vision`."""
    batches = FrameBatches(
        network.config, seed=settings.shown_by, scenes=settings.frame_scenes, steps=settings.frame_steps
    )
    return teach_vision(
        STAGE,
        network,
        FrameHeads,
        frame_losses,
        batches=partial(repeated, batches, shown=1, workers=settings.workers),
        watched=watched_frames(network.config, settings),
        out=out,
        settings=settings,
        pace=settings.pace(settings.frame_steps, flat=_FLAT, schedule=_SCHEDULE),
    )
