# SPDX-License-Identifier: Apache-2.0
"""A small byte-level BPE tokenizer with Qwen2's special tokens, trained on the sentences below."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<REGION>")

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
    """Writes ``tokenizer.json`` and ``tokenizer_config.json``.

    Every byte is in the vocabulary, so that any text can be written and read back.

    Returns:
        The vocabulary: token to id, special tokens last.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return dict(tokenizer.get_vocab())
