# SPDX-License-Identifier: Apache-2.0
"""Pictures with stamps into an mp4 or gif."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.filter import Graph

from pixelrefer_ros.errors import InputFileError
from pixelrefer_ros.types import NANOSECONDS, RgbImage

_LONGEST_GAP_NS = 2 * NANOSECONDS
_TICKS_PER_S = {".mp4": 90_000, ".gif": 100}
_MP4_ENCODERS = ("libx264", "libopenh264", "mpeg4")


class VideoWriter:
    """A video that shows each picture for as long as its stamps say; use it in a ``with`` statement.

    Between two pictures at most 2 s pass, at least one tick (10 ms in a gif): a gap in the recording, or a
    stamp that runs backwards, does not stretch or break the video. The first picture gives the size; later
    ones are scaled to it, and an odd row or column is repeated, as H.264 needs even sizes.
    """

    def __init__(self, path: Path | str) -> None:
        """Begin a video.

        Args:
            path: ``.mp4`` (H.264 where this PyAV can, else MPEG-4) or ``.gif``.

        Raises:
            InputFileError: another ending, or a file that cannot be written.
        """
        self.path = Path(path)
        ticks = _TICKS_PER_S.get(self.path.suffix.lower())
        if ticks is None:
            raise InputFileError(f"overlay {self.path} ends in {self.path.suffix!r}; use .mp4 or .gif")
        self._gif = self.path.suffix.lower() == ".gif"
        self._time_base = Fraction(1, ticks)
        self._failure: InputFileError | None = None
        with self._told_by_name():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            self.path.open("ab").close()  # FFmpeg would find out at the first picture, after the models load
            if is_new:
                self.path.unlink()
            self._container = av.open(str(self.path), "w")
        self._stream: av.VideoStream | None = None
        self._palette: Graph | None = None
        self._last_ns = 0
        self._shown_ns = 0
        self._last_tick = -1

    def __enter__(self) -> VideoWriter:
        """Nothing more to do: it is open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file."""
        self.close()

    def write(self, rgb: RgbImage, stamp_ns: int) -> None:
        """Add a picture.

        Args:
            rgb: (H, W, 3) uint8 RGB.
            stamp_ns: when it was taken.

        Raises:
            InputFileError: the disk is full, say.
        """
        if self._failure is not None:
            raise self._failure
        if self._stream is None:
            self._stream = self._begin(rgb)
        else:
            self._shown_ns += min(max(stamp_ns - self._last_ns, 0), _LONGEST_GAP_NS)
        self._last_ns = stamp_ns
        tick = round(Fraction(self._shown_ns, NANOSECONDS) / self._time_base)
        self._last_tick = max(tick, self._last_tick + 1)
        frame = av.VideoFrame.from_ndarray(self._fit(rgb, self._stream), format="rgb24")
        frame.pts, frame.time_base = self._last_tick, self._time_base
        self._encode(self._stream, frame)

    def close(self) -> None:
        """Finish the file; more calls do nothing.

        Raises:
            InputFileError: the disk is full, say.
        """
        stream, self._stream = self._stream, None
        with self._told_by_name():
            try:
                if stream is not None and self._failure is None:
                    self._container.mux(stream.encode(None))
            finally:
                self._container.close()

    @contextmanager
    def _told_by_name(self) -> Iterator[None]:
        """Whatever the system or FFmpeg refuses is refused with the name of the file."""
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            from pixelrefer_ros.runtime.whole_files import not_written  # with its room comes torch

            # After a failure FFmpeg is given nothing more: it can crash.
            self._failure = self._failure or InputFileError(not_written(f"overlay {self.path}", error))
            raise self._failure from error

    def _begin(self, rgb: RgbImage) -> av.VideoStream:
        height, width = rgb.shape[:2]
        stream = self._container.add_stream("gif" if self._gif else _mp4_encoder(), rate=30)
        assert isinstance(stream, av.VideoStream)  # noqa: S101 - both encoders give video
        stream.width, stream.height = (
            (width, height) if self._gif else (width + width % 2, height + height % 2)
        )
        stream.pix_fmt = "pal8" if self._gif else "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._time_base
        if self._gif:
            self._palette = _palette_of_each(width, height, self._time_base)
        else:
            stream.codec_context.bit_rate = max(1_000_000, 8 * width * height)
        return stream

    def _fit(self, rgb: RgbImage, stream: av.VideoStream) -> RgbImage:
        height, width = rgb.shape[:2]
        wide, high = stream.width - width, stream.height - height
        if wide not in (0, 1) or high not in (0, 1):
            return np.asarray(
                cv2.resize(rgb, (stream.width, stream.height), interpolation=cv2.INTER_AREA), np.uint8
            )
        if wide or high:
            rgb = np.asarray(cv2.copyMakeBorder(rgb, 0, high, 0, wide, cv2.BORDER_REPLICATE), np.uint8)
        return np.ascontiguousarray(rgb)

    def _encode(self, stream: av.VideoStream, frame: av.VideoFrame) -> None:
        if self._palette is not None:
            self._palette.push(frame)
            coloured = self._palette.pull()
            assert isinstance(coloured, av.VideoFrame)  # noqa: S101 - a video filter gives video
            frame = coloured
        with self._told_by_name():
            self._container.mux(stream.encode(frame))


def _mp4_encoder() -> str:
    for name in _MP4_ENCODERS:
        try:
            Codec(name, "w")
        except UnknownCodecError:
            continue
        return name
    raise InputFileError(f"PyAV was built without {', '.join(_MP4_ENCODERS)}; write the overlay as .gif")


def _palette_of_each(width: int, height: int, time_base: Fraction) -> Graph:
    """A filter that gives each picture 256 colours of its own: one palette for all would need all at once."""
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=time_base)
    split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=single")
    use, sink = graph.add("paletteuse", "new=1"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph
