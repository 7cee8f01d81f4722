# SPDX-License-Identifier: Apache-2.0
"""Small byte-level BPE tokenizers with Qwen2's chat tokens and ``<REGION>``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<REGION>")


def write_bpe_tokenizer(folder: Path, text: Iterable[str], *, words: str, vocabulary: int) -> dict[str, int]:
    """Trains a tokenizer and writes ``tokenizer.json`` and ``tokenizer_config.json``.

    Every byte is in the vocabulary, so that any text can be written and read back.

    Args:
        folder: must exist.
        text: to train on; the same text gives the same tokenizer.
        words: a regular expression of what is a word before bytes are merged.
        vocabulary: tokens at most, special ones included.

    Returns:
        Token to id; the special tokens have the highest ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(_SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in _SPECIAL_TOKENS]
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
