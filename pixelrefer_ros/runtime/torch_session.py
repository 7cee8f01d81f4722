# SPDX-License-Identifier: Apache-2.0
"""The torch backend of decoding: transformers' Qwen2 over static caches that the caller holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.device_stream import CudaStream, DeviceStream
from pixelrefer_ros.runtime.manifest import Graph, Profile, TensorSpec
from pixelrefer_ros.runtime.session import check_feeds
from pixelrefer_ros.runtime.step_recorder import StepRecorder, Tensors

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

MAX_BATCH = 64
"""Rows of a batch, at most: bounds memory; the model itself has no bound."""


class TorchSession:
    """A `pixelrefer_ros.runtime.Session` over ``Qwen2ForCausalLM``: what compiled decoders are compared with.

    It has the inputs and outputs of an exported decoder. On a CPU attention reads the positions that are
    filled, so room that is not used yet costs nothing. On a GPU a decoding step reads all of a cache under a
    mask: so its shapes stay the same from step to step, and it is recorded as a CUDA graph.

    Args:
        language: the model, in eval mode, on the device and in the dtype it has.
        stream: to record steps on; None: a CUDA stream on a GPU, and elsewhere steps are not recorded.

    Raises:
        ValueError: the model's attention is not SDPA, so it does not take a mask of booleans.
    """

    def __init__(self, language: Qwen2ForCausalLM, stream: DeviceStream | None = None) -> None:
        config = language.config
        if config._attn_implementation != "sdpa":
            raise ValueError(
                f"the language model's attention is {config._attn_implementation!r}; "
                "load it with attn_implementation='sdpa'"
            )
        self.graph = _graph(language)
        self._language: Qwen2ForCausalLM | None = language
        # How far back each type of layer looks; None: to the beginning.
        self._windows: dict[str, int | None] = {
            kind: config.sliding_window if kind == "sliding_attention" else None
            for kind in config.layer_types
        }
        device = language.model.embed_tokens.weight.device
        if stream is None and device.type == "cuda":
            stream = CudaStream(device)
        self._stream = stream
        self._recorder = None if stream is None else StepRecorder(self.graph, stream)

    @torch.inference_mode()
    def run(self, feeds: Mapping[str, torch.Tensor]) -> Tensors:
        """Appends S positions to each row; see `pixelrefer_ros.runtime.Session`."""
        sizes = check_feeds(self.graph, feeds)
        with self._alone():
            if self._recorder is not None and sizes["S"] == 1:
                outputs = self._recorder.run(
                    sizes, dict(feeds), self._queued_step, lambda given, _: self._forward(given)
                )
            else:
                outputs = self._forward(feeds, feeds["start"].tolist())
        return outputs | {output: feeds[name] for name, output in self.graph.in_place}

    def close(self) -> None:
        """Lets go of the model."""
        with self._alone():
            self._language = None
            if self._recorder is not None:
                self._recorder.forget()

    def _alone(self) -> AbstractContextManager[None]:
        return nullcontext() if self._stream is None else self._stream.alone()

    def _queued_step(self, given: Tensors) -> Tensors:
        assert self._stream is not None  # noqa: S101 (only a recorder calls this)
        with self._stream.queue():
            return self._forward(given)

    def _forward(self, given: Mapping[str, torch.Tensor], starts: list[int] | None = None) -> Tensors:
        """The logits.

        Args:
            given: the inputs.
            starts: their "start", for the host to see; None: shapes must not depend on it.
        """
        if self._language is None:
            raise BackendError(f"graph {self.graph.name} is closed: open it again")
        embeddings, caches = given["embeddings"], [given[name] for name, _ in self.graph.in_place]
        rows, steps, width = embeddings.shape
        places = given["start"][:, None] + torch.arange(steps, device=embeddings.device)
        length = caches[0].shape[2] if starts is None else max(starts) + steps
        # Where SDPA's own causal mask says the same it is faster than one of ours.
        simple = starts is not None and len(set(starts)) == 1 and (steps == 1 or starts[0] == 0)
        hidden = self._language.model(
            inputs_embeds=embeddings,
            position_ids=places,
            attention_mask=self._masks(places, length, simple),
            past_key_values=_HeldCache(caches, places, length),
            use_cache=True,
        ).last_hidden_state
        ends = given["last"][:, None, None].expand(rows, 1, width)
        return {"logits": self._language.lm_head(hidden.gather(1, ends)).float()}

    def _masks(self, places: torch.Tensor, length: int, simple: bool) -> dict[str, torch.Tensor | None]:
        """What each type of layer may see, (B, 1, S, length) bool; None: SDPA's causal mask, or all."""
        positions = torch.arange(length, device=places.device)
        masks: dict[str, torch.Tensor | None] = {}
        for kind, window in self._windows.items():
            masks[kind] = None
            if not simple or (window is not None and length > window):
                visible = positions <= places[:, None, :, None]
                if window is not None:
                    visible &= positions > places[:, None, :, None] - window
                masks[kind] = visible
        return masks


class _HeldCache(Cache):
    """Caches of every layer, keys and values in turn, (B, Hkv, C, Dh), that somebody else holds.

    Args:
        caches: updated in place.
        places: (B, S), which positions the new ones of each row are.
        length: positions that attention reads.
    """

    def __init__(self, caches: list[torch.Tensor], places: torch.Tensor, length: int) -> None:
        super().__init__(layers=[])
        self._caches, self._places, self._length = caches, places, length
        self._rows = torch.arange(places.shape[0], device=places.device)[:, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes a layer's new keys and values, (B, Hkv, S, Dh); those to read, (B, Hkv, length, Dh)."""
        keys, values = self._caches[2 * layer_idx : 2 * layer_idx + 2]
        keys[self._rows, :, self._places] = key_states.transpose(1, 2)
        values[self._rows, :, self._places] = value_states.transpose(1, 2)
        return keys[:, :, : self._length], values[:, :, : self._length]


def embedding_of(language: Qwen2ForCausalLM) -> Callable[[Sequence[int]], torch.Tensor]:
    """What embeds tokens, for `GraphDecoder`: ids to (B, D), on the model's device."""
    embed = language.model.embed_tokens
    return lambda token_ids: embed(torch.tensor(list(token_ids), device=embed.weight.device))


def _graph(language: Qwen2ForCausalLM) -> Graph:
    """The model as an exported decoder is described; it has no file."""
    config = language.config
    dtype = str(language.model.embed_tokens.weight.dtype).removeprefix("torch.")
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = ("B", config.num_key_value_heads, "C", head_width)
    past = [f"past_{kind}_{layer}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]
    present = [name.replace("past", "present") for name in past]
    context = Profile(1, 1, config.max_position_embeddings)
    return Graph(
        name="decoder",
        file="",
        sha256="",
        inputs=(
            TensorSpec("embeddings", dtype, ("B", "S", config.hidden_size)),
            TensorSpec("start", "int64", ("B",)),
            TensorSpec("last", "int64", ("B",)),
            *(TensorSpec(name, dtype, shape) for name in past),
        ),
        outputs=(
            TensorSpec("logits", "float32", ("B", 1, config.vocab_size)),
            *(TensorSpec(name, dtype, shape) for name in present),
        ),
        in_place=tuple(zip(past, present, strict=True)),
        profiles={"B": Profile(1, 1, MAX_BATCH), "S": context, "C": context},
    )
