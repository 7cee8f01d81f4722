# SPDX-License-Identifier: Apache-2.0
"""The decoding loop: prefill, then one token after the other, for several answers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.runtime.detokeniser import StreamingDetokeniser
from pixelrefer_ros.runtime.sampling import Sampling, TokenChooser

if TYPE_CHECKING:
    import torch

NO_TOKEN = -1
"""`GeneratedToken.token_id` of an event that chose no token (CANCELLED, NOT_FINITE)."""


def never() -> bool:
    """Nobody cancels: what is asked whether to go on is always to go on."""
    return False


class Finish(Enum):
    """Why an answer ended."""

    STOP = "stop"
    """The model said so: a stop token."""
    LENGTH = "length"
    """As many tokens as were allowed."""
    CANCELLED = "cancelled"
    """Somebody no longer wants it."""
    NOT_FINITE = "not finite"
    """The logits were no numbers: something overflowed, as float16 does in some models."""


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One step of an answer.

    Attributes:
        token_id: the token chosen; `NO_TOKEN` when CANCELLED or NOT_FINITE.
        text: the text it completes, valid UTF-8, often empty; empty for a stop token, save for the
            U+FFFD of a character that was never completed.
        probability: of the token, under the softmax of the logits; 1.0 where none was chosen.
        finish: why the answer ends here; None on every event but the last.
    """

    token_id: int
    text: str
    probability: float
    finish: Finish | None = None


def are_numbers(logits: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether a token can be chosen by logits (..., V); (...) bool. A maximum of NaN is NaN."""
    return np.asarray(np.isfinite(logits.max(axis=-1)))


class DecodingBatch(Protocol):
    """Answers decoded together, one row of the KV caches each; no row sees another.

    Belongs to one thread; a decoder may have several.
    """

    def add(self, embeddings: torch.Tensor) -> NDArray[np.float32]:
        """Runs a prompt, (L, D) embeddings, as a new last row; the logits (V,) after its last position."""
        ...

    def step(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Appends one token to every row, in one pass; the logits (rows, V) after them."""
        ...

    def remove(self, row: int) -> None:
        """Drops a row; the last one takes its place."""
        ...

    def close(self) -> None:
        """Hands the memory back; the batch is not to be used any more."""
        ...


class Decoder(Protocol):
    """A language model with a KV cache: what each backend implements."""

    context_length: int
    """Positions that a prompt and its answer may fill together."""
    max_batch: int
    """Rows of a batch, at most."""

    def batch(self) -> DecodingBatch:
        """A batch with no row yet."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class AnswerRequest:
    """One answer to decode.

    Attributes:
        embeddings: (L, D), the prompt; shorter than the decoder's context.
        detokeniser: a fresh one, for this answer.
        sampling: how tokens are chosen.
        stop_ids: tokens that end the answer; their text is not given out.
        max_new_tokens: at least 1; the room left in the context bounds it too.
        cancelled: asked before the prefill and before every further pass.
    """

    embeddings: torch.Tensor
    detokeniser: StreamingDetokeniser
    sampling: Sampling
    stop_ids: frozenset[int]
    max_new_tokens: int
    cancelled: Callable[[], bool] = never


def decode(decoder: Decoder, request: AnswerRequest) -> Iterator[GeneratedToken]:
    """Yields the tokens of one answer; the last event, and only that, carries a `Finish`."""
    only = iter([request])
    return (event for _, event in decode_together(decoder, lambda: next(only, None), max_batch=1))


def decode_together(
    decoder: Decoder, waiting: Callable[[], AnswerRequest | None], *, max_batch: int
) -> Iterator[tuple[AnswerRequest, GeneratedToken]]:
    """Decodes answers together, one pass of the decoder per step for all of them.

    Before each step what waits is taken in while there is room: nobody is waited for, and an answer that ends
    makes room for another. Each answer is the one it would be alone.

    Args:
        decoder: the language model.
        waiting: the next answer to begin, or None if none waits now; None while nothing is decoded ends the
            loop.
        max_batch: answers decoded together, at most, at least 1; the decoder's own bound holds too.

    Yields:
        A request and its next token, as they come. A request's last event, and only that, carries a `Finish`.
    """
    room = min(max_batch, decoder.max_batch)
    batch = decoder.batch()
    rows: list[_Row] = []

    def leave(place: int) -> None:
        batch.remove(place)
        rows[place] = rows[-1]
        rows.pop()

    try:
        while True:
            while len(rows) < room and (request := waiting()) is not None:
                row = _Row(request, decoder.context_length)
                if request.cancelled():
                    yield request, row.end(Finish.CANCELLED)
                    continue
                rows.append(row)
                yield request, row.take(batch.add(request.embeddings))
                if row.ended:
                    leave(len(rows) - 1)
            if not rows:
                return
            for place in reversed(range(len(rows))):
                if rows[place].request.cancelled():
                    yield rows[place].request, rows[place].end(Finish.CANCELLED)
                    leave(place)
            if not rows:
                continue
            logits = batch.step([row.token for row in rows])
            for row, of_row in zip(rows, logits, strict=True):
                yield row.request, row.take(of_row)
            for place in reversed(range(len(rows))):
                if rows[place].ended:
                    leave(place)
    finally:
        batch.close()


class _Row:
    """One answer on its way."""

    def __init__(self, request: AnswerRequest, context_length: int) -> None:
        self.request = request
        self.token, self.ended = NO_TOKEN, False
        self._left = min(request.max_new_tokens, context_length - request.embeddings.shape[0])
        self._chooser = TokenChooser(request.sampling)

    def take(self, logits: NDArray[np.float32]) -> GeneratedToken:
        """The next token, from the logits (V,) after the row's last position."""
        if not are_numbers(logits):
            return self.end(Finish.NOT_FINITE)
        self.token, probability = self._chooser.choose(logits)
        self._left -= 1
        text = ""
        if self.token in self.request.stop_ids:
            finish: Finish | None = Finish.STOP
        else:
            text = self.request.detokeniser.push(self.token)
            finish = None if self._left else Finish.LENGTH
        if finish is not None:
            self.ended = True
            text += self.request.detokeniser.flush()
        return GeneratedToken(self.token, text, probability, finish)

    def end(self, finish: Finish) -> GeneratedToken:
        """The event of an answer that ends without another token."""
        self.ended = True
        return GeneratedToken(NO_TOKEN, self.request.detokeniser.flush(), 1.0, finish)
