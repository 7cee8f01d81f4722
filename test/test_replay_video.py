# SPDX-License-Identifier: Apache-2.0
"""The overlay video: every picture in its place and time, for any size, in mp4 and gif."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest

from pixelrefer_ros.errors import InputFileError
from pixelrefer_ros.offline.video import VideoWriter

SECOND = 1_000_000_000
ENDINGS = [".mp4", ".gif"]


def picture(value: int, width: int = 65, height: int = 47) -> np.ndarray:
    """One colour, with a mark in the last row and column."""
    rgb = np.full((height, width, 3), (value, 255 - value, 60), np.uint8)
    rgb.flags.writeable = False
    return rgb


def decode(path) -> list[tuple[float, np.ndarray]]:
    """Time in seconds and pixels of each picture."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_pictures_are_shown_at_their_stamps(tmp_path, ending):
    stamps = [5 * SECOND, 5 * SECOND + 100_000_000, 5 * SECOND + 400_000_000, 7 * SECOND]
    with VideoWriter(tmp_path / f"new/folder/a{ending}") as video:
        for number, stamp in enumerate(stamps):
            video.write(picture(60 * number), stamp)
    shown = decode(tmp_path / f"new/folder/a{ending}")
    # A gif counts in hundredths of a second.
    assert [time for time, _ in shown] == pytest.approx([0, 0.1, 0.4, 2.0], abs=0.006)
    for number, (_, rgb) in enumerate(shown):
        # Colour in mp4 is coded with loss; the pictures are 60 apart.
        assert np.abs(rgb[:47, :65].astype(int) - picture(60 * number)).mean() < 8


@pytest.mark.parametrize(("ending", "size"), [(".mp4", (48, 66)), (".gif", (47, 65))])
def test_odd_sizes_are_handled(tmp_path, ending, size):
    with VideoWriter(tmp_path / f"a{ending}") as video:
        video.write(picture(0), 0)
    assert decode(tmp_path / f"a{ending}")[0][1].shape[:2] == size


@pytest.mark.parametrize("ending", ENDINGS)
def test_stamps_that_jump_neither_stretch_nor_break_it(tmp_path, ending):
    with VideoWriter(tmp_path / f"a{ending}") as video:
        for stamp in (10 * SECOND, 9 * SECOND, 9 * SECOND, 5000 * SECOND):
            video.write(picture(90), stamp)
    times = [time for time, _ in decode(tmp_path / f"a{ending}")]
    assert len(times) == 4
    assert all(later > earlier for earlier, later in itertools.pairwise(times))
    assert times[-1] < 2.1


def test_a_picture_of_another_size_is_scaled(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as video:
        video.write(picture(0), 0)
        video.write(picture(200, 200, 100), SECOND)
    assert {rgb.shape for _, rgb in decode(tmp_path / "a.mp4")} == {(48, 66, 3)}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_video_without_pictures_leaves_no_file(tmp_path, ending):
    with VideoWriter(tmp_path / f"a{ending}") as video:
        pass
    video.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.avi", "a", "file.txt/a.mp4", "folder.mp4"])
def test_what_cannot_be_written_is_refused_by_name_before_the_first_picture(tmp_path, name):
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputFileError, match=name.rpartition("/")[2]):
        VideoWriter(tmp_path / name)


def fill(video: VideoWriter) -> None:
    """Write pictures that compress badly, more than FFmpeg keeps to itself."""
    random = np.random.default_rng(0)
    for number in range(100):
        video.write(random.integers(0, 255, (240, 320, 3), np.uint8), number * SECOND)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_fills_up_is_told_by_the_name_of_the_video(tmp_path, ending):
    (tmp_path / f"a{ending}").symlink_to("/dev/full")
    told = rf"overlay .*a\{ending} cannot be written \(No space left on device\): make room"
    with pytest.raises(InputFileError, match=told), VideoWriter(tmp_path / f"a{ending}") as video:
        fill(video)


def test_after_a_failure_nothing_more_is_written(tmp_path):
    (tmp_path / "a.mp4").symlink_to("/dev/full")
    video = VideoWriter(tmp_path / "a.mp4")
    with pytest.raises(InputFileError, match="No space left"):
        fill(video)
    with pytest.raises(InputFileError, match="No space left"):  # not by FFmpeg, which would crash
        video.write(picture(0), 0)
    video.close()
