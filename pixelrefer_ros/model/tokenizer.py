# SPDX-License-Identifier: Apache-2.0
"""The checkpoint's tokenizer: prompts to ids, ids to bytes. No code of the checkpoint's is ever run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from pixelrefer_ros.errors import BadQuestion, CheckpointError
from pixelrefer_ros.model.prompt import REGION_TOKEN, TURN_END, TURN_START

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)

_END_OF_TEXT = "<|endoftext|>"


class ChatTokenizer:
    """A Qwen2 byte-level tokenizer with PixelRefer's ``<REGION>``.

    Args:
        folder: the checkpoint.

    Attributes:
        region_id: of ``<REGION>``.
        stop_ids: the tokens that end an answer.

    Raises:
        CheckpointError: there is no tokenizer, or it lacks a token the prompt needs.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _load(folder)
        self._lock = Lock()  # the backend's settings are changed while it encodes
        vocabulary = self._tokenizer.get_vocab()
        for token in (TURN_START, TURN_END, REGION_TOKEN):
            if token not in vocabulary:
                raise CheckpointError(
                    f"{folder}: the tokenizer has no {token}; it is not that of a PixelRefer model"
                )
        self.region_id: int = vocabulary[REGION_TOKEN]
        self.stop_ids = frozenset(
            vocabulary[token] for token in (TURN_END, _END_OF_TEXT) if token in vocabulary
        )
        added = self._tokenizer.added_tokens_decoder
        self._special = frozenset(key for key, token in added.items() if token.special)
        self._byte_of = _byte_of_character()

    def __len__(self) -> int:
        """Ids the tokenizer knows."""
        return len(self._tokenizer)

    def encode(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of a prompt made by `chat_pieces`.

        Raises:
            BadQuestion: the question spells ``<REGION>``, and the tokenizer cannot read it as plain text.
        """
        ids: list[int] = []
        with self._lock:
            for text, special in pieces:
                if special:
                    ids.append(self._tokenizer.convert_tokens_to_ids(text))
                    continue
                plain = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
                if self.region_id in plain:
                    raise BadQuestion(
                        f"the question contains {REGION_TOKEN}: write <region> where an object belongs"
                    )
                ids += plain
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes a token stands for; none for special tokens and ids without a token."""
        if token_id in self._special:
            return b""
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        # Byte-level tokens spell each byte as one printable character; added tokens are plain text.
        if all(character in self._byte_of for character in token):
            return bytes(self._byte_of[character] for character in token)
        return str(token).encode()

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a whole sequence, special tokens left out."""
        return str(
            self._tokenizer.decode(
                list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer of some kind."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def _load(folder: Path) -> PreTrainedTokenizerBase:
    if not has_tokenizer(folder):
        raise CheckpointError(
            f"{folder} has no tokenizer.json: copy the tokenizer's files into the checkpoint's folder"
        )
    # Not AutoTokenizer: it reads config.json, whose model_type transformers does not know.
    complete = (folder / "tokenizer.json").is_file()
    kind = PreTrainedTokenizerFast if complete else Qwen2Tokenizer
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise many unrelated classes here
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded: {error}") from error


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """How byte-level BPE spells bytes: printable ones as themselves, the others from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spelled = {chr(value): value for value in printable}
    others = [value for value in range(256) if value not in set(printable)]
    return spelled | {chr(0x100 + place): value for place, value in enumerate(others)}
