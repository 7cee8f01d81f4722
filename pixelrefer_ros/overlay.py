# SPDX-License-Identifier: Apache-2.0
"""The picture for people: masks, boxes, ids and what was said, drawn over a copy of the frame."""

from __future__ import annotations

import colorsys
import unicodedata
from dataclasses import dataclass

import cv2
import numpy as np

from pixelrefer_ros.types import Box, RgbImage, Scene, TrackedObject, TrackState

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MASK_OPACITY = 0.45
_PLATE_OPACITY = 0.65
_CAPTION_LINES = 4
_MAX_CAPTION_CHARS = 400

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Pen:
    """Sizes that keep lines and letters legible at the picture's size, pixels."""

    scale: float
    line: int
    row: int
    gap: int

    @classmethod
    def for_height(cls, height: int) -> _Pen:
        """Capital letters about 11 pixels high at 480 rows; they grow with the picture, and never shrink."""
        factor = max(1.0, height / 480)
        return cls(0.5 * factor, max(1, round(factor)), round(18 * factor), round(4 * factor))

    def width(self, text: str) -> int:
        """Width of a line of text."""
        return int(cv2.getTextSize(text, _FONT, self.scale, self.line)[0][0])


def draw_overlay(scene: Scene, *, captions: bool = True) -> RgbImage:
    """Draw a scene for people.

    Each object has a colour of its own, the same in every frame: its mask is tinted and outlined, its box
    drawn, and a tag says ``#id label``, with the state where it is not TRACKED. An object out of sight has no
    place in the picture; its tag stands in the top-left corner. Letters outside ASCII are shown without
    accents or as "?": OpenCV's font has no others.

    Args:
        scene: a frame with its objects; not written to.
        captions: also write each object's newest description, wrapped to at most four lines.

    Returns:
        (H, W, 3) uint8 RGB, a new array.
    """
    picture = np.ascontiguousarray(scene.frame.rgb).copy()
    pen = _Pen.for_height(picture.shape[0])
    objects = sorted(scene.objects, key=lambda seen: seen.track.object_id)
    for seen in objects:
        _tint(picture, seen)
    for seen in objects:
        _outline(picture, seen, pen)
    taken: list[Box] = []
    for seen in objects:
        _write(picture, _lines(seen, pen, picture.shape[1], captions), seen, pen, taken)
    return picture


def color_of(object_id: int) -> Color:
    """An object's colour.

    Args:
        object_id: any integer.

    Returns:
        RGB. Neighbouring ids are far apart: hues step by the golden angle.
    """
    hue = (object_id * 0.6180339887) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _tint(picture: RgbImage, seen: TrackedObject) -> None:
    box = seen.track.box
    if box is None:
        return
    part = np.s_[box.y : box.y + box.height, box.x : box.x + box.width]
    mask = seen.track.mask[part]
    under = picture[part][mask].astype(np.float32)
    color = np.array(color_of(seen.track.object_id), np.float32)
    picture[part][mask] = (under + (color - under) * _MASK_OPACITY).astype(np.uint8)


def _outline(picture: RgbImage, seen: TrackedObject, pen: _Pen) -> None:
    box = seen.track.box
    if box is None:
        return
    color = color_of(seen.track.object_id)
    part = seen.track.mask[box.y : box.y + box.height, box.x : box.x + box.width]
    edges, _ = cv2.findContours(
        part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(box.x, box.y)
    )
    cv2.drawContours(picture, edges, -1, color, pen.line)
    corner = (box.x + box.width - 1, box.y + box.height - 1)
    cv2.rectangle(picture, (box.x, box.y), corner, color, pen.line + 1)


def _lines(seen: TrackedObject, pen: _Pen, width: int, captions: bool) -> list[str]:
    """The tag, then the description in lines that fit a plate of at most 60 % of the picture."""
    tag = f"#{seen.track.object_id} {_ascii(seen.label)}".strip()
    if seen.track.state is not TrackState.TRACKED:
        tag += f" ({seen.track.state.name})"
    widest = max(pen.width("#00 mmmm"), round(width * 0.6))
    lines = _wrap(tag, pen, widest)[:1]
    if captions and seen.description is not None:
        said = _wrap(_ascii(seen.description.text), pen, widest)
        if len(said) > _CAPTION_LINES:
            said = [*said[: _CAPTION_LINES - 1], said[_CAPTION_LINES - 1].rstrip(".") + "..."]
        lines += said
    return lines


def _ascii(text: str) -> str:
    """Text in the letters OpenCV's font has, on one line, bounded."""
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFKD", text[:_MAX_CAPTION_CHARS])
        if not unicodedata.combining(letter)
    )
    shown = "".join(letter if " " <= letter <= "~" else " " if letter.isspace() else "?" for letter in plain)
    return " ".join(shown.split())


def _wrap(text: str, pen: _Pen, widest: int) -> list[str]:
    """Break text between words, and within a word that alone is too wide."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if pen.width(longer) <= widest:
            line = longer
            continue
        if line:
            lines.append(line)
        while pen.width(word) > widest and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or pen.width(word[:n]) <= widest)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line else lines


def _write(picture: RgbImage, lines: list[str], seen: TrackedObject, pen: _Pen, taken: list[Box]) -> None:
    """Write lines on a dark plate near the object, where no other plate is."""
    width = max(pen.width(line) for line in lines) + 2 * pen.gap
    plate = _place(picture, seen.track.box, width, len(lines) * pen.row + pen.gap, taken, pen)
    taken.append(plate)
    part = picture[plate.y : plate.y + plate.height, plate.x : plate.x + plate.width]
    part[:] = (part * (1 - _PLATE_OPACITY)).astype(np.uint8)
    cv2.rectangle(part, (0, 0), (pen.gap // 2, plate.height), color_of(seen.track.object_id), cv2.FILLED)
    for number, line in enumerate(lines):
        at = (plate.x + pen.gap, plate.y + (number + 1) * pen.row - pen.gap)
        cv2.putText(picture, line, at, _FONT, pen.scale, (255, 255, 255), pen.line, cv2.LINE_AA)


def _place(picture: RgbImage, box: Box | None, width: int, height: int, taken: list[Box], pen: _Pen) -> Box:
    """Above the object, else below, else inside it; moved down past other plates if none is free."""
    rows, columns = picture.shape[:2]
    width, height = min(width, columns), min(height, rows)
    if box is None:
        wanted = [(0, 0)]
    else:
        above, below = box.y - height - pen.gap, box.y + box.height + pen.gap
        wanted = [(box.x, y) for y in (above, below) if 0 <= y <= rows - height]
        wanted.append((box.x, box.y))
    wanted = [(min(max(x, 0), columns - width), min(max(y, 0), rows - height)) for x, y in wanted]
    x, y = wanted[-1]
    wanted += [(x, y + down) for down in range(0, rows - height - y + 1, pen.row)]
    places = [Box(x, y, width, height) for x, y in wanted]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(one: Box, other: Box) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )
