# SPDX-License-Identifier: Apache-2.0
"""The decoding loop's language model over compiled graphs, with static caches that are used again."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pixelrefer_ros.runtime.manifest import Graph
from pixelrefer_ros.runtime.session import Session, torch_dtype

IDLE_CACHES = 2
"""Caches kept after their answers, with what they hold."""
_STEP = 256  # caches grow by so many positions
_WORTH_KEEPING = 8  # shared positions below which a prompt is computed whole


class GraphCache:
    """Keys and values of one answer: (1, Hkv, C, Dh) tensors by the names of the decoder's inputs.

    Attributes:
        tensors: the memory; room for `capacity` positions.
        length: positions filled.
        prompt: (L, D), the embeddings of the first positions, L <= length.
    """

    __slots__ = ("__weakref__", "length", "prompt", "tensors")

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        """See the class."""
        self.tensors = tensors
        self.length = 0
        self.prompt: torch.Tensor | None = None

    @property
    def capacity(self) -> int:
        """Positions there is room for."""
        return next(iter(self.tensors.values())).shape[2]


class GraphDecoder:
    """A `pixelrefer_ros.runtime.Decoder` over a decoder graph and an embedding graph.

    The memory of an answer's cache is used again after it. A prompt that begins as an earlier one did (the
    same object asked about again) takes that beginning from the earlier cache and computes only the rest.

    Args:
        decoder: inputs ``embeddings``, ``start``, ``last`` and the caches of every layer; outputs ``logits``
            and the caches, in place.
        embed: inputs ``ids`` and ``objects``, output ``embeddings``.
        context_length: positions of prompt and answer together, at most.
        device: where the sessions' tensors lie.
    """

    def __init__(
        self, decoder: Session, embed: Session, *, context_length: int, device: torch.device
    ) -> None:
        """See the class."""
        self.context_length = context_length
        self._decoder, self._embed, self._device = decoder, embed, device
        self._pool = _CachePool(decoder.graph, context_length, device)
        spec = embed.graph.input("objects")
        width = spec.shape[1]
        assert isinstance(width, int)  # noqa: S101 (the width of a model is fixed)
        self._no_objects = torch.zeros(1, width, dtype=torch_dtype(spec.dtype), device=device)

    def prefill(self, embeddings: torch.Tensor) -> tuple[Any, NDArray[np.float32]]:
        """Runs a prompt, (L, D); see `pixelrefer_ros.runtime.Decoder`."""
        cache = self._pool.take(embeddings)
        logits = self._append(cache, embeddings[cache.length :])
        cache.prompt = embeddings
        return self._lend(cache), logits

    def step(self, cache: Any, token_id: int) -> tuple[Any, NDArray[np.float32]]:
        """Appends one token; see `pixelrefer_ros.runtime.Decoder`."""
        ids = torch.tensor([token_id], device=self._device)
        embedded = self._embed.run({"ids": ids, "objects": self._no_objects})["embeddings"]
        inner: GraphCache = cache.cache
        if inner.length == inner.capacity:
            self._pool.grow(inner)
        return cache, self._append(inner, embedded)

    def logits(self, embeddings: torch.Tensor) -> NDArray[np.float32]:
        """Logits after every position of a prompt, (L, D) to (L, V), one position at a time: for checking."""
        cache = self._pool.take(embeddings)
        cache.length = 0
        return np.stack([self._append(cache, embedding[None]) for embedding in embeddings])

    def _append(self, cache: GraphCache, embeddings: torch.Tensor) -> NDArray[np.float32]:
        count = embeddings.shape[0]
        feeds = {
            "embeddings": embeddings[None].contiguous(),
            "start": torch.tensor([cache.length], device=self._device),
            "last": torch.tensor([count - 1], device=self._device),
            **cache.tensors,
        }
        logits = self._decoder.run(feeds)["logits"]
        cache.length += count
        return np.asarray(logits[0, 0].cpu().numpy())

    def _lend(self, cache: GraphCache) -> _Lent:
        lent = _Lent(cache)
        weakref.finalize(lent, self._pool.give_back, cache).atexit = False
        return lent


class _Lent:
    """A cache while its answer lives: when the loop drops this, the cache goes back to the pool."""

    __slots__ = ("__weakref__", "cache")

    def __init__(self, cache: GraphCache) -> None:
        self.cache = cache


class _CachePool:
    """The caches of ended answers, the newest last; beyond `IDLE_CACHES` the oldest is freed."""

    def __init__(self, graph: Graph, context_length: int, device: torch.device) -> None:
        self._specs = [graph.input(name) for name, _ in graph.in_place]
        self._context_length = context_length
        self._device = device
        self._idle: list[GraphCache] = []
        # Caches come back when an answer is collected, which may happen while this very thread takes one.
        self._turn = threading.RLock()

    def take(self, prompt: torch.Tensor) -> GraphCache:
        """A cache with room for a prompt, holding as much of its beginning as an idle one has."""
        with self._turn:
            shared, place = max(
                ((_shared(idle, prompt), place) for place, idle in enumerate(self._idle)), default=(0, -1)
            )
            if shared >= _WORTH_KEEPING:
                cache = self._idle.pop(place)
            elif len(self._idle) == IDLE_CACHES:
                cache, shared = self._idle.pop(0), 0
            else:
                cache, shared = self._new(0), 0
        # The last position is computed anyway: its logits are wanted.
        cache.length = min(shared, prompt.shape[0] - 1)
        cache.prompt = None
        if cache.capacity < prompt.shape[0]:
            self._resize(cache, prompt.shape[0])
        return cache

    def give_back(self, cache: GraphCache) -> None:
        """The answer has ended."""
        with self._turn:
            self._idle.append(cache)
            del self._idle[:-IDLE_CACHES]

    def grow(self, cache: GraphCache) -> None:
        """Room for another position at least."""
        self._resize(cache, cache.capacity + 1)

    def _resize(self, cache: GraphCache, needed: int) -> None:
        larger = self._new(needed)
        for name, tensor in larger.tensors.items():
            tensor[:, :, : cache.length] = cache.tensors[name][:, :, : cache.length]
        cache.tensors = larger.tensors

    def _new(self, needed: int) -> GraphCache:
        # Zeros: positions not yet filled are masked, but a NaN would spread through the mask's product.
        room = min((needed // _STEP + 1) * _STEP, self._context_length)
        tensors = {}
        for spec in self._specs:
            shape = [size if isinstance(size, int) else {"B": 1, "C": room}[size] for size in spec.shape]
            tensors[spec.name] = torch.zeros(shape, dtype=torch_dtype(spec.dtype), device=self._device)
        return GraphCache(tensors)


def _shared(cache: GraphCache, prompt: torch.Tensor) -> int:
    """Positions at the beginning that a cache and a prompt have in common."""
    if cache.prompt is None:
        return 0
    count = min(cache.prompt.shape[0], prompt.shape[0])
    same = (cache.prompt[:count] == prompt[:count]).all(dim=1)
    return int(same.cumprod(0).sum())
