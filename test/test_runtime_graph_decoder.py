# SPDX-License-Identifier: Apache-2.0
"""Decoding over a compiled graph: static caches grow, are used again, and share the beginnings of prompts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from exported_models import exported_tiny

from pixelrefer_ros.model import PixelReferNetwork, load_network
from pixelrefer_ros.model.compiled import CompiledNetwork, open_network
from pixelrefer_ros.runtime import (
    GREEDY,
    AnswerRequest,
    Finish,
    Graph,
    GraphDecoder,
    OnnxRuntimeBackend,
    Session,
    StreamingDetokeniser,
    decode,
)

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # exports, on a busy machine
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def same_prompts() -> None:
    """The same random prompts on every run: in one of some ten thousand two tokens are as good as equal."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[PixelReferNetwork, CompiledNetwork]:
    checkpoint, folder = exported_tiny(tmp_path_factory, opset=20)
    compiled = open_network(folder, OnnxRuntimeBackend(threads=1), CPU)
    return load_network(checkpoint, device=CPU, dtype=torch.float32), compiled


class Counted:
    """A session that notes how many positions each run computed."""

    def __init__(self, session: Session) -> None:
        self.session, self.graph = session, session.graph
        self.positions: list[int] = []
        self.memory: set[int] = set()

    graph: Graph

    def run(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.positions.append(feeds["embeddings"].shape[1])
        self.memory.add(feeds["past_key_0"].data_ptr())
        return self.session.run(feeds)

    def close(self) -> None:
        self.session.close()


@pytest.fixture
def counted(networks: tuple[PixelReferNetwork, CompiledNetwork]) -> tuple[Counted, GraphDecoder]:
    compiled = networks[1]
    session = Counted(compiled.language._decoder)
    return session, GraphDecoder(session, compiled.embed.answers, context_length=600, device=CPU)


def answer(decoder: GraphDecoder, prompt: torch.Tensor, count: int = 6, stop_after: int = 99) -> list[int]:
    asked = iter(range(1000))
    request = AnswerRequest(
        prompt,
        StreamingDetokeniser(lambda token: b""),
        sampling=GREEDY,
        stop_ids=frozenset(),
        max_new_tokens=count,
        cancelled=lambda: next(asked) >= stop_after,
    )
    events = decode(decoder, request)
    return [event.token_id for event in events if event.finish is not Finish.CANCELLED]


def expected(network: PixelReferNetwork, prompt: torch.Tensor, count: int = 6) -> list[int]:
    return answer(network.decoder(), prompt, count)  # type: ignore[arg-type]


def test_answers_equal_torch_with_one_cache_after_the_other(
    networks: tuple[PixelReferNetwork, CompiledNetwork], counted: tuple[Counted, GraphDecoder]
) -> None:
    session, decoder = counted
    for length in (5, 40, 3, 17):
        prompt = torch.randn(length, 128)
        assert answer(decoder, prompt) == expected(networks[0], prompt)
    assert len(session.memory) == 1


def test_cache_grows_with_a_long_answer(
    networks: tuple[PixelReferNetwork, CompiledNetwork], counted: tuple[Counted, GraphDecoder]
) -> None:
    session, decoder = counted
    prompt = torch.randn(250, 128)
    assert answer(decoder, prompt, 20) == expected(networks[0], prompt, 20)
    assert len(session.memory) == 2


def test_answer_stops_where_the_context_ends(counted: tuple[Counted, GraphDecoder]) -> None:
    _, decoder = counted
    assert len(answer(decoder, torch.randn(597, 128), 20)) == 3


def test_prompt_that_begins_as_an_earlier_one_computes_only_the_rest(
    networks: tuple[PixelReferNetwork, CompiledNetwork], counted: tuple[Counted, GraphDecoder]
) -> None:
    session, decoder = counted
    shared = torch.randn(30, 128)
    questions = [torch.cat((shared, torch.randn(length, 128))) for length in (4, 7, 1)]
    for question in questions:
        assert answer(decoder, question) == expected(networks[0], question)
    assert [count for count in session.positions if count > 1] == [34, 7]
    # The third question's rest is a single position, as is every decoded token.
    assert len(session.positions) == 3 * 6


def test_same_prompt_again_computes_its_last_position_only(
    networks: tuple[PixelReferNetwork, CompiledNetwork], counted: tuple[Counted, GraphDecoder]
) -> None:
    session, decoder = counted
    prompt = torch.randn(20, 128)
    assert answer(decoder, prompt) == answer(decoder, prompt) == expected(networks[0], prompt)
    assert [count for count in session.positions if count > 1] == [20]


def test_cancelled_answer_leaves_its_beginning_to_the_next(
    networks: tuple[PixelReferNetwork, CompiledNetwork], counted: tuple[Counted, GraphDecoder]
) -> None:
    session, decoder = counted
    prompt = torch.randn(20, 128)
    assert len(answer(decoder, prompt, stop_after=2)) == 2
    assert answer(decoder, prompt) == expected(networks[0], prompt)
    assert max(session.positions[1:]) == 1


def test_two_objects_asked_about_in_turns_are_both_remembered(
    networks: tuple[PixelReferNetwork, CompiledNetwork], counted: tuple[Counted, GraphDecoder]
) -> None:
    session, decoder = counted
    objects = [torch.randn(30, 128), torch.randn(20, 128)]
    for _ in range(3):
        for shown in objects:
            question = torch.cat((shown, torch.randn(5, 128)))
            assert answer(decoder, question) == expected(networks[0], question)
    assert [count for count in session.positions if count > 1] == [35, 25, 5, 5, 5, 5]


def test_answers_in_turns_do_not_touch_each_other(
    networks: tuple[PixelReferNetwork, CompiledNetwork], counted: tuple[Counted, GraphDecoder]
) -> None:
    _, decoder = counted
    prompt = torch.randn(20, 128)
    batches = [decoder.batch() for _ in range(3)]
    answers = [[int(batch.add(prompt).argmax())] for batch in batches]
    for _ in range(5):
        for batch, tokens in zip(batches, answers, strict=True):
            tokens.append(int(batch.step(tokens[-1:])[0].argmax()))
    assert answers == [expected(networks[0], prompt)] * 3


def test_logits_of_every_position_equal_torch(networks: tuple[PixelReferNetwork, CompiledNetwork]) -> None:
    prompt = torch.randn(25, 128)
    found = networks[1].logits(prompt)
    np.testing.assert_allclose(found, networks[0].logits(prompt), rtol=0, atol=1e-4)
