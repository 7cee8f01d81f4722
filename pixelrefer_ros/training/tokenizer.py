# SPDX-License-Identifier: Apache-2.0
"""A small tokenizer trained on the world's own text, with Qwen2's chat tokens and ``<REGION>``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pixelrefer_ros.model import write_bpe_tokenizer
from pixelrefer_ros.training.world import REGION, SceneSettings, scene_seeds, scene_texts

VOCABULARY = 1024

# Qwen2's own rule for what is a word before bytes are merged, but for numbers: there each digit is one, and
# "Time 0.5:" six tokens, of which a video has eight. Here a number with its decimals may become one.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}+(?:\.\p{N}+)?"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SCENES, _QUESTIONS = 80, 16
_TIMES_SHOWN = 4
_FRAMES_OF_TEXT = SceneSettings(frames=16, size=(320, 240))


def world_text(seed: int) -> Iterator[str]:
    """Questions and answers of training scenes, as the prompt holds them; no picture is drawn for them."""
    for _ in range(_TIMES_SHOWN):  # so often that every time of a clip becomes one token
        for tenths in range(64):
            yield from (" [Time 0.0:", f",Time {tenths / 10}:", "]", "\nassistant\n", " nothing")
    for scene_seed in scene_seeds("train", seed, _SCENES):
        for question, answer in scene_texts(scene_seed, _QUESTIONS, settings=_FRAMES_OF_TEXT):
            # Where <region> stands, the model sees [<REGION>...]: no token reaches across it.
            yield from f"user\n{question}".replace(REGION, f"[{REGION}]").split(REGION)
            yield answer


def write_tokenizer(folder: Path, text: Iterable[str], *, vocabulary: int = VOCABULARY) -> dict[str, int]:
    """Trains it, so that any question can be asked, understood or not; see `write_bpe_tokenizer`."""
    return write_bpe_tokenizer(folder, text, words=_WORDS, vocabulary=vocabulary)
