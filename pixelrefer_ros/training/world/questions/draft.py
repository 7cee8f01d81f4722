# SPDX-License-Identifier: Apache-2.0
"""A question with its true answer, before the pictures are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pixelrefer_ros.training.world.course import hiding_of
from pixelrefer_ros.training.world.facts import Fact, Facts
from pixelrefer_ros.training.world.sight import Sight

REGION = "<region>"


@dataclass(frozen=True, slots=True)
class Draft:
    """What is asked of which objects in which frames, and what is true.

    Attributes:
        question: with one ``<region>`` per object, in order.
        answer: in words.
        facts: what a right answer states.
        objects: the scene's numbers of the objects asked about.
        views: the frames looked at; one is a picture, several are a video.
        known: what else is true of the object.
        lesson: of one of `LESSONS`, the answer's parts: what is heard and what is to be said to it, in turns.
        claim: of a question for yes or no, the words in it after which that is decided, and "yes" or "no".
        alternatives: what other answers state that are as right as this one.
    """

    question: str
    answer: str
    facts: Facts
    objects: tuple[int, ...]
    views: tuple[int, ...]
    known: Facts = frozenset()
    lesson: tuple[tuple[str, str], ...] = ()
    claim: tuple[str, str] | None = None
    alternatives: tuple[Facts, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Asking:
    """What a maker of questions has to work with.

    Attributes:
        rng: the only source of chance.
        sight: what can be seen.
        number: the object in question.
        views: the frames to look at, in time order.
        plain: see `hiding_of`.
    """

    rng: np.random.Generator
    sight: Sight
    number: int
    views: tuple[int, ...]
    plain: bool = True

    @property
    def hiding(self) -> tuple[float, float] | str | None:
        """When the object is hidden, see `hiding_of`."""
        return hiding_of(self.sight, self.number, self.views, plain=self.plain)

    @property
    def newest(self) -> int:
        """The last frame looked at: the one that a question without a time is about."""
        return self.views[-1]

    def choose(self, options: Sequence[str]) -> str:
        """One of several words."""
        return options[int(self.rng.integers(len(options)))]

    def phrase(self, wordings: Sequence[tuple[str, str]], **words: str) -> tuple[str, str]:
        """One of several wordings of question and answer, filled in."""
        question, answer = wordings[int(self.rng.integers(len(wordings)))]
        return question.format(**words), answer.format(**words)

    def others(self, count: int, fit: Callable[[int], bool]) -> list[int]:
        """``count`` other objects that fit, in random order; fewer where there are not so many."""
        numbers = [int(n) for n in self.rng.permutation(len(self.sight.scene.objects)) if n != self.number]
        return [number for number in numbers if fit(number)][:count]

    def draft(
        self,
        phrased: tuple[str, str],
        facts: Iterable[tuple[str, str]],
        *,
        objects: tuple[int, ...] | None = None,
        known: Iterable[tuple[str, str]] = (),
        claim: tuple[str, str] | None = None,
    ) -> Draft:
        """The draft of a phrased question and answer."""
        stated = frozenset(Fact(*fact) for fact in facts)
        true = frozenset(Fact(*fact) for fact in known)
        asked = (self.number,) if objects is None else objects
        return Draft(*phrased, stated, asked, self.views, true, claim=claim)

    def lesson(
        self,
        question: str,
        items: Iterable[tuple[str, str]],
        *,
        objects: tuple[int, ...] | None = None,
        most: int | None = None,
    ) -> Draft | None:
        """Many things decided in one answer, in random order.

        The answer holds what is asked, one thing after the other, each with what is to be said to it. What is
        asked is heard, not learned: to guess it would be most of the work, and teach nothing. What is said
        begins with what is decided: behind as little as a "The" it stayed a guess. It begins with a space, as
        within an answer: a tokenizer has other tokens for words that begin one.

        Args:
            question: with one ``<region>`` per object.
            items: what is heard, and what is to be said.
            objects: asked about, if not the one alone.
            most: things decided; any so many of those given.

        Returns:
            None if there are fewer than two things to decide.
        """
        unique = list(dict(items).items())
        if len(unique) < 2:
            return None
        parts = [unique[i] for i in self.rng.permutation(len(unique))[:most]]
        answer = "; ".join(f"{heard}: {said}" for heard, said in parts)
        lesson = tuple((f" {heard}", f" {said}") for heard, said in parts)
        return replace(self.draft((question, answer), [], objects=objects), lesson=lesson)


Maker = Callable[[Asking], "Draft | None"]
"""Makes one kind of question; None where this object, in these frames, has no clear answer to it."""


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeio' or words.startswith('hour') else 'a'} {words}"
