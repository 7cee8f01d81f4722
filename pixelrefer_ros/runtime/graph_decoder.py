# SPDX-License-Identifier: Apache-2.0
"""The decoding loop's language model over a session, with static caches that are used again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pixelrefer_ros.runtime.cache_rows import CacheRows
from pixelrefer_ros.runtime.decoding import DecodingBatch, are_numbers
from pixelrefer_ros.runtime.session import Session


class GraphDecoder:
    """A `pixelrefer_ros.runtime.Decoder` over a session of the decoder, whatever runs it.

    The memory of a batch is used again after it. A prompt that begins as another did (the same object asked
    about again, or by several questions at once) takes that beginning over and computes only the rest.

    Args:
        decoder: inputs ``embeddings``, ``start``, ``last`` and the caches of every layer; outputs ``logits``
            and the caches, in place.
        embed: B token ids to their embeddings (B, D), where the session's tensors lie.
        context_length: positions of prompt and answer together, at most.
        device: where the session's tensors lie.
    """

    def __init__(
        self,
        decoder: Session,
        embed: Callable[[Sequence[int]], torch.Tensor],
        *,
        context_length: int,
        device: torch.device,
    ) -> None:
        self.context_length = context_length
        self.max_batch = decoder.graph.profiles["B"].max if "B" in decoder.graph.profiles else 1
        self._decoder, self._embed, self._device = decoder, embed, device
        self._idle: CacheRows | None = None
        # A batch may be closed when it is collected, which may happen while this very thread takes one.
        self._turn = threading.RLock()

    def batch(self) -> DecodingBatch:
        """A batch with no row yet; see `pixelrefer_ros.runtime.Decoder`."""
        with self._turn:
            rows, self._idle = self._idle, None
        if rows is None:  # none was used before, or another thread decodes
            rows = CacheRows(self._decoder.graph, self.context_length, self._device)
        return _GraphBatch(self, rows)

    @torch.inference_mode()
    def logits(self, embeddings: torch.Tensor) -> NDArray[np.float32]:
        """Logits after every position of a prompt, (L, D) to (L, V), one position at a time: for checking."""
        rows = CacheRows(self._decoder.graph, self.context_length, self._device)
        rows.begin(embeddings)
        return np.stack([self.append(rows, 0, embedding[None, None])[0] for embedding in embeddings])

    def append(self, rows: CacheRows, place: int, embeddings: torch.Tensor) -> NDArray[np.float32]:
        """Runs positions (B, S, D) of the B rows from `place` on: the logits (B, V) after the last ones."""
        count, steps = embeddings.shape[:2]
        feeds = {
            "embeddings": embeddings.contiguous(),
            "start": torch.tensor(rows.lengths[place : place + count], device=self._device),
            "last": torch.full((count,), steps - 1, device=self._device),
            **rows.memory(place, place + count),
        }
        logits = np.asarray(self._decoder.run(feeds)["logits"][:, 0].cpu().numpy())
        for row, good in enumerate(are_numbers(logits), place):
            rows.filled(row, steps)
            if not good:
                rows.spoil(row)
        return logits

    def embedded(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Embeddings (B, D) of tokens: a batch's."""
        return self._embed(token_ids)

    def give_back(self, rows: CacheRows) -> None:
        """Takes over the caches of a batch that is closed."""
        with self._turn:
            self._idle = rows


class _GraphBatch:
    """The active rows of caches; see `pixelrefer_ros.runtime.DecodingBatch`.

    All in inference mode: tensors made in it must not be written to outside, and callers differ in whether
    they are in it.
    """

    def __init__(self, decoder: GraphDecoder, rows: CacheRows) -> None:
        self._decoder, self._rows = decoder, rows

    @torch.inference_mode()
    def add(self, embeddings: torch.Tensor) -> NDArray[np.float32]:
        place = self._rows.active
        known = self._rows.begin(embeddings)
        logits = self._decoder.append(self._rows, place, embeddings[None, known:])
        self._rows.remember(place, embeddings)
        return logits[0]

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        self._rows.make_room()
        return self._decoder.append(self._rows, 0, self._decoder.embedded(token_ids)[:, None])

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        self._rows.end(row)

    @torch.inference_mode()
    def close(self) -> None:
        self._rows.end_all()
        self._decoder.give_back(self._rows)
