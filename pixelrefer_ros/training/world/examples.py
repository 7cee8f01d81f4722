# SPDX-License-Identifier: Apache-2.0
"""From a scene to examples: pictures, regions, a question, its answer and the facts in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.training.world.casting import SceneSettings, cast_scene
from pixelrefer_ros.training.world.course import choose_views
from pixelrefer_ros.training.world.facts import Facts, Score, parse, score
from pixelrefer_ros.training.world.questions import KINDS, OFFERED, Asking, Draft, Row, Views
from pixelrefer_ros.training.world.questions.honest import BARELY_SEEN
from pixelrefer_ros.training.world.rendering import Renderer
from pixelrefer_ros.training.world.sight import Sight
from pixelrefer_ros.types import Frame, Mask

VIDEO_VIEWS = (6, 8)
"""Fewest and most frames that a question about a video asks for."""
MIN_WINDOW = 0.6
"""Share of the clip that a question about a video looks at, at least; of long clips, of the next."""
LONGEST_WINDOW = 32
"""Frames from the first to the last that it looks at, at most."""
GLIMPSES = 0.6
"""Share of training's videos with slivers: what a tracker has last of an object that goes behind another."""

_TRIES = 12
_HIDDEN_FILMED = 0.8
_JUST_BACK, _BACK_FRAMES = 0.5, 8
"""Share of the videos of an object that is hidden for a while which end so many frames after it can be
recognized again, at most, and look back as far as they may: as one who asks what has just happened. By chance
hiding would lie early in nearly all that show it."""


@dataclass(frozen=True, eq=False, slots=True)
class Example:
    """One question with everything needed to ask it, and to judge the answer.

    Attributes:
        question: with one ``<region>`` per region, in order.
        answer: a right one.
        kind: which of `KINDS`, or of `LESSONS`.
        facts: what a right answer states; see `pixelrefer_ros.training.world.facts`.
        known: what else is true.
        frames: the pictures looked at, in time order; all the regions are seen in all of them.
        masks: per region, per frame: the visible mask, (H, W) bool.
        times_s: per frame, from the first one; (None,) for a single picture.
        scene_seed: the scene it is of.
        frame_indices: of `frames` in the scene.
        objects: the scene's numbers of the regions.
        lesson: see `Draft`.
        alternatives: likewise.
    """

    question: str
    answer: str
    kind: str
    facts: Facts
    known: Facts
    frames: tuple[Frame, ...]
    masks: tuple[tuple[Mask, ...], ...]
    times_s: tuple[float | None, ...]
    scene_seed: int
    frame_indices: tuple[int, ...]
    objects: tuple[int, ...]
    lesson: tuple[tuple[str, str], ...] = ()
    alternatives: tuple[Facts, ...] = ()

    @property
    def row(self) -> Row:
        """The row of the table of scores."""
        return OFFERED[self.kind].row

    def judge(self, answer: str) -> Score:
        """Scores any answer to this question."""
        return score(parse(answer), self.facts, self.known, self.alternatives)

    def digest(self) -> str:
        """Hex SHA-256 over everything: words, pixels, masks and times."""
        digest = hashlib.sha256()
        digest.update(
            repr((self.question, self.answer, self.kind, sorted(self.facts), self.times_s)).encode()
        )
        for frame in self.frames:
            digest.update(frame.rgb.tobytes())
        for of_region in self.masks:
            for mask in of_region:
                digest.update(np.packbits(mask).tobytes())
        return digest.hexdigest()


def scene_examples(
    seed: int,
    count: int,
    *,
    settings: SceneSettings | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    moments: int = 0,
    sight: Sight | None = None,
) -> Iterator[Example]:
    """Examples of one scene, ``count`` or fewer where it offers no more; the same for the same arguments.

    Args:
        seed: the scene; see `scene_seeds`.
        count: how many to ask for.
        settings: what kind of scene.
        kinds: which kinds of question.
        moments: 0 lets every question look where it likes. Otherwise all videos look at one object over one
            stretch of the scene, and pictures at so many frames of it: less varied, but much cheaper to draw
            and to encode.
        sight: of this very scene, where it has been measured already.
    """
    sight = sight or Sight(Renderer(cast_scene(seed, settings)))
    rng = np.random.default_rng([seed, 2])
    pictures: dict[int, Frame] = {}
    for kind, draft in _drafts(rng, sight, count, kinds, moments):
        for index in draft.views:  # many questions look at one frame: it is drawn once
            if index not in pictures:
                pictures[index] = sight.renderer.frame(index)
        yield _drawn(sight, kind, draft, pictures)


def scene_texts(seed: int, count: int, *, settings: SceneSettings | None = None) -> Iterator[tuple[str, str]]:
    """Questions and right answers of one scene, with no picture drawn for them."""
    for _, _, draft in scene_drafts(seed, count, settings=settings):
        yield draft.question, draft.answer


def scene_drafts(
    seed: int,
    count: int,
    *,
    settings: SceneSettings | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    video_views: tuple[int, int] = VIDEO_VIEWS,
    moments: int = 0,
    glimpses: float = 0.0,
) -> Iterator[tuple[Sight, str, Draft]]:
    """What can be seen, kinds of question and questions of one scene; no picture is drawn for them.

    Args:
        seed: the scene.
        count: how many questions.
        settings: what kind of scene.
        kinds: of questions.
        video_views: the fewest and the most frames that a question about a video asks for.
        moments: see `scene_examples`.
        glimpses: share of the videos that look at frames, too, in which a sliver of their object is seen.
    """
    sight = Sight(Renderer(cast_scene(seed, settings)))
    rng = np.random.default_rng([seed, 2])
    for kind, draft in _drafts(rng, sight, count, kinds, moments, video_views, glimpses):
        yield sight, kind, draft


def _drafts(
    rng: np.random.Generator,
    sight: Sight,
    count: int,
    kinds: Sequence[str],
    moments: int,
    video_views: tuple[int, int] = VIDEO_VIEWS,
    glimpses: float = 0.0,
) -> Iterator[tuple[str, Draft]]:
    filmed = _filmed(rng, sight) if moments else 0
    stretch = _stretch(rng, sight, filmed, video_views) if moments else None
    pictures: Sequence[int] = range(sight.scene.frames)
    if moments:
        first, last, spread = stretch or (0, sight.scene.frames - 1, sight.scene.frames)
        shared = np.unique(np.linspace(first, last, spread).round().astype(int))
        pictures = sorted(int(i) for i in rng.choice(shared, min(moments, len(shared)), replace=False))
    glimpsed = glimpses > 0 and bool(rng.random() < glimpses)
    weights = np.array([OFFERED[kind].weight for kind in kinds])
    asked: set[str] = set()
    found = 0
    for _ in range(count * _TRIES):
        if found == count:
            return
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        number = int(rng.integers(len(sight.scene.objects)))
        if stretch and OFFERED[kind].views == "video":
            number = filmed
        views = _views(rng, sight, number, OFFERED[kind].views, stretch, pictures, video_views, glimpsed)
        draft = None if views is None else OFFERED[kind].make(Asking(rng, sight, number, views))
        if draft is None or repr((draft.question, draft.objects)) in asked:
            continue
        asked.add(repr((draft.question, draft.objects)))
        found += 1
        yield kind, draft


def _filmed(rng: np.random.Generator, sight: Sight) -> int:
    """The one object that videos look at: mostly one that is hidden for a while, where there is one."""
    hidden = [number for number in range(len(sight.scene.objects)) if sight.gone(number).any()]
    if hidden and rng.random() < _HIDDEN_FILMED:
        return hidden[int(rng.integers(len(hidden)))]
    return int(rng.integers(len(sight.scene.objects)))


def _stretch(
    rng: np.random.Generator, sight: Sight, number: int, video_views: tuple[int, int]
) -> tuple[int, int, int] | None:
    """The first and last frame of a video, and how many to look at; None where the scene is too short."""
    frames = sight.scene.frames
    count = int(rng.integers(video_views[0], video_views[1] + 1))
    longest = min(frames, LONGEST_WINDOW)
    shortest = max(count, int(np.ceil(MIN_WINDOW * longest)))
    if longest < shortest:
        return None
    length = int(rng.integers(shortest, longest + 1))
    first = int(rng.integers(0, frames - length + 1))
    last = first + length - 1
    if rng.random() < _JUST_BACK and len(back := _just_back(sight, number)):
        end = int(rng.choice(back))
        begin = max(0, end - longest + 1)
        if end - begin + 1 >= shortest and sight.seen(number)[begin]:
            first, last = begin, end
    return first, last, count


def _just_back(sight: Sight, number: int) -> NDArray[np.intp]:
    """The first frames in which an object can be recognized again; none if it is never hidden."""
    gone = np.flatnonzero(sight.gone(number))
    later = range(gone[-1] + 1, sight.scene.frames) if len(gone) else range(0)
    return np.array([index for index in later if sight.recognizable(number, index)][:_BACK_FRAMES], np.intp)


def _views(
    rng: np.random.Generator,
    sight: Sight,
    number: int,
    wanted: Views,
    stretch: tuple[int, int, int] | None,
    pictures: Sequence[int],
    video_views: tuple[int, int],
    glimpsed: bool,
) -> tuple[int, ...] | None:
    if wanted == "video":
        stretch = stretch or _stretch(rng, sight, number, video_views)
        views = choose_views(sight, (number,), *stretch, glimpses=glimpsed) if stretch else None
        return views if views and sight.recognizable(number, views[-1]) else None
    if wanted == "hidden":
        shares = sight.shares[pictures, number]
        nearly = np.flatnonzero((shares >= BARELY_SEEN[0]) & (shares <= BARELY_SEEN[1]))
        return (pictures[int(nearly[rng.integers(len(nearly))])],) if len(nearly) else None
    index = pictures[int(rng.integers(len(pictures)))]
    return (index,) if sight.recognizable(number, index) else None


def _drawn(sight: Sight, kind: str, draft: Draft, pictures: dict[int, Frame]) -> Example:
    renderer, scene = sight.renderer, sight.scene
    start = scene.time_s(draft.views[0])
    single = len(draft.views) == 1
    return Example(
        question=draft.question,
        answer=draft.answer,
        kind=kind,
        facts=draft.facts,
        known=draft.known,
        frames=tuple(pictures[index] for index in draft.views),
        masks=tuple(
            tuple(renderer.layers(index).visible[number].copy() for index in draft.views)
            for number in draft.objects
        ),
        times_s=(None,) if single else tuple(scene.time_s(index) - start for index in draft.views),
        scene_seed=scene.seed,
        frame_indices=draft.views,
        objects=draft.objects,
        lesson=draft.lesson,
        alternatives=draft.alternatives,
    )
