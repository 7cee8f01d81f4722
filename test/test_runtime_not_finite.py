# SPDX-License-Identifier: Apache-2.0
"""Where a model overflows, its answer says so, and nobody else's suffers: neither beside it nor after it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import pytest
import torch
from exported_models import exported_tiny

from pixelrefer_ros.model.compiled import open_network
from pixelrefer_ros.perception.answering import AnswerInProgress
from pixelrefer_ros.runtime import (
    GREEDY,
    NO_TOKEN,
    AnswerRequest,
    Finish,
    GeneratedToken,
    Graph,
    GraphDecoder,
    OnnxRuntimeBackend,
    Session,
    StreamingDetokeniser,
    decode_together,
)
from pixelrefer_ros.types import AnswerStatus, Question

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # exports, on a busy machine
CPU = torch.device("cpu")
WIDTH, TOKENS = 128, 6


class Overflowing:
    """A session that gives no numbers in one row of one run, and leaves none in that row's caches."""

    graph: Graph

    def __init__(self, session: Session) -> None:
        self.session, self.graph = session, session.graph
        self.runs, self.overflows = 0, (-1, 0)

    def run(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        results = self.session.run(feeds)
        run, row = self.overflows
        if self.runs == run:
            results["logits"][row] = math.nan
            begun = int(feeds["start"][row])
            for name, _ in self.graph.in_place:
                feeds[name][row, :, begun : begun + feeds["embeddings"].shape[1]] = math.nan
        self.runs += 1
        return results

    def close(self) -> None:
        self.session.close()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    _, folder = exported_tiny(tmp_path_factory)
    return open_network(folder, OnnxRuntimeBackend(threads=1), CPU)


@pytest.fixture
def decoder(compiled) -> GraphDecoder:
    session = Overflowing(compiled.language._decoder)
    return GraphDecoder(session, compiled.embed.answers, context_length=600, device=CPU)


def prompt(seed: int, length: int = 40) -> torch.Tensor:
    return torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(seed))


def answers(decoder: GraphDecoder, *prompts: torch.Tensor) -> list[list[GeneratedToken]]:
    """The events of answers decoded together."""
    requests = [
        AnswerRequest(each, StreamingDetokeniser(lambda token: b""), GREEDY, frozenset(), TOKENS)
        for each in prompts
    ]
    waiting = iter(requests)
    events: dict[AnswerRequest, list[GeneratedToken]] = {request: [] for request in requests}
    for request, event in decode_together(decoder, lambda: next(waiting, None), max_batch=len(prompts)):
        events[request].append(event)
    return [events[request] for request in requests]


def tokens(events: list[GeneratedToken]) -> list[int]:
    return [event.token_id for event in events]


def alone(compiled, prompt: torch.Tensor) -> list[int]:
    fresh = GraphDecoder(compiled.language._decoder, compiled.embed.answers, context_length=600, device=CPU)
    return tokens(answers(fresh, prompt)[0])


@pytest.mark.parametrize("run", [0, 3], ids=["prompt", "step"])
def test_an_answer_that_overflows_says_so_and_those_after_it_are_as_alone(decoder, compiled, run):
    decoder._decoder.overflows = (run, 0)
    (events,) = answers(decoder, prompt(0))
    assert len(events) == run + 1
    assert (events[-1].token_id, events[-1].finish) == (NO_TOKEN, Finish.NOT_FINITE)
    assert tokens(events[:-1]) == alone(compiled, prompt(0))[:run]
    for later in (prompt(1, length=5), prompt(0)):  # in the same row: a shorter one, and the same again
        assert tokens(answers(decoder, later)[0]) == alone(compiled, later)


def test_answers_beside_it_are_as_alone(decoder, compiled):
    prompts = [prompt(seed) for seed in range(3)]
    decoder._decoder.overflows = (len(prompts) + 1, 1)  # the second of them, in the second step of all
    found = answers(decoder, *prompts)
    assert [events[-1].finish for events in found] == [Finish.LENGTH, Finish.NOT_FINITE, Finish.LENGTH]
    for number in (0, 2):
        assert tokens(found[number]) == alone(compiled, prompts[number])


def test_caches_that_are_left_in_the_middle_of_it_are_as_new(decoder, compiled):
    decoder._decoder.overflows = (0, 0)
    batch = decoder.batch()
    batch.add(prompt(0))
    batch.close()
    idle = decoder.batch()._rows
    assert all(cache.isfinite().all() for cache in idle.memory(0, 2).values())


def test_who_asked_is_told_what_to_do():
    progress = AnswerInProgress(Question((1,), "What is it?"), time.monotonic(), "model")
    status = progress.hear(GeneratedToken(NO_TOKEN, "", 1.0, Finish.NOT_FINITE), None)
    assert status is AnswerStatus.INTERNAL_ERROR
    answer = progress.finished(status)
    assert "run it in bfloat16 or float32" in answer.error and answer.confidence == 0
