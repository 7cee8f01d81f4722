# SPDX-License-Identifier: Apache-2.0
"""Small real parts for perception tests: moving frames, and a language model that keeps count."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from pixelrefer_ros.model import PixelReferLite
from pixelrefer_ros.types import AnswerStatus, Box, Frame, Question, Region

WIDTH, HEIGHT = 96, 64
PERIOD_NS = 100_000_000


def frame(index: int, *, first_ns: int = 1_000_000_000) -> Frame:
    """The ``index``-th picture of a 10 Hz camera: noise with a square that moves right."""
    rgb = np.random.default_rng(7).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    left = 8 + index % 40
    rgb[20:40, left : left + 20] = (200, 30, 30)
    return Frame(rgb, first_ns + index * PERIOD_NS, "camera_optical_frame")


def box_region(x: int = 8, y: int = 20, size: int = 20, **fields: object) -> Region:
    """A square region."""
    return Region(box=Box(x, y, size, size), **fields)  # type: ignore[arg-type]


def question(*object_ids: int, text: str = "What is it?", **fields: object) -> Question:
    """A short question."""
    return Question(text=text, object_ids=object_ids, **{"max_tokens": 3, **fields})  # type: ignore[arg-type]


def until(condition, timeout_s=20.0):
    """Wait for something that happens on another thread."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def long_question(live, object_id):
    """A question that the random model, which decodes greedily, answers at length."""
    for i in range(100):
        asked = question(object_id, text=f"What is it, for the {i}th time?", max_tokens=300)
        if live.ask(asked).wait(30).status is AnswerStatus.TRUNCATED:
            return replace(asked, max_tokens=1000)
    raise AssertionError("the random model answers everything briefly: give the tiny checkpoint another seed")


class CountingLanguage:
    """The real model, with a count of what was computed."""

    def __init__(self, folder: Path) -> None:
        self._model = PixelReferLite.from_pretrained(folder)
        self.name, self.content_hash = self._model.name, self._model.content_hash
        self.calls: Counter[str] = Counter()
        self.times: list[list[float | None]] = []
        self.masks: list[np.ndarray] = []

    def encode_global(self, rgb):
        self.calls["global"] += 1
        return self._model.encode_global(rgb)

    def encode_object(self, rgb, mask, global_features):
        self.calls["object"] += 1
        self.masks.append(mask)
        return self._model.encode_object(rgb, mask, global_features)

    def request(self, text, objects, **options):
        self.times = [[view.time_s for view in of_object] for of_object in objects]
        return self._model.request(text, objects, **options)

    def generate_together(self, waiting, *, max_batch):
        return self._model.generate_together(waiting, max_batch=max_batch)
