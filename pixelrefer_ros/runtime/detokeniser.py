# SPDX-License-Identifier: Apache-2.0
"""Tokens to text while they come: a byte-level token may end in the middle of a character."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamingDetokeniser:
    """Turns one token after the other into valid text.

    A character comes out when its last byte has come. Bytes that cannot become a character come out as
    U+FFFD, just as the tokenizer's own decoding of the whole sequence would show them: the pieces joined
    equal that text.

    Args:
        token_bytes: the UTF-8 bytes of a token; empty for special tokens.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes; may be empty."""
        return self._utf8.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD if the last character was never completed."""
        return self._utf8.decode(b"", final=True)
