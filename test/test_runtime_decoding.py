# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.runtime import (
    GREEDY,
    NO_TOKEN,
    AnswerRequest,
    Finish,
    GeneratedToken,
    GraphDecoder,
    Sampling,
    StreamingDetokeniser,
    TokenChooser,
    TorchSession,
    choose_backend,
    decode,
    embedding_of,
)

torch.set_num_threads(1)
VOCABULARY = 64


@pytest.fixture(scope="module")
def language() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def prompt(language: Qwen2ForCausalLM) -> torch.Tensor:
    return language.model.embed_tokens(torch.arange(10, 20)).detach()


def letter(token: int) -> bytes:
    return bytes([33 + token])


def request(prompt: torch.Tensor, token_bytes: Callable[[int], bytes] = letter, **rest: Any) -> AnswerRequest:
    settings = {
        "sampling": GREEDY,
        "stop_ids": frozenset(),
        "max_new_tokens": 12,
        **rest,
    }
    return AnswerRequest(prompt, StreamingDetokeniser(token_bytes), **settings)


def decoder_of(language: Qwen2ForCausalLM) -> GraphDecoder:
    embed = embedding_of(language)
    return GraphDecoder(TorchSession(language), embed, context_length=128, device=torch.device("cpu"))


def run(language: Qwen2ForCausalLM, prompt: torch.Tensor, **rest: Any) -> list[GeneratedToken]:
    return list(decode(decoder_of(language), request(prompt, **rest)))


@torch.no_grad()
def test_cached_decoding_equals_recomputing(language: Qwen2ForCausalLM, prompt: torch.Tensor) -> None:
    events = run(language, prompt)
    so_far = prompt[None]
    for event in events:
        logits = language(inputs_embeds=so_far, use_cache=False).logits[0, -1]
        assert event.token_id == int(logits.argmax())
        # One softmax over float32 logits of which the last digits depend on the order of additions.
        assert event.probability == pytest.approx(float(logits.softmax(-1)[event.token_id]), abs=1e-5)
        so_far = torch.cat([so_far, language.model.embed_tokens(torch.tensor([[event.token_id]]))], dim=1)


def test_answers_decoded_in_turns_do_not_disturb_each_other(
    language: Qwen2ForCausalLM, prompt: torch.Tensor
) -> None:
    decoder = decoder_of(language)
    first_answer = decode(decoder, request(prompt, max_new_tokens=8))
    pairs = list(zip(first_answer, decode(decoder, request(prompt.flip(0), max_new_tokens=8)), strict=True))
    alone = [event.token_id for event in run(language, prompt, max_new_tokens=8)]
    other = [event.token_id for event in run(language, prompt.flip(0), max_new_tokens=8)]
    assert [first.token_id for first, _ in pairs] == alone
    assert [second.token_id for _, second in pairs] == other


def test_length_ends_with_its_own_token(language: Qwen2ForCausalLM, prompt: torch.Tensor) -> None:
    events = run(language, prompt, max_new_tokens=5)
    assert [event.finish for event in events] == [None] * 4 + [Finish.LENGTH]
    assert all(len(event.text) == 1 for event in events)


def test_stop_token_ends_without_text(language: Qwen2ForCausalLM, prompt: torch.Tensor) -> None:
    free = [event.token_id for event in run(language, prompt)]
    stop = next(token for token in free if token != free[0])
    events = run(language, prompt, stop_ids=frozenset([stop]))
    assert [event.token_id for event in events] == free[: free.index(stop) + 1]
    assert events[-1].finish is Finish.STOP
    assert events[-1].text == ""


def test_answer_never_outgrows_the_context(language: Qwen2ForCausalLM, prompt: torch.Tensor) -> None:
    events = run(language, prompt, max_new_tokens=10_000)
    assert len(events) == 128 - len(prompt)
    assert events[-1].finish is Finish.LENGTH


@pytest.mark.parametrize("after", [0, 1, 4])
def test_cancel_is_heard_before_every_pass(
    language: Qwen2ForCausalLM, prompt: torch.Tensor, after: int
) -> None:
    events: list[GeneratedToken] = []
    asked = request(
        prompt, lambda token: b"\xe2\x82", max_new_tokens=50, cancelled=lambda: len(events) >= after
    )
    stream = decode(decoder_of(language), asked)
    for event in stream:
        events.append(event)
    assert len(events) == after + 1
    assert events[-1].token_id == NO_TOKEN
    assert events[-1].finish is Finish.CANCELLED


def test_sampling_draws_as_the_probabilities_say() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    chooser = TokenChooser(Sampling(temperature=1.0, seed=3))
    counts = np.bincount([chooser.choose(logits)[0] for _ in range(4000)], minlength=4) / 4000
    # Four standard deviations of a share near one half over 4000 draws.
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.032)


def test_top_p_keeps_the_token_that_crosses_it_and_no_more() -> None:
    logits = np.log(np.array([0.05, 0.5, 0.15, 0.3], dtype=np.float32))
    chooser = TokenChooser(Sampling(temperature=1.0, top_p=0.6, seed=0))
    assert {chooser.choose(logits)[0] for _ in range(300)} == {1, 3}
    narrow = TokenChooser(Sampling(temperature=1.0, top_p=1e-9, seed=0))
    assert {narrow.choose(logits)[0] for _ in range(20)} == {1}


def test_probability_is_the_models_own_whatever_the_temperature() -> None:
    logits = np.array([2.0, 0.0, -1.0], dtype=np.float32)
    weights = [math.exp(value) for value in logits]
    for sampling in (GREEDY, Sampling(temperature=0.2), Sampling(temperature=5.0, top_p=0.9, seed=1)):
        token, probability = TokenChooser(sampling).choose(logits)
        assert probability == pytest.approx(weights[token] / sum(weights), rel=1e-5)


@pytest.mark.parametrize(
    "values", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}]
)
def test_sampling_outside_its_bounds_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        Sampling(**values)  # type: ignore[arg-type]


@given(st.text(), st.lists(st.integers(1, 5), min_size=1))
@example("a€🤖é", [1])
def test_text_cut_anywhere_between_bytes_comes_out_whole(text: str, lengths: list[int]) -> None:
    encoded = text.encode()
    cuts, at = [], 0
    while at < len(encoded):
        length = lengths[len(cuts) % len(lengths)]
        cuts.append(encoded[at : at + length])
        at += length
    stream = StreamingDetokeniser(lambda token: cuts[token])
    pieces = [stream.push(token) for token in range(len(cuts))]
    assert "\ufffd" not in "".join(pieces).replace("\ufffd" if "\ufffd" in text else "\0", "")
    assert "".join(pieces) + stream.flush() == text


@given(st.lists(st.binary(max_size=4)))
@example([b"\xe2\x82", b"A", b"\xff", b"\xf0\x9f\xa4"])
def test_bytes_that_are_no_text_come_out_as_the_whole_would(chunks: list[bytes]) -> None:
    stream = StreamingDetokeniser(lambda token: chunks[token])
    found = "".join(stream.push(token) for token in range(len(chunks))) + stream.flush()
    assert found == b"".join(chunks).decode("utf-8", errors="replace")


def test_backend_is_chosen_with_a_reason() -> None:
    assert choose_backend("torch")[0] == "torch"
    chosen, why = choose_backend("auto")
    assert chosen == "torch"
    assert "torch" in why
    for name in ("tensorrt", "onnxruntime"):
        with pytest.raises(ParameterError, match=r"pixelrefer export.*or use 'torch'"):
            choose_backend(name)
    with pytest.raises(ParameterError, match="tensorrt, onnxruntime, torch"):
        choose_backend("jax")
