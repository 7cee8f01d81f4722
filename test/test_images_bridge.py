# SPDX-License-Identifier: Apache-2.0
"""cv_bridge where it is installed: used where it is right, and the same pixels without it."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.images import ENCODINGS, bridge, message_to_rgb, to_rgb

WIDTH, HEIGHT = 16, 10


def message(name: str, *, padding: int = 0, is_bigendian: int = 0, seed: int = 0) -> SimpleNamespace:
    """A ``sensor_msgs/Image`` in all but class."""
    layout = ENCODINGS[name]
    step = WIDTH * layout.channels * int(layout.dtype[1]) + padding
    rows = HEIGHT * 3 // 2 if layout.chroma_plane else HEIGHT
    data = np.random.default_rng(seed).integers(0, 256, rows * step, dtype=np.uint8)
    if layout.dtype == "f4":
        data = np.random.default_rng(seed).random(rows * step // 4, dtype=np.float32).view(np.uint8)
    return SimpleNamespace(
        encoding=name, width=WIDTH, height=HEIGHT, step=step, is_bigendian=is_bigendian, data=data
    )


def own(image: SimpleNamespace) -> np.ndarray:
    """By the project's codec."""
    return to_rgb(
        image.data,
        encoding=image.encoding,
        width=image.width,
        height=image.height,
        step=image.step,
        is_bigendian=bool(image.is_bigendian),
    )


@pytest.fixture(autouse=True)
def forget():
    """Every test decides anew whether cv_bridge is there; no stand-in is left for the next."""
    bridge._cv_bridge.cache_clear()
    bridge._failed.clear()
    yield
    bridge._cv_bridge.cache_clear()
    bridge._failed.clear()
    if hasattr(sys.modules.get("cv_bridge"), "calls"):
        del sys.modules["cv_bridge"]


STAND_IN = """
import os
from rosbags.image import image_to_cvimage

calls, error, crash = [], None, {crash}

class CvBridge:
    def imgmsg_to_cv2(self, image, desired_encoding):
        assert desired_encoding == "rgb8"
        if crash:
            os.abort()
        calls.append(image.encoding)
        if error is not None:
            raise error
        return image_to_cvimage(image, "rgb8")
"""


def install(monkeypatch, folder: Path, text: str) -> None:
    """A module named cv_bridge, for this process and its children: this platform has none."""
    (folder / "cv_bridge.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """``calls`` says what it was asked, ``error`` is what it raises."""
    install(monkeypatch, tmp_path, STAND_IN.format(crash=False))
    monkeypatch.setattr(bridge, "_try_in_a_child", lambda: None)  # its own tests are below
    return importlib.import_module("cv_bridge")


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_without_cv_bridge_the_own_codec_answers(name, monkeypatch):
    monkeypatch.setattr(bridge.importlib.util, "find_spec", lambda _: None)
    np.testing.assert_array_equal(message_to_rgb(message(name)), own(message(name)))


@pytest.mark.parametrize("name", sorted(bridge._BRIDGED - {"mono16"}))
def test_cv_bridge_is_used_where_it_is_installed(name, stand_in):
    rgb = message_to_rgb(message(name))
    assert stand_in.calls == [name]
    np.testing.assert_array_equal(rgb, own(message(name)))
    assert not rgb.flags.writeable


@pytest.mark.parametrize("name", sorted(set(ENCODINGS) - bridge._BRIDGED))
def test_what_cv_bridge_cannot_convert_never_reaches_it(name, stand_in):
    np.testing.assert_array_equal(message_to_rgb(message(name)), own(message(name)))
    assert stand_in.calls == []


@pytest.mark.parametrize("image", [message("bgr8", padding=1), message("mono16", is_bigendian=1)])
def test_layouts_that_cv_bridge_misreads_never_reach_it(image, stand_in):
    np.testing.assert_array_equal(message_to_rgb(image), own(image))
    assert stand_in.calls == []


def test_a_cv_bridge_that_fails_is_replaced_for_good_and_logged_once(stand_in, caplog):
    stand_in.error = RuntimeError("no conversion")
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            image = message("bgr8", seed=seed)
            np.testing.assert_array_equal(message_to_rgb(image), own(image))
    assert stand_in.calls == ["bgr8"]
    assert [record.getMessage() for record in caplog.records if "bgr8" in record.getMessage()] == [
        "cv_bridge cannot convert bgr8 (no conversion); using the built-in image codec"
    ]
    stand_in.error = None
    message_to_rgb(message("mono8"))
    assert stand_in.calls == ["bgr8", "mono8"], "other encodings are unaffected"


@pytest.mark.parametrize(
    "text",
    [STAND_IN.format(crash=True), "raise AttributeError('_ARRAY_API not found')", "import no_such_module"],
)
def test_a_cv_bridge_that_crashes_or_does_not_load_is_replaced_and_logged_once(
    text, monkeypatch, tmp_path, caplog
):
    install(monkeypatch, tmp_path, text)
    monkeypatch.setattr(np, "__version__", "2.0.0")  # under NumPy 1 it is trusted not to crash
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(message_to_rgb(message("bgr8")), own(message("bgr8")))
    assert [record.getMessage() for record in caplog.records] == [caplog.records[0].getMessage()]
    assert "does not work" in caplog.text


def test_a_cv_bridge_that_stands_its_trial_is_used(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, STAND_IN.format(crash=False))
    monkeypatch.setattr(np, "__version__", "2.0.0")
    np.testing.assert_array_equal(message_to_rgb(message("bgr8")), own(message("bgr8")))
    assert sys.modules["cv_bridge"].calls == ["bgr8"]


def test_a_broken_message_is_refused_before_cv_bridge_sees_it(stand_in):
    image = message("bgr8")
    image.data = image.data[:-1]
    with pytest.raises(ImageError, match="cut short"):
        message_to_rgb(image)
    assert stand_in.calls == []


@pytest.mark.parametrize("name", sorted(ENCODINGS))
@pytest.mark.parametrize("padded", [False, True])
def test_the_real_cv_bridge_gives_the_same_pixels(name, padded):
    pytest.importorskip("cv_bridge")
    messages = pytest.importorskip("sensor_msgs.msg")
    layout = ENCODINGS[name]
    plain = message(name, padding=4 * layout.channels * int(layout.dtype[1]) if padded else 0)
    image = messages.Image(
        encoding=name, width=WIDTH, height=HEIGHT, step=plain.step, is_bigendian=0, data=plain.data.tobytes()
    )
    np.testing.assert_array_equal(message_to_rgb(image), own(plain))
