# SPDX-License-Identifier: Apache-2.0
"""The question as the language model was trained to see it: objects in place of ``<region>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pixelrefer_ros.errors import BadQuestion
from pixelrefer_ros.model.network import ObjectTokens
from pixelrefer_ros.types import REGION_TAG

REGION_TOKEN = "<REGION>"  # noqa: S105 (a token of the vocabulary)
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True, eq=False, slots=True)
class TimedTokens:
    """One object in one frame.

    Attributes:
        tokens: (n, D) object tokens.
        time_s: when, in seconds from any origin; None for a single picture that has no time.
    """

    tokens: ObjectTokens
    time_s: float | None = None


def region_text(times: Sequence[float | None], mask_num: int) -> str:
    """What stands for one object: ``[<REGION>...]``, or with times ``[Time 0.0:<REGION>...,Time 1.5:...]``.

    Args:
        times: of the object's frames in order, s; ``[None]`` for a single picture.
        mask_num: n, the tokens of one frame.

    Raises:
        BadQuestion: no frame, a frame without a time among several, or times out of order.
    """
    tokens = REGION_TOKEN * mask_num
    if list(times) == [None]:
        return f"[{tokens}]"
    known = [time for time in times if time is not None]
    if not known or len(known) != len(times):
        raise BadQuestion(
            f"an object has frames at {list(times)}: several frames need a time each, one may have None"
        )
    if known != sorted(known):
        raise BadQuestion(f"an object's frames are at {known} s: give them in the order of time")
    return "[" + ",".join(f"Time {round(float(time), 1) + 0.0}:{tokens}" for time in known) + "]"


def place_objects(text: str, regions: Sequence[str]) -> str:
    """Puts the text of each object where the question has ``<region>``; before it where it has none.

    Raises:
        BadQuestion: the question is empty, there is no object, or the numbers differ.
    """
    if not text.strip():
        raise BadQuestion("the question is empty: ask something about the object")
    if not regions:
        raise BadQuestion("the question names no object: give one object for each <region>")
    count = text.count(REGION_TAG)
    if count == 0:
        return " ".join(regions) + "\n" + text
    if count != len(regions):
        raise BadQuestion(
            f"the question has {count} {REGION_TAG} but {len(regions)} objects: give one for each"
        )
    first, *rest = text.split(REGION_TAG)
    return first + "".join(region + piece for region, piece in zip(regions, rest, strict=True))


def chat_pieces(text: str, times: Sequence[Sequence[float | None]], mask_num: int) -> list[tuple[str, bool]]:
    """The whole prompt in Qwen2's chat format, without a system turn (the released template has none).

    Args:
        text: the question, with one ``<region>`` per object or with none.
        times: of the frames of each object, see `region_text`.
        mask_num: n.

    Returns:
        Pieces in order: (text, False) is to be read as plain text even where it spells a special token,
        so that no question can end its own turn; (token, True) is one special token.
    """
    # Object texts hold special tokens, questions must not: "\0" keeps their places apart meanwhile.
    placed = place_objects(text.replace("\0", ""), ["\0"] * len(times))
    pieces: list[tuple[str, bool]] = [(TURN_START, True)]
    plain = "user\n"
    objects = [region_text(frames, mask_num) for frames in times]
    first, *rest = placed.split("\0")
    plain += first
    for region, after in zip(objects, rest, strict=True):
        before, *gaps = region.split(REGION_TOKEN)
        plain += before
        for gap in gaps:
            if plain:
                pieces.append((plain, False))
            pieces.append((REGION_TOKEN, True))
            plain = gap
        plain += after
    pieces += [(plain, False), (TURN_END, True), ("\n", False), (TURN_START, True), ("assistant\n", False)]
    return pieces
