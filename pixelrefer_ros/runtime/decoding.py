# SPDX-License-Identifier: Apache-2.0
"""The decoding loop: prefill, then one token after the other, over any decoder with a KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.runtime.detokeniser import StreamingDetokeniser
from pixelrefer_ros.runtime.sampling import Sampling, TokenChooser

if TYPE_CHECKING:
    import torch

NO_TOKEN = -1
"""`GeneratedToken.token_id` of an event that chose no token (CANCELLED)."""


class Finish(Enum):
    """Why an answer ended."""

    STOP = "stop"
    """The model said so: a stop token."""
    LENGTH = "length"
    """As many tokens as were allowed."""
    CANCELLED = "cancelled"
    """Somebody no longer wants it."""


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One step of an answer.

    Attributes:
        token_id: the token chosen; `NO_TOKEN` when CANCELLED.
        text: the text it completes, valid UTF-8, often empty; empty for a stop token, save for the
            U+FFFD of a character that was never completed.
        probability: of the token, under the softmax of the logits; 1.0 when CANCELLED.
        finish: why the answer ends here; None on every event but the last.
    """

    token_id: int
    text: str
    probability: float
    finish: Finish | None = None


class Decoder(Protocol):
    """A language model with a KV cache: what each backend implements.

    A cache belongs to one answer, is opaque to the loop, and is consumed by `step`; several answers may
    be decoded in turns.
    """

    context_length: int
    """Positions that a prompt and its answer may fill together."""

    def prefill(self, embeddings: torch.Tensor) -> tuple[Any, NDArray[np.float32]]:
        """Runs a prompt: (L, D) embeddings to a new cache and the logits (V,) after the last position."""
        ...

    def step(self, cache: Any, token_id: int) -> tuple[Any, NDArray[np.float32]]:
        """Appends one token: the cache that includes it, and the logits (V,) after it."""
        ...


def decode(
    decoder: Decoder,
    embeddings: torch.Tensor,
    *,
    detokeniser: StreamingDetokeniser,
    sampling: Sampling,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    cancelled: Callable[[], bool],
) -> Iterator[GeneratedToken]:
    """Yields the tokens of an answer; the last event, and only that, carries a `Finish`.

    Args:
        decoder: the language model.
        embeddings: (L, D), the prompt; shorter than the decoder's context.
        detokeniser: a fresh one, for this answer.
        sampling: how tokens are chosen.
        stop_ids: tokens that end the answer; their text is not given out.
        max_new_tokens: at least 1; the room left in the context bounds it too.
        cancelled: asked before the prefill and before every further pass.
    """
    limit = min(max_new_tokens, decoder.context_length - embeddings.shape[0])
    chooser = TokenChooser(sampling)
    cache, token = None, NO_TOKEN
    for count in range(1, limit + 1):
        if cancelled():
            yield GeneratedToken(NO_TOKEN, detokeniser.flush(), 1.0, Finish.CANCELLED)
            return
        cache, logits = decoder.prefill(embeddings) if count == 1 else decoder.step(cache, token)
        token, probability = chooser.choose(logits)
        if token in stop_ids:
            yield GeneratedToken(token, detokeniser.flush(), probability, Finish.STOP)
            return
        text = detokeniser.push(token)
        if count == limit:
            yield GeneratedToken(token, text + detokeniser.flush(), probability, Finish.LENGTH)
        else:
            yield GeneratedToken(token, text, probability)
