# SPDX-License-Identifier: Apache-2.0
"""Answers decoded together are the answers they are alone, under torch and under ONNX Runtime."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from exported_models import exported_tiny
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pixelrefer_ros.model import load_network
from pixelrefer_ros.model.compiled import open_network
from pixelrefer_ros.runtime import (
    GREEDY,
    NO_TOKEN,
    AnswerRequest,
    Decoder,
    Finish,
    Graph,
    GraphDecoder,
    OnnxRuntimeBackend,
    Sampling,
    Session,
    StreamingDetokeniser,
    decode,
    decode_together,
)

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # an export, on a busy machine
CPU = torch.device("cpu")
WIDTH, STOPS = 128, frozenset(range(3, 2000, 40))


class Counted:
    """A session that notes the rows and positions of each run."""

    def __init__(self, session: Session) -> None:
        self.session, self.graph = session, session.graph
        self.runs: list[tuple[int, ...]] = []

    graph: Graph

    def run(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.runs.append(tuple(feeds["embeddings"].shape[:2]))
        return self.session.run(feeds)

    def close(self) -> None:
        self.session.close()


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Decoder]:
    checkpoint, folder = exported_tiny(tmp_path_factory)
    return {
        "torch": load_network(checkpoint, device=CPU, dtype=torch.float32).decoder(),
        "onnxruntime": open_network(folder, OnnxRuntimeBackend(threads=1), CPU).decoder(),
    }


@pytest.fixture
def counted(decoders: dict[str, Decoder]) -> tuple[Counted, GraphDecoder]:
    compiled = decoders["onnxruntime"]
    assert isinstance(compiled, GraphDecoder)
    session = Counted(compiled._decoder)
    return session, GraphDecoder(session, compiled._embed, context_length=1024, device=CPU)


@dataclass(frozen=True)
class Asked:
    """A question: a prompt of `shared` positions that others begin with too and `own` ones of its own."""

    own: int
    shared: int = 0
    tokens: int = 12
    cancel_after: int = 99
    stops: bool = True
    seed: int = 0
    temperature: float = 0.0

    @property
    def prompt(self) -> torch.Tensor:
        everybodys = torch.Generator().manual_seed(99)
        mine = torch.Generator().manual_seed(self.seed)
        beginning = torch.randn(60, WIDTH, generator=everybodys)[: self.shared]
        return torch.cat((beginning, torch.randn(self.own, WIDTH, generator=mine)))

    def request(self, heard: Sequence[int]) -> AnswerRequest:
        return AnswerRequest(
            self.prompt,
            StreamingDetokeniser(lambda token: b""),
            sampling=Sampling(self.temperature, seed=self.seed) if self.temperature else GREEDY,
            stop_ids=STOPS if self.stops else frozenset(),
            max_new_tokens=self.tokens,
            cancelled=lambda: len(heard) >= self.cancel_after,
        )


Answer = list[tuple[int, Finish | None]]


def alone(decoder: Decoder, asked: Asked) -> Answer:
    heard: Answer = []
    for event in decode(decoder, asked.request(heard)):  # type: ignore[arg-type]
        heard.append((event.token_id, event.finish))
    return heard


def together(decoder: Decoder, questions: Sequence[Asked | None], max_batch: int = 8) -> list[Answer]:
    """The answers, in the order of the questions; a None among them: at that moment nothing waits."""
    answers: list[Answer] = []
    of: dict[AnswerRequest, Answer] = {}
    waiting: Iterator[Asked | None] = iter(questions)

    def next_request() -> AnswerRequest | None:
        asked = next(waiting, None)
        if asked is None:
            return None
        answers.append([])
        request = asked.request(answers[-1])  # type: ignore[arg-type]
        of[request] = answers[-1]
        return request

    left = sum(asked is not None for asked in questions)
    while len(answers) < left:  # it ends whenever nothing waits and nothing is decoded
        for request, event in decode_together(decoder, next_request, max_batch=max_batch):
            of[request].append((event.token_id, event.finish))
    return answers


def check(decoder: Decoder, questions: Sequence[Asked | None], max_batch: int = 8) -> list[Answer]:
    found = together(decoder, questions, max_batch)
    assert found == [alone(decoder, asked) for asked in questions if asked is not None]
    return found


MIXED = [
    Asked(own=5, seed=1),
    Asked(own=40, seed=2, cancel_after=4, stops=False),
    Asked(own=3, seed=3, tokens=1),
    Asked(own=17, seed=4, shared=20, stops=False),
    Asked(own=2, seed=5, shared=60, tokens=30),
    Asked(own=9, seed=6, cancel_after=0),
    Asked(own=25, seed=7, temperature=1.0, tokens=20),
]


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_answers_of_different_prompts_and_ends_are_as_alone(
    decoders: dict[str, Decoder], backend: str
) -> None:
    found = check(decoders[backend], MIXED)
    assert {answer[-1][1] for answer in found} == {Finish.STOP, Finish.LENGTH, Finish.CANCELLED}
    assert [token for token, _ in found[1]][-1] == NO_TOKEN and len(found[1]) == 5
    assert len({len(answer) for answer in found}) > 3, "they must leave at different times"


def test_backends_answer_the_same(decoders: dict[str, Decoder]) -> None:
    greedy = [asked for asked in MIXED if not asked.temperature]
    assert together(decoders["torch"], greedy) == together(decoders["onnxruntime"], greedy)


QUESTIONS = st.builds(
    Asked,
    own=st.integers(1, 50),
    shared=st.sampled_from([0, 0, 7, 30, 60]),
    tokens=st.integers(1, 14),
    cancel_after=st.sampled_from([0, 1, 5, 99, 99, 99]),
    stops=st.booleans(),
    seed=st.integers(0, 20),
)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    questions=[Asked(own=200, stops=False, tokens=70), Asked(own=2, stops=False, tokens=70)], max_batch=8
)
@example(questions=[*MIXED[:3], None, None, None, *MIXED[3:]], max_batch=3)
@given(
    questions=st.lists(st.one_of(QUESTIONS, st.none()), min_size=1, max_size=7), max_batch=st.integers(1, 8)
)
def test_whoever_comes_and_goes_each_answer_is_as_alone(
    decoders: dict[str, Decoder], backend: str, questions: list[Asked | None], max_batch: int
) -> None:
    check(decoders[backend], questions, max_batch)


def test_one_pass_per_step_serves_all_and_those_who_end_leave(counted: tuple[Counted, GraphDecoder]) -> None:
    session, decoder = counted
    together(decoder, [Asked(own=10 + n, tokens=n, stops=False, seed=n) for n in (2, 4, 5)])
    assert session.runs == [(1, 12), (1, 14), (1, 15), (3, 1), (2, 1), (2, 1), (1, 1)]


def test_several_questions_about_one_object_compute_it_once(counted: tuple[Counted, GraphDecoder]) -> None:
    session, decoder = counted
    questions = [Asked(own=n, shared=60, tokens=3, stops=False, seed=n) for n in (5, 9, 7)]
    together(decoder, questions)
    assert session.runs[:3] == [(1, 65), (1, 9), (1, 7)]
    session.runs.clear()
    together(decoder, [Asked(own=4, shared=60, tokens=1)])  # and it is remembered after them
    assert session.runs == [(1, 4)]


def test_first_answer_begins_before_the_second_is_looked_at(counted: tuple[Counted, GraphDecoder]) -> None:
    session, decoder = counted
    requests = iter([asked.request([]) for asked in MIXED[:2]])
    events = decode_together(decoder, lambda: next(requests, None), max_batch=8)
    next(events)
    assert len(session.runs) == 1


def test_no_more_are_decoded_together_than_the_graph_takes(counted: tuple[Counted, GraphDecoder]) -> None:
    session, decoder = counted
    assert decoder.max_batch == 8
    together(decoder, [Asked(own=3, tokens=2, stops=False, seed=n) for n in range(11)], max_batch=100)
    assert max(rows for rows, _ in session.runs) == 8


def test_a_place_that_becomes_free_is_taken_at_once(counted: tuple[Counted, GraphDecoder]) -> None:
    session, decoder = counted
    questions = [Asked(own=9, tokens=tokens, stops=False, seed=tokens) for tokens in (6, 2, 4)]
    together(decoder, questions, max_batch=2)
    assert session.runs == [(1, 9), (1, 9), (2, 1), (1, 9), (2, 1), (2, 1), (2, 1), (1, 1)]


def test_memory_is_used_again_by_the_next_batch(counted: tuple[Counted, GraphDecoder]) -> None:
    _, decoder = counted
    addresses = defaultdict(int)
    for _ in range(3):
        together(decoder, [Asked(own=3, tokens=2, stops=False, seed=n) for n in range(2)])
        assert decoder._idle is not None
        addresses[decoder._idle.memory(0, 1)["past_key_0"].data_ptr()] += 1
    assert list(addresses.values()) == [3]


def test_memory_of_eight_is_freed_after_them_but_for_the_two_that_ended_last(
    counted: tuple[Counted, GraphDecoder],
) -> None:
    session, decoder = counted
    eight = [Asked(own=20 + n, tokens=2 + n, stops=False, seed=n) for n in range(8)]
    expected = [alone(decoder, asked) for asked in eight]
    assert together(decoder, eight) == expected
    assert decoder._idle is not None
    assert {tensor.shape[0] for tensor in decoder._idle.memory(0, 99).values()} == {2}
    session.runs.clear()
    assert together(decoder, [eight[6], eight[7]]) == expected[6:]
    assert max(positions for _, positions in session.runs) == 1, "their prompts are remembered"
