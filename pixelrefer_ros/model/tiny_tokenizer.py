# SPDX-License-Identifier: Apache-2.0
"""A small byte-level BPE tokenizer with Qwen2's special tokens, trained on the sentences below."""

from __future__ import annotations

from pathlib import Path

from pixelrefer_ros.model.bpe import write_bpe_tokenizer

# What Qwen2 takes for a word before it merges bytes: part of the format, as the special tokens are.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_VOCABULARY = 512
_SENTENCES = (
    "user\nWhat is <region>? Answer with one word or phrase.",
    "assistant\nIt is a red cup on the table, next to a blue box.",
    "Please describe <region> in brief. Please describe <region> in detail.",
    "What is the category of <region>? Using only one word or phrase.",
    "What colour is the object? What does it do? Where does it go? How many are there?",
    "There is one object in the video: <region>.\nPlease describe in detail the marked object in the video.",
    "[Time 0.0:,Time 1.5:,Time 2.0:] The object moves from left to right, then it stops.",
    "A person in a white shirt holds a green bottle. A dog runs behind the yellow car.",
    "The robot sees a small black cable on the floor and a large wooden chair.",
    "Is the first object above, below, or beside the second one? Yes. No. I do not know.",
)


def write_tiny_tokenizer(folder: Path) -> dict[str, int]:
    """Writes it into a folder that exists; see `write_bpe_tokenizer`."""
    return write_bpe_tokenizer(folder, _SENTENCES, words=_QWEN2_WORDS, vocabulary=_VOCABULARY)
