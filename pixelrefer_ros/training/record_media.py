# SPDX-License-Identifier: Apache-2.0
"""The pictures of a record: an image, some frames of a video, or of a folder of frames."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.images import MAX_PIXELS
from pixelrefer_ros.types import RgbImage

MAX_FRAME = 100_000
"""The highest frame number read: a video is decoded from its beginning."""

FOLDER_RATE_HZ = 3.0
"""Of a folder of frames, as the authors' loader has it: nothing in a folder says how fast it is."""

_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def read_pictures(path: Path, numbers: Iterable[int]) -> tuple[dict[int, RgbImage], float | None]:
    """Some frames by number, counted from 0; an image has frame 0.

    Args:
        path: an image, a video, or a folder with a picture per frame, in the order of their names.
        numbers: which.

    Returns:
        The pictures, and the frames per second: of a folder `FOLDER_RATE_HZ`, else None if the media does
        not say.

    Raises:
        ImageError: they cannot be read, or there are not so many.
    """
    wanted = sorted(set(numbers))
    if wanted[-1] > MAX_FRAME:
        raise ImageError(f"{path}: frame {wanted[-1]} is wanted; at most {MAX_FRAME} are read")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICTURES)
        if wanted[-1] >= len(files):
            raise ImageError(f"{path} has {len(files)} frames; number {wanted[-1]} is wanted")
        return {number: _picture(files[number]) for number in wanted}, FOLDER_RATE_HZ
    if path.suffix.lower() in _PICTURES:
        if wanted != [0]:
            raise ImageError(f"{path} is one picture; frame {wanted[-1]} is wanted")
        return {0: _picture(path)}, None
    return _decoded(path, wanted)


def _picture(path: Path) -> RgbImage:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error})") from error
    try:
        # Masks are of the stored pixels, whichever way the camera was held.
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    except cv2.error as error:
        raise ImageError(f"{path} cannot be decoded ({error})") from error
    if bgr is None:
        raise ImageError(f"{path} is no picture that can be decoded")
    return _bounded(path, np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))


def _decoded(path: Path, wanted: list[int]) -> tuple[dict[int, RgbImage], float | None]:
    import av  # only videos need it

    found: dict[int, RgbImage] = {}
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{path} has no video")
            stream = container.streams.video[0]
            rate = float(stream.average_rate) if stream.average_rate else None
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    found[number] = _bounded(path, frame.to_ndarray(format="rgb24"))
                if number >= wanted[-1]:
                    break
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be decoded ({error})") from error
    if len(found) < len(wanted):
        missing = next(number for number in wanted if number not in found)
        raise ImageError(f"{path} has no frame {missing}")
    return found, rate


def _bounded(path: Path, rgb: RgbImage) -> RgbImage:
    if rgb.shape[0] * rgb.shape[1] > MAX_PIXELS:
        raise ImageError(f"{path} is of {list(rgb.shape[:2])} px; at most {MAX_PIXELS} px are read")
    return rgb
