# SPDX-License-Identifier: Apache-2.0
"""The torch backend of decoding: transformers' answers over caches in place, and steps as CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from recorded_stream import RecordedStream
from transformers import Qwen2Config, Qwen2ForCausalLM

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime import (
    GREEDY,
    AnswerRequest,
    GraphDecoder,
    StreamingDetokeniser,
    TorchSession,
    decode_together,
    embedding_of,
)

torch.set_num_threads(1)
WIDTH, CONTEXT = 32, 512


def model(**settings: Any) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
        **settings,
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def language() -> Qwen2ForCausalLM:
    return model()


class Counted(TorchSession):
    """Notes the rows and positions of each run."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.runs: list[tuple[int, ...]] = []

    def run(self, feeds: Any) -> dict[str, torch.Tensor]:
        self.runs.append(tuple(feeds["embeddings"].shape[:2]))
        return super().run(feeds)


def decoder_of(language: Qwen2ForCausalLM, session: TorchSession | None = None) -> GraphDecoder:
    return GraphDecoder(
        session or TorchSession(language),
        embedding_of(language),
        context_length=CONTEXT,
        device=torch.device("cpu"),
    )


def prompt(length: int, seed: int, shared: int = 0) -> torch.Tensor:
    """(length, WIDTH); the first `shared` positions are those of all prompts."""
    everybodys, mine = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    beginning = torch.randn(CONTEXT, WIDTH, generator=everybodys)[:shared]
    return torch.cat((beginning, torch.randn(length - shared, WIDTH, generator=mine)))


Asked = tuple[torch.Tensor, int]
"""A prompt and the tokens of its answer."""


def answers(decoder: GraphDecoder, asked: Sequence[Asked], max_batch: int = 8) -> list[list[int]]:
    requests = [
        AnswerRequest(
            embeddings,
            StreamingDetokeniser(lambda token: b""),
            sampling=GREEDY,
            stop_ids=frozenset(),
            max_new_tokens=tokens,
        )
        for embeddings, tokens in asked
    ]
    waiting, found = iter(requests), {request: list[int]() for request in requests}
    for request, event in decode_together(decoder, lambda: next(waiting, None), max_batch=max_batch):
        found[request].append(event.token_id)
    return list(found.values())


def generated(language: Qwen2ForCausalLM, asked: Sequence[Asked]) -> list[list[int]]:
    """What transformers' own loop answers, one after the other."""
    return [
        language.generate(inputs_embeds=embeddings[None], max_new_tokens=tokens, do_sample=False)[0].tolist()
        for embeddings, tokens in asked
    ]


# They join when another has ended, and leave in the middle.
ASKED = [(prompt(12, 1), 30), (prompt(5, 2), 8), (prompt(40, 3), 30), (prompt(9, 4), 17), (prompt(3, 5), 30)]


@pytest.fixture(scope="module")
def expected(language: Qwen2ForCausalLM) -> list[list[int]]:
    return generated(language, ASKED)


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_greedy_answers_are_those_of_generate_whoever_comes_and_goes(
    language: Qwen2ForCausalLM, expected: list[list[int]], max_batch: int
) -> None:
    session = Counted(language)
    found = answers(decoder_of(language, session), ASKED, max_batch)
    assert found == expected
    assert max(rows for rows, _ in session.runs) == min(max_batch, len(ASKED))
    assert all(len(set(tokens)) > 4 for tokens in found), "answers that repeat one token prove little"


def test_a_beginning_computed_before_is_not_computed_again_and_changes_no_answer(
    language: Qwen2ForCausalLM,
) -> None:
    session = Counted(language)
    decoder = decoder_of(language, session)
    asked = [(prompt(length, length, shared=30), 12) for length in (34, 37, 40)]
    assert [answers(decoder, [one])[0] for one in asked] == generated(language, asked)
    assert [steps for _, steps in session.runs if steps > 1] == [34, 7, 10]
    session.runs.clear()
    assert answers(decoder, asked[::-1]) == generated(language, asked[::-1])
    assert [steps for _, steps in session.runs if steps > 1] == [7, 4]  # the last of 40 was there whole


def test_a_decoder_used_in_inference_mode_is_of_use_outside_it(
    language: Qwen2ForCausalLM, expected: list[list[int]]
) -> None:
    decoder = decoder_of(language)
    with torch.inference_mode():
        answers(decoder, ASKED[:2], max_batch=1)
    # Both are remembered, so caches made in the mode are moved and written to.
    assert answers(decoder, ASKED[:2], max_batch=1) == expected[:2]


def empty(session: TorchSession, rows: int, capacity: int = 64) -> dict[str, torch.Tensor]:
    """Caches with something in them that must not be looked at."""
    specs = [session.graph.input(name) for name, _ in session.graph.in_place]
    dtype = getattr(torch, specs[0].dtype)
    return {spec.name: torch.full((rows, 2, capacity, WIDTH // 4), 50.0, dtype=dtype) for spec in specs}


def feeds(embeddings: torch.Tensor, starts: Sequence[int], caches: dict[str, torch.Tensor]) -> Any:
    rows, steps = embeddings.shape[:2]
    last = torch.full((rows,), steps - 1)
    return {"embeddings": embeddings, "start": torch.tensor(starts), "last": last, **caches}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 6])
@torch.no_grad()
def test_rows_at_different_places_give_what_the_model_gives_without_a_cache(
    dtype: torch.dtype, window: int | None
) -> None:
    # The second of the two layers looks back that far.
    windowed = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 1}
    language = model(**(windowed if window else {})).to(dtype)
    session = TorchSession(language)
    whole = torch.stack([prompt(20, seed) for seed in (1, 2)]).to(dtype)
    expected = language(inputs_embeds=whole, use_cache=False).logits.float()
    # Half precision rounds what is summed in another order: 8 or 11 bits on logits of about 20.
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.5, torch.float16: 0.06}[dtype]

    caches = empty(session, rows=2)
    first = {name: cache[:1] for name, cache in caches.items()}
    found = [session.run(feeds(whole[:1, :13], [0], first))]  # as many as fit no window
    there = (found[-1]["logits"][0, 0], expected[0, 12])
    both = torch.stack([whole[0, 13:17], whole[1, :4]])
    several = feeds(both, [13, 0], caches) | {"last": torch.tensor([3, 1])}
    found = session.run(several)["logits"][:, 0]
    steps = torch.stack([whole[0, 17], whole[1, 4]])[:, None]
    stepped = session.run(feeds(steps, [17, 4], caches))
    pairs = [there, *zip(found, (expected[0, 16], expected[1, 1]), strict=True)]
    pairs += zip(stepped["logits"][:, 0], (expected[0, 17], expected[1, 4]), strict=True)
    for mine, theirs in pairs:
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


def test_caches_are_the_callers_tensors_and_only_new_positions_are_written(
    language: Qwen2ForCausalLM,
) -> None:
    session = TorchSession(language)
    caches = empty(session, rows=2)
    session.run(feeds(torch.stack([prompt(6, 1), prompt(6, 2)]), [0, 0], caches))
    before = {name: cache.clone() for name, cache in caches.items()}
    outputs = session.run(feeds(torch.stack([prompt(2, 3), prompt(2, 4)]), [6, 3], caches))
    for name, output in session.graph.in_place:
        assert outputs[output] is caches[name]
        changed = (caches[name] != before[name]).any(dim=3).all(dim=1)
        assert [row.nonzero().flatten().tolist() for row in changed] == [[6, 7], [3, 4]]


def test_room_that_is_not_filled_costs_nothing_on_a_cpu(
    language: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend = torch.nn.functional.scaled_dot_product_attention
    seen = []

    def noting(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((key.shape[2], kwargs.get("attn_mask") is not None))
        return attend(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    session = TorchSession(language)
    caches = empty(session, rows=1, capacity=500)
    session.run(feeds(prompt(6, 1)[None], [0], caches))
    session.run(feeds(prompt(1, 2)[None], [6], caches))
    assert seen == [(6, False)] * 2 + [(7, False)] * 2


def test_a_recorded_step_answers_as_one_that_is_not(
    language: Qwen2ForCausalLM, expected: list[list[int]]
) -> None:
    stream = RecordedStream()
    decoder = decoder_of(language, TorchSession(language, stream))
    assert answers(decoder, ASKED[:1]) == expected[:1]
    # 29 steps: one as it is, the second recorded, the others replayed.
    assert stream.calls == ["capture", *["replay"] * 27]
    stream.calls.clear()
    assert answers(decoder, ASKED, max_batch=3) == expected
    assert stream.calls.count("capture") == 2  # three rows, and at the end the last one alone


def test_a_prompt_between_steps_leaves_the_recording_valid(language: Qwen2ForCausalLM) -> None:
    stream = RecordedStream()
    session = TorchSession(language, stream)
    mine, others = empty(session, rows=1), empty(session, rows=1)
    whole = prompt(9, 1)[None]
    outputs = [session.run(feeds(whole[:, :4], [0], mine))["logits"]]
    for place in range(4, 9):
        session.run(feeds(prompt(5, place)[None], [0], others))
        outputs.append(session.run(feeds(whole[:, place : place + 1], [place], mine))["logits"])
    assert stream.calls == ["capture", *["replay"] * 3]
    with torch.no_grad():
        expected = language(inputs_embeds=whole, use_cache=False).logits[0, 3:]
    # All of them at the end: a replay does not write to what was handed out before.
    torch.testing.assert_close(torch.cat(outputs)[:, 0], expected, rtol=0, atol=1e-4)


def test_where_steps_cannot_be_recorded_they_run_as_they_are(
    language: Qwen2ForCausalLM, expected: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    stream = RecordedStream()
    stream.recordable = False
    decoder = decoder_of(language, TorchSession(language, stream))
    assert answers(decoder, ASKED) == expected
    assert stream.calls == ["capture"]
    assert caplog.text.count("graph decoder: steps are not recorded as a CUDA graph: the host may not") == 1


def test_a_closed_session_says_so_and_holds_nothing(language: Qwen2ForCausalLM) -> None:
    for session in (TorchSession(language), TorchSession(language, RecordedStream())):
        caches = empty(session, rows=1)
        for place in range(3):
            session.run(feeds(prompt(1, 1)[None], [place], caches))
        session.close()
        session.close()
        for steps in (1, 2):
            with pytest.raises(BackendError, match="graph decoder is closed"):
                session.run(feeds(prompt(steps, 1)[None], [3], caches))


def test_attention_that_takes_no_mask_of_booleans_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention is 'eager'.*attn_implementation='sdpa'"):
        TorchSession(model(attn_implementation="eager"))
