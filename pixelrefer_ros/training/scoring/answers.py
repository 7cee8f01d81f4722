# SPDX-License-Identifier: Apache-2.0
"""How many answers of a region language model are right, row by row, with a check that it looks at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from pixelrefer_ros.model import AnswerRequest, ObjectTokens, PixelReferLite, TimedTokens
from pixelrefer_ros.training.world import Example, Score

MAX_TOKENS = 72
"""Longer than any right answer of the world in its own tokenizer."""
_OF_PICTURES = ("category", "color", "shape", "surface", "size", "place", "next_to", "in_front", "behind")
_OF_VIDEOS = ("motion", "hidden_when")
_DESCRIPTIONS = ("describe_brief", "describe_detail", "describe_video")
ASK_ALIKE = frozenset((*_OF_PICTURES, *_OF_VIDEOS, *_DESCRIPTIONS))
"""Kinds that ask the same of every region, in other words at most. The others ask for a word, a side, a time
or one of several options."""


@dataclass(slots=True)
class RowScore:
    """One row: answers counted, and the facts in them."""

    count: int = 0
    correct: int = 0
    stated: int = 0
    true: int = 0
    expected: int = 0
    recalled: int = 0

    def add(self, score: Score) -> None:
        """Counts one more answer."""
        self.count += 1
        self.correct += score.correct
        self.stated += score.stated
        self.true += score.true
        self.expected += score.expected
        self.recalled += score.recalled

    @property
    def exact(self) -> float:
        """Share of answers that are right as a whole; NaN without any."""
        return self.correct / self.count if self.count else float("nan")

    @property
    def truthful(self) -> float:
        """Share of stated facts that are true; NaN without any."""
        return self.true / self.stated if self.stated else float("nan")

    @property
    def complete(self) -> float:
        """Share of true facts that are stated; NaN without any."""
        return self.recalled / self.expected if self.expected else float("nan")


@dataclass(slots=True)
class AnswerScores:
    """Scores by row and by kind of question.

    Attributes:
        rows: of the table.
        kinds: finer.
        wrong: some wrong answers, to look at.
    """

    rows: dict[str, RowScore] = field(default_factory=lambda: defaultdict(RowScore))
    kinds: dict[str, RowScore] = field(default_factory=lambda: defaultdict(RowScore))
    wrong: list[dict[str, str | int]] = field(default_factory=list)

    def add(self, example: Example, answer: str) -> None:
        """Judges one answer."""
        judged = example.judge(answer)
        self.rows[example.row].add(judged)
        self.kinds[example.kind].add(judged)
        if not judged.correct and len(self.wrong) < _WRONG_KEPT:
            self.wrong.append(
                {
                    "scene": example.scene_seed,
                    "kind": example.kind,
                    "question": example.question,
                    "answer": answer,
                    "right": example.answer,
                }
            )

    def as_json(self) -> dict[str, object]:
        """Plain values for a report."""
        return {
            "rows": {row: _plain(score) for row, score in self.rows.items()},
            "kinds": {kind: _plain(score) for kind, score in self.kinds.items()},
            "wrong": self.wrong,
        }


_WRONG_KEPT = 40
_Views = dict[tuple[int, int, int], ObjectTokens]  # object tokens by scene, frame and object


def answered(
    model: PixelReferLite, asked: Iterable[tuple[Example, list[list[TimedTokens]]]]
) -> Iterator[tuple[Example, str]]:
    """Greedy answers to examples' questions about these regions, several decoded together.

    Args:
        model: what to ask.
        asked: examples with the object tokens of every region; taken as there is room.

    Yields:
        Each example with its answer, as the answers end.
    """
    questions = iter(asked)
    answers: dict[AnswerRequest, tuple[Example, list[str]]] = {}

    def waiting() -> AnswerRequest | None:
        for example, regions in questions:
            request = model.request(example.question, regions, max_new_tokens=MAX_TOKENS)
            answers[request] = example, []
            return request
        return None

    for request, token in model.generate_together(waiting):
        answers[request][1].append(token.text)
        if token.finish is not None:
            example, pieces = answers.pop(request)
            yield example, "".join(pieces)


def look(model: PixelReferLite, example: Example, seen: _Views | None = None) -> list[list[TimedTokens]]:
    """The object tokens of every region in every frame of an example.

    Args:
        model: what looks.
        example: at what.
        seen: views that need not be looked at again; takes up those that are.
    """
    seen = {} if seen is None else seen
    regions: list[list[TimedTokens]] = [[] for _ in example.masks]
    for place, (frame, time_s) in enumerate(zip(example.frames, example.times_s, strict=True)):
        keys = [(example.scene_seed, example.frame_indices[place], number) for number in example.objects]
        new = [which for which, key in enumerate(keys) if key not in seen]
        if new:
            masks = [example.masks[which][place] for which in new]
            found = model.encode_objects(frame.rgb, masks, model.encode_global(frame.rgb))
            seen |= zip((keys[which] for which in new), found, strict=True)
        for region, key in zip(regions, keys, strict=True):
            region.append(TimedTokens(seen[key], time_s))
    return regions


def score_answers(model: PixelReferLite, examples: Iterable[Example]) -> AnswerScores:
    """Asks the model everything; the questions of a scene should follow one another."""
    scores = AnswerScores()
    for example, answer in answered(model, _looked_at(model, examples)):
        scores.add(example, answer)
    return scores


def _looked_at(
    model: PixelReferLite, examples: Iterable[Example]
) -> Iterator[tuple[Example, list[list[TimedTokens]]]]:
    seen: _Views = {}
    scene: int | None = None
    for example in examples:
        if example.scene_seed != scene:
            seen, scene = {}, example.scene_seed
        yield example, look(model, example, seen)


def score_shuffled(
    model: PixelReferLite, examples: Sequence[Example], *, seed: int = 0
) -> tuple[AnswerScores, AnswerScores]:
    """The check that answers come from the regions: each question is asked about another example's regions.

    Args:
        model: what to ask.
        examples: are regrouped, see `partners`; those without a partner are left out.
        seed: of the shuffling.

    Returns:
        The scores of the answers, which must not lie above chance; and chance: the scores of the partner's
        right answers, which is what a perfect model would say of the wrong regions.
    """
    scores, chance = AnswerScores(), AnswerScores()
    pairs = list(partners(examples, np.random.default_rng(seed)))
    for example, partner in pairs:
        chance.add(example, partner.answer)
    for example, answer in answered(model, ((example, look(model, partner)) for example, partner in pairs)):
        scores.add(example, answer)
    return scores, chance


def partners(examples: Sequence[Example], rng: np.random.Generator) -> Iterator[tuple[Example, Example]]:
    """Pairs of other scenes each, of which the second one's regions are to be asked about.

    Both ask the same about as many regions, be it in other words: the second one's right answer then is what
    is true of its regions, whichever of both questions is asked.
    """
    alike: dict[tuple[str, int, str], list[Example]] = defaultdict(list)
    for example in examples:
        asked = "" if example.kind in ASK_ALIKE else example.question
        alike[example.kind, len(example.masks), asked].append(example)
    for group in alike.values():
        order = rng.permutation(len(group))
        for place, number in enumerate(order):
            partner = group[order[(place + 1) % len(order)]]
            if partner.scene_seed != group[number].scene_seed:
                yield group[number], partner


def _plain(score: RowScore) -> dict[str, float | int | None]:
    shares = {"exact": score.exact, "truthful": score.truthful, "complete": score.complete}
    return asdict(score) | {
        name: None if value != value else round(value, 4) for name, value in shares.items()
    }
