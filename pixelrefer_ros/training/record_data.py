# SPDX-License-Identifier: Apache-2.0
"""Batches of a user's records: pictures are read when their turn comes, broken ones told and left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from pixelrefer_ros.errors import BadQuestion, EmptyRegion, ImageError, InputFileError
from pixelrefer_ros.model import ChatTokenizer, PixelReferConfig
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.coco_masks import mask_of
from pixelrefer_ros.training.data import Batch, Turn, View, make_batch, prompt_row
from pixelrefer_ros.training.record_media import read_pictures
from pixelrefer_ros.training.records import RecordTurn

SKIPPED = "skipped.jsonl"
"""In the folder of the log: a line per question that was left out while training."""

_HELD_BACK = (0.05, 64)  # of the questions, and at most
_FEWEST = 40  # questions; with fewer none is held back

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failed:
    """A question that cannot be read.

    Attributes:
        place: among the questions.
        record: its number in the file.
        reason: why.
    """

    place: int
    record: int
    reason: str


@dataclass(frozen=True, eq=False, slots=True)
class ReadBatch:
    """What one process has read; see `Failures` for what becomes of it.

    Attributes:
        batch: None where so much failed that it was given up.
        failed: every question that did, once.
    """

    batch: Batch | None
    failed: tuple[Failed, ...] = ()


class RecordBatches(Dataset[ReadBatch]):
    """Batches by number; batch k is the same on any run. Every question comes once per pass over the data.

    Args:
        turns: to draw from.
        folder: of the checkpoint, for its tokenizer.
        config: of the model.
        seed: of the order.
        questions: per batch.
        limit: questions that may fail when their pictures are read.
    """

    def __init__(
        self,
        turns: Sequence[RecordTurn],
        folder: Path,
        config: PixelReferConfig,
        *,
        seed: int,
        questions: int,
        limit: int,
    ) -> None:
        self.turns, self._folder, self._config = turns, folder, config
        self._seed, self._questions, self._limit = seed, questions, limit

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:  # made in the worker: it holds a lock, which cannot travel
        return tokenizer_of(self._folder)

    def __getitem__(self, number: int) -> ReadBatch:
        """Reads batch ``number``; what fails is left out, and another question takes its place."""
        rng = np.random.default_rng([self._seed, 7, number])
        turns: list[Turn] = []
        failed: dict[int, Failed] = {}
        chosen = [self._place(number * self._questions + i) for i in range(self._questions)]
        while len(turns) < self._questions:
            place = chosen.pop(0) if chosen else int(rng.integers(len(self.turns)))
            try:
                turns.append(read_turn(self.turns[place], self._tokenizer, self._config))
            except (ImageError, EmptyRegion, BadQuestion) as error:
                failed[place] = Failed(place, self.turns[place].number, str(error))
                if self.too_many(len(failed)):
                    return ReadBatch(None, tuple(failed.values()))
        return ReadBatch(make_batch(turns, self._tokenizer, self._config), tuple(failed.values()))

    def too_many(self, failed: int) -> bool:
        """Whether training has to stop when so many questions cannot be read."""
        return failed > self._limit or failed == len(self.turns)

    def _place(self, drawn: int) -> int:
        epoch, place = divmod(drawn, len(self.turns))
        return int(self._order(epoch)[place])

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, 6, epoch]).permutation(len(self.turns))


class Failures:
    """Counts and tells what fails, in the process that trains: each of several that read knows its own only.

    Args:
        batches: those that are read.
        log: folder for `SKIPPED`.
    """

    def __init__(self, batches: RecordBatches, log: Path) -> None:
        self._batches, self._log = batches, log / SKIPPED
        self._places: set[int] = set()

    def sifted(self, read: ReadBatch) -> Batch:
        """The batch, once its failures are told and counted.

        Raises:
            InputFileError: too much has failed.
        """
        for failed in read.failed:
            if failed.place not in self._places:
                self._places.add(failed.place)
                _log.warning("record %d is left out: %s", failed.record, failed.reason)
                self._log.parent.mkdir(parents=True, exist_ok=True)
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"record": failed.record, "reason": failed.reason}) + "\n")
        if read.batch is None or self._batches.too_many(len(self._places)):
            raise InputFileError(
                f"{len(self._places)} of {len(self._batches.turns)} questions cannot be read, the last one "
                f"because {read.failed[-1].reason}; {self._log} lists them: correct the data, or allow more "
                "with --max-broken"
            )
        return read.batch


def read_turn(turn: RecordTurn, tokenizer: ChatTokenizer, config: PixelReferConfig) -> Turn:
    """A question with its pictures and masks.

    Raises:
        ImageError: a picture or a mask cannot be read, or they differ in size from each other or
            from the record.
        EmptyRegion: the masks of an object have no pixel in any frame.
        BadQuestion: the prompt is longer than the model's context, or frames have no times.
    """
    numbers = {number for _, frames in turn.regions for number in frames}
    pictures, rate = read_pictures(turn.media, numbers if turn.video else {0})
    rate = turn.rate_hz or rate
    regions: list[tuple[View, ...]] = []
    for name, frames in turn.regions:
        if len(frames) > 1 and rate is None:
            raise BadQuestion(f"{turn.media} does not say its frames per second: give the record an fps")
        views = []
        for number, segmentation in frames.items():
            rgb = pictures[number if turn.video else 0]
            size = rgb.shape[0], rgb.shape[1]
            if turn.size not in (None, size):  # a polygon would be of other pixels, and nobody would know
                raise ImageError(
                    f"{turn.media} is of {list(size)} px, and its record says {list(turn.size or ())}: give "
                    "the picture that the masks are of, or its own height and width"
                )
            mask = mask_of(segmentation, size)
            if not mask.any():  # it is hidden there
                continue
            time_s = number / rate if turn.video and rate else None
            views.append(View((turn.number, number), rgb, (turn.number, name), mask, time_s))
        if not views:
            raise EmptyRegion(
                f"{turn.media}: the mask of object {name} has no pixel in frames {list(frames)}"
            )
        regions.append(tuple(views))
    read = Turn(turn.question, turn.answer, tuple(regions))
    length = len(prompt_row(read, tokenizer, config).ids)
    context = int(config.language.max_position_embeddings)
    if length > context:
        raise BadQuestion(f"the prompt and its answer have {length} tokens; the model's context is {context}")
    return read


def held_back(turns: Sequence[RecordTurn]) -> tuple[list[RecordTurn], list[RecordTurn]]:
    """Splits questions into those to train on and a few to watch the training, by whole records."""
    records = sorted({turn.number for turn in turns})
    share, most = _HELD_BACK
    count = min(int(share * len(records)), most) if len(records) >= _FEWEST else 0
    chosen = {records[round((i + 0.5) * len(records) / count)] for i in range(count)}
    return [t for t in turns if t.number not in chosen], [t for t in turns if t.number in chosen]
