# SPDX-License-Identifier: Apache-2.0
"""The images of a recording as a run can use them: each once, in order, up to where it breaks off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pixelrefer_ros.errors import InputFileError
from pixelrefer_ros.offline.bags import BrokenImageListener
from pixelrefer_ros.perception.memory import SET_BACK_NS
from pixelrefer_ros.types import NANOSECONDS, Frame

IndexedFrames = Iterator[tuple[int, Frame]]
"""Frames with their index on the topic."""


def in_order(
    frames: IndexedFrames, on_skipped: BrokenImageListener, on_set_back: Callable[[int, float], None]
) -> IndexedFrames:
    """The frames whose stamps go on.

    Args:
        frames: as they were recorded.
        on_skipped: told of each image that comes twice, or late: its stamp is that of the newest one, or up
            to `SET_BACK_NS` behind it. It is left out.
        on_set_back: told the index of an image whose stamp lies further back, and by how many seconds: the
            clock was set back, or the recording starts over. It is the newest one from then on.

    Yields:
        The others. A stamp is later than the one before, or more than `SET_BACK_NS` earlier.
    """
    newest_ns: int | None = None
    for index, frame in frames:
        behind_ns = -1 if newest_ns is None else newest_ns - frame.stamp_ns
        if 0 <= behind_ns <= SET_BACK_NS:
            late = f"{behind_ns / NANOSECONDS:g} s behind" if behind_ns else "that of"
            on_skipped(index, f"its stamp, {frame.stamp_ns} ns, is {late} the newest image before it")
            continue
        if behind_ns > 0:
            on_set_back(index, behind_ns / NANOSECONDS)
        newest_ns = frame.stamp_ns
        yield index, frame


def until_break(frames: IndexedFrames, on_break: Callable[[InputFileError], None]) -> IndexedFrames:
    """The frames up to where the recording breaks off.

    Args:
        frames: of a recording.
        on_break: told of the break, if there is one.

    Yields:
        The frames before it.

    Raises:
        InputFileError: there is none before it.
    """
    any_came = False
    try:
        for frame in frames:
            any_came = True
            yield frame
    except InputFileError as error:
        if not any_came:
            raise
        on_break(error)
