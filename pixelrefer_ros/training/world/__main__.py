# SPDX-License-Identifier: Apache-2.0
"""``python -m pixelrefer_ros.training.world``: pictures of the world, to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from pixelrefer_ros.training.world.casting import cast_scene
from pixelrefer_ros.training.world.contact_sheet import (
    film_strip,
    outlined,
    stacked,
    text_panel,
    vocabulary_sheet,
)
from pixelrefer_ros.training.world.examples import Example, scene_examples
from pixelrefer_ros.training.world.rendering import Renderer
from pixelrefer_ros.training.world.splits import Split, scene_seeds
from pixelrefer_ros.types import RgbImage

_DIAMETERS, _ENLARGED = (100, 26), 3
_FRAMES, _WIDTH = 5, 280


def main(arguments: list[str] | None = None) -> None:
    """Writes the vocabulary and a sheet of scenes with questions and answers."""
    parser = argparse.ArgumentParser(prog="pixelrefer_ros.training.world", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--questions", type=int, default=8, help="per scene")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for diameter in _DIAMETERS:
        sheet = vocabulary_sheet(diameter, seed=options.seed)
        if diameter < _DIAMETERS[0]:
            sheet = np.asarray(
                cv2.resize(sheet, None, fx=_ENLARGED, fy=_ENLARGED, interpolation=cv2.INTER_NEAREST), np.uint8
            )
        _write(options.out / f"vocabulary_{diameter}px.png", sheet)
    for number, picture in enumerate(_scenes(options.split, options.seed, options.scenes, options.questions)):
        _write(options.out / f"scene_{number:03d}.png", picture)


def _scenes(split: Split, seed: int, scenes: int, questions: int) -> list[RgbImage]:
    pictures = []
    for scene_seed in scene_seeds(split, seed, scenes):
        parts = [film_strip(Renderer(cast_scene(scene_seed)), _FRAMES, width=_WIDTH)]
        examples = list(scene_examples(scene_seed, questions))
        parts += [_asked(example) for example in examples]
        pictures.append(stacked(parts))
    return pictures


def _asked(example: Example) -> RgbImage:
    masks = [of_region[-1] for of_region in example.masks]
    picture = outlined(example.frames[-1].rgb, masks)
    height = round(_WIDTH * picture.shape[0] / picture.shape[1])
    seen = np.asarray(cv2.resize(picture, (_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
    times = " ".join("-" if time is None else f"{time:.1f}" for time in example.times_s)
    words = text_panel(
        [
            f"{example.kind} ({times})",
            example.question,
            example.answer,
            "  ".join(f"{f.slot}={f.value}" for f in sorted(example.facts)),
        ],
        _WIDTH * (_FRAMES - 1),
    )
    panel = np.zeros((height, words.shape[1], 3), np.uint8)
    panel[: words.shape[0]] = words
    return np.concatenate((seen, panel), axis=1)


def _write(path: Path, picture: RgbImage) -> None:
    cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))
    print(path)  # the command's result


if __name__ == "__main__":
    main()
