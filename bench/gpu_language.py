# SPDX-License-Identifier: Apache-2.0
"""The language side on one device: looking at an object, the first token, further tokens, memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from gpu_models import REGION, Shape, weight_bytes
from gpu_timing import (
    Counts,
    Measured,
    copy_bandwidth,
    memory,
    nominal_bandwidth,
    spread,
    synchronize,
    timed,
)
from numpy.typing import NDArray

from pixelrefer_ros.model import GlobalFeatures, RegionNetwork
from pixelrefer_ros.runtime import (
    GREEDY,
    AnswerRequest,
    Decoder,
    GeneratedToken,
    StreamingDetokeniser,
    decode,
)
from pixelrefer_ros.types import Mask, RgbImage

HEIGHT, WIDTH = 480, 640


def picture(number: int) -> RgbImage:
    """A frame, another for each number."""
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def object_mask() -> Mask:
    """The object of `real_shape.py`: an ellipse, 240 x 180 px."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.asarray(((rows - 240) / 90) ** 2 + ((columns - 330) / 120) ** 2 < 1)


def question(network: RegionNetwork) -> list[int]:
    """A short question about one object: 22 tokens of text around the object's."""
    return [*range(100, 110), *[REGION] * network.config.mask_num, *range(110, 122)]


def answer(decoder: Decoder, embeddings: torch.Tensor, tokens: int) -> Iterator[GeneratedToken]:
    """Decodes as many tokens, as the package decodes an answer."""
    request = AnswerRequest(
        embeddings,
        StreamingDetokeniser(lambda token: b""),
        sampling=GREEDY,
        stop_ids=frozenset(),
        max_new_tokens=tokens,
    )
    return decode(decoder, request)


def looking(network: RegionNetwork, decoder: Decoder, counts: Counts) -> Measured:
    """From a frame to the first token: each step by itself, and all of them.

    Args:
        network: the model.
        decoder: its decoder, made once: it keeps its caches from answer to answer.
        counts: how often.

    Returns:
        Times (see `spread`): ``whole_frame``, once for all objects of a frame; ``object_tokens`` of one
        object, given that; ``first_token_given_tokens`` of a question; ``first_token`` of a question about an
        object in a frame at which nobody has looked. And memory.
    """
    device, mask, ids = network.device, object_mask(), question(network)
    frames = [picture(number) for number in range(counts.warm_up + counts.repeats)]

    def look(given: tuple[RgbImage, GlobalFeatures]) -> torch.Tensor:
        return network.encode_objects(given[0], [mask], given[1])[0]

    def first_of_tokens(tokens: torch.Tensor) -> None:
        next(answer(decoder, network.prompt_embeddings(ids, [tokens]), 1))

    def first(frame: RgbImage) -> None:
        first_of_tokens(look((frame, network.encode_global(frame))))

    # One after the other, when they are asked for: kept all together they would count as memory.
    def whole() -> Iterator[tuple[RgbImage, GlobalFeatures]]:
        return ((frame, network.encode_global(frame)) for frame in frames)

    if not look(next(whole())).isfinite().all():
        raise ValueError("object tokens are not finite: times of such a model would tell nothing")

    def times(call: Callable[[Any], object], inputs: Iterable[Any]) -> dict[str, Any]:
        return dict(timed(call, inputs, device, warm_up=counts.warm_up))

    # Other tokens at each prompt: a decoder takes over the beginning that one had before.
    found = {
        "whole_frame": times(network.encode_global, frames),
        "object_tokens": times(look, whole()),
        "first_token_given_tokens": times(first_of_tokens, map(look, whole())),
        "first_token": times(first, frames),
        "positions": len(ids),
        "memory": memory(device),
    }
    one, again = next(whole()), itertools.cycle(frames)
    return Measured(found, {"object_tokens": lambda: look(one), "first_token": lambda: first(next(again))})


def decoding(network: RegionNetwork, decoder: Decoder, shape: Shape, counts: Counts) -> Measured:
    """Tokens after a long prompt, and the floor that the memory's bandwidth sets.

    Args:
        network: the model.
        decoder: as for `looking`.
        shape: the model's sizes.
        counts: how often.

    Returns:
        Times: ``token``, of an answer as the package decodes it; ``step``, the decoder's pass alone, with the
        logits on the host; ``prompt``, until the first token. Memory, read before the floor is measured; and
        the floor.
    """
    device = network.device
    prompts = [
        network.prompt_embeddings(np.random.default_rng(number).integers(100, 400, shape.prompt).tolist(), [])
        for number in range(counts.answers)
    ]
    first, further = [], []
    for prompt in prompts:
        synchronize(device)
        seen = [time.perf_counter()]
        for _ in answer(decoder, prompt, 1 + counts.warm_up + counts.tokens):
            seen.append(time.perf_counter())  # logits were on the host: nothing is left to wait for
        intervals = np.diff(seen)
        first.append(float(intervals[0]))
        further += intervals[1 + counts.warm_up :].tolist()

    batch = decoder.batch()
    batch.add(prompts[0])
    steps = timed(
        lambda token: batch.step([token]),
        range(100, 100 + counts.warm_up + counts.tokens),
        device,
        warm_up=counts.warm_up,
    )
    found = {
        "token": spread(further),
        "step": steps,
        "prompt": spread(first),
        "prompt_positions": shape.prompt,
        "memory": memory(device),
    }
    # The batch stays open: the step is watched later.
    return Measured(found | floor(shape, device, counts), {"step": lambda: batch.step([100])})


def floor(shape: Shape, device: torch.device, counts: Counts) -> dict[str, Any]:
    """Milliseconds in which the language model's weights can be read once, by the bandwidth of a copy."""
    weights, bandwidth = weight_bytes(shape), copy_bandwidth(device, size=counts.copied)
    nominal = nominal_bandwidth(device)
    return {
        "floor_ms": weights / bandwidth * 1e3,
        "nominal_floor_ms": nominal and weights / nominal * 1e3,
        "weights_gb": weights / 1e9,
        "bandwidth_tb_s": bandwidth / 1e12,
        "nominal_bandwidth_tb_s": nominal and nominal / 1e12,
    }


def fixed_logits(network: RegionNetwork, decoder: Decoder) -> NDArray[np.float32]:
    """(T, V), the logits of an answer whose tokens are given, the same for every backend.

    With the same weights they must be the same but for rounding: else a time is of something else.

    Raises:
        ValueError: they are not finite.
    """
    batch = decoder.batch()
    rows = [batch.add(network.prompt_embeddings(range(100, 140), []))]
    # Enough steps that those which are recorded are replayed, too.
    rows += [batch.step([token])[0] for token in range(100, 108)]
    batch.close()
    logits = np.stack(rows)
    if not np.isfinite(logits).all():
        raise ValueError("the logits are not finite: times of such a model would tell nothing")
    return logits
