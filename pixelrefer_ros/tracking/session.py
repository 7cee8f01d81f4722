# SPDX-License-Identifier: Apache-2.0
"""The state of a stream: the objects, their memory, and what a frame does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixelrefer_ros.tracking.apart import NOT_THERE, keep_apart
from pixelrefer_ros.tracking.followed import Followed, joined
from pixelrefer_ros.tracking.frame_order import FrameKey, FrameOrder, frame_key
from pixelrefer_ros.tracking.masks import mask_at_frame_size, mask_box
from pixelrefer_ros.tracking.overlaps import (
    decide_relations,
    forget_relations,
    renew_relations,
    start_relations,
)
from pixelrefer_ros.tracking.parts import without_specks
from pixelrefer_ros.tracking.prompts import MaskPrompt, PointPrompt, check_frame
from pixelrefer_ros.tracking.states import StateRules, Visibility
from pixelrefer_ros.tracking.steps import Decoded, Features, Sam2Steps
from pixelrefer_ros.types import MAX_POINTS, Box, Frame, Mask, Track, TrackState


@dataclass(frozen=True, eq=False, slots=True)
class _Given:
    """N objects' result on their prompt frame; ``masks`` where the user drew them, else ``points``."""

    decoded: Decoded
    points: Sequence[PointPrompt] | None = None
    masks: Sequence[Mask] | None = None
    model_masks: Tensor | None = None


class Session:
    """Objects on the rows of a memory bank; see `StreamTracker` for what it means.

    Attributes:
        bank: row i belongs to the i-th of ``object_ids``.
    """

    def __init__(self, sam2: Sam2Steps, rules: StateRules) -> None:
        """Start with no object."""
        self._sam2 = sam2
        self._rules = rules
        self._objects: list[Followed] = []
        self._order = FrameOrder()
        self._number = 0  # of the newest frame
        self.bank = sam2.new_bank()

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects, oldest first."""
        return tuple(item.object_id for item in self._objects)

    def followed(self, object_id: int) -> Followed:
        """What is kept of an object that is followed."""
        return self._objects[self.object_ids.index(object_id)]

    def refinable(self, object_id: int) -> bool:
        """Whether an object is followed and has a mask that points can refine."""
        known = object_id in self.object_ids
        return known and self.followed(object_id).visibility.state == TrackState.TRACKED

    def remove(self, object_id: int) -> None:
        """Forget an object that is followed."""
        row = self.object_ids.index(object_id)
        self.bank.remove(row)
        del self._objects[row]
        forget_relations(object_id, self._objects)

    def clear(self) -> None:
        """Forget every object, and which frames there were."""
        self._objects.clear()
        self._order, self._number = FrameOrder(), 0
        self.bank = self._sam2.new_bank()

    def count(self, frame: Frame) -> None:
        """One more frame is processed."""
        self._number = self._order.process(frame.stamp_ns)

    def due(self, key: FrameKey) -> list[int]:
        """Rows of the objects that must be decoded in a frame: all without a result that are searched."""
        searching = self._rules.find_again_score is not None
        return [
            row
            for row, item in enumerate(self._objects)
            if item.key != key and (searching or item.visibility.state != TrackState.LOST)
        ]

    def tracks(self, frame: Frame) -> list[Track]:
        """Every object's track, once those that are due were propagated."""
        key = frame_key(frame)
        for item in self._objects:
            if item.key != key:  # LOST and not searched for
                item.key = key
                item.report(0.0, np.zeros(check_frame(frame.rgb), np.bool_), None, 0)
        return [item.track for item in self._objects]

    def propagate(self, frame: Frame, features: Features, rows: Sequence[int]) -> None:
        """Decode objects from their memory, and remember what was decoded."""
        items = [self._objects[row] for row in rows]
        for item in items:
            if not item.first_distance:
                item.first_distance = max(self._number - item.prompt_place, 1)
        recall = self.bank.recall(rows, [item.first_distance for item in items], [0] * len(rows))
        found = self._sam2.propagate(self._sam2.with_memory(features, recall), features)
        # Before anybody gives way to it: with others' pixels taken from it, it might pass for an object.
        whole = (found.logits > 0).float().mean(dim=(1, 2)) > self._rules.max_area_fraction
        gone = whole | self._look_alikes(items, found.score)
        decoded = _absent(items, found, gone)
        decide_relations(items, decoded.logits, self._objects, frame_key(frame))
        if self._rules.apart and len(items) > 1:
            decoded = _apart(items, decoded)
        present, believed = self._remember(rows, features, decoded), (~whole).tolist()
        decoded = replace(decoded, score=torch.where(gone, found.score, decoded.score))
        height, width = check_frame(frame.rgb)
        for i, (item, logits, score) in enumerate(zip(items, *_on_host(decoded), strict=True)):
            mask, box, area = self._at_frame_size(logits, height, width)
            visible = believed[i] and self._rules.visible(score, area, mask.size)
            item.visibility.observed(visible, score, frame.stamp_ns, self._rules)
            if present[i]:
                item.remembered.append(self._number)
            item.key, item.logits, item.pointer = frame_key(frame), decoded.logits[i], decoded.pointer[i]
            item.report(score, mask, box, area)

    def _look_alikes(self, items: Sequence[Followed], scores: Tensor) -> Tensor:
        """Which matches of LOST objects are not sure enough to be them, (N,) bool."""
        least = self._rules.find_again_score or 0.0
        needed = [least if item.visibility.state == TrackState.LOST else 0.0 for item in items]
        return scores.sigmoid() < torch.tensor(needed, dtype=scores.dtype, device=scores.device)

    def _remember(self, rows: Sequence[int], features: Features, decoded: Decoded) -> list[bool]:
        """Takes up the frame in the memory of each object that is there; which ones did."""
        present = decoded.score > 0
        if self._rules.remembers_absence:
            present = torch.ones_like(present)
        kept = present.nonzero().flatten()
        if len(kept):
            there = Decoded(decoded.logits[kept], decoded.score[kept], decoded.pointer[kept])
            memory = self._sam2.remember_tracked(features, there)
            self.bank.push([rows[i] for i in kept.tolist()], memory, there.pointer)
        return present.tolist()

    def prompt(
        self, frame: Frame, features: Features, asked: Mapping[int, PointPrompt | MaskPrompt]
    ) -> dict[int, Track]:
        """Prompt different objects on one frame, alike prompts as one batch; return their tracks."""
        masks: dict[int, Mask] = {}
        starts: dict[int, dict[int, PointPrompt]] = {}
        for object_id, prompt in asked.items():
            if isinstance(prompt, MaskPrompt):
                masks[object_id] = prompt.mask
            elif not prompt.is_box and self.refinable(object_id):
                self._start(frame, features, [object_id], self._refined(frame, features, object_id, prompt))
            else:
                starts.setdefault(len(prompt.labels), {})[object_id] = prompt
        size = check_frame(frame.rgb)
        for batch in starts.values():
            points, plain = list(batch.values()), self._sam2.without_memory(features)
            decoded = self._sam2.point_at(plain, features, points, size, first=True)
            self._start(frame, features, list(batch), _Given(decoded, points))
        if masks:
            given = list(masks.values())
            decoded, model_masks = self._sam2.take_masks(features, given)
            self._start(frame, features, list(masks), _Given(decoded, None, given, model_masks))
        return {object_id: self.followed(object_id).track for object_id in asked}

    def _refined(self, frame: Frame, features: Features, object_id: int, prompt: PointPrompt) -> _Given:
        """Correct a TRACKED object by points."""
        row, key = self.object_ids.index(object_id), frame_key(frame)
        item, size = self._objects[row], check_frame(frame.rgb)
        first = key == item.prompt_key
        if first:
            prompt = joined(item.points, prompt, MAX_POINTS)  # as of one region
            conditioned, previous = self._sam2.without_memory(features), item.prompt_logits[None]
        else:
            distance = item.first_distance or max(self._order.place(frame.stamp_ns) - item.prompt_place, 1)
            recall = self.bank.recall([row], [distance], [self._remembered_from(frame, item)])
            conditioned = self._sam2.with_memory(features, recall)
            done = key == item.key
            previous = item.logits[None] if done else self._sam2.propagate(conditioned, features).logits
        decoded = self._sam2.point_at(conditioned, features, [prompt], size, first=first, previous=previous)
        return _Given(decoded, [prompt])

    def _remembered_from(self, frame: Frame, item: Followed) -> int:
        """How many of a TRACKED object's newest memories are of a frame and of those after it."""
        if not frame.stamp_ns:  # a camera that does not stamp: only its newest picture can be told
            return int(item.key == frame_key(frame))
        return item.remembered_from(self._order.first_from(frame.stamp_ns))

    def _start(self, frame: Frame, features: Features, object_ids: Sequence[int], given: _Given) -> None:
        """Make this the prompt frame of objects, new or known, and forget what they remembered."""
        memory = self._sam2.remember_prompted(features, given.decoded, given.model_masks)
        height, width = check_frame(frame.rgb)
        key, place = frame_key(frame), self._order.place(frame.stamp_ns)
        rows = []
        for i, (object_id, logits, score) in enumerate(
            zip(object_ids, *_on_host(given.decoded), strict=True)
        ):
            if given.masks is not None:  # the user's own mask, to the pixel
                mask = given.masks[i].copy()
                box, area, visible = mask_box(mask), int(np.count_nonzero(mask)), True
            else:
                mask, box, area = self._at_frame_size(logits, height, width)
                visible = self._rules.visible(score, area, mask.size)
            item = Followed(
                object_id=object_id,
                prompt_key=key,
                prompt_frame=None if frame.stamp_ns else frame,
                prompt_place=place,
                points=given.points[i] if given.points is not None else None,
                key=key,
                logits=given.decoded.logits[i],
                pointer=given.decoded.pointer[i],
                visibility=Visibility.prompted(visible, frame.stamp_ns),
            )
            item.report(score, mask, box, area)
            rows.append(self._row_for(item))
        self.bank.start(rows, memory, given.decoded.pointer)

    def _at_frame_size(
        self, logits: NDArray[np.float32], height: int, width: int
    ) -> tuple[Mask, Box | None, int]:
        """The mask that is reported, its box and its area, see `mask_at_frame_size`."""
        return mask_at_frame_size(without_specks(logits, self._rules.smallest_part), height, width)

    def _row_for(self, item: Followed) -> int:
        """Put an object in its place, a new one in a new row."""
        if item.object_id in self.object_ids:
            row = self.object_ids.index(item.object_id)
            others = self._objects[:row] + self._objects[row + 1 :]
            renew_relations(item, self._objects[row], others)
            self._objects[row] = item
            return row
        row = self.bank.add()  # first: where there is no memory for it, nothing has changed
        start_relations(item, self._objects)
        self._objects.append(item)
        return row


def _apart(items: Sequence[Followed], decoded: Decoded) -> Decoded:
    """What was decoded of objects that rule each other out."""
    together = [[other.object_id in item.overlaps for other in items] for item in items]
    held = torch.stack([item.logits for item in items]) > 0
    logits, taken = keep_apart(decoded.logits, held, torch.tensor(together, device=decoded.logits.device))
    return _absent(items, replace(decoded, logits=logits), taken)


def _absent(items: Sequence[Followed], decoded: Decoded, gone: Tensor) -> Decoded:
    """What was decoded; those that are ``gone``, (N,) bool, have no pixel and keep their last pointer."""
    pointers = torch.stack([item.pointer for item in items])
    return Decoded(
        torch.where(gone[:, None, None], NOT_THERE, decoded.logits),
        torch.where(gone, NOT_THERE, decoded.score),
        torch.where(gone[:, None], pointers, decoded.pointer),
    )


def _on_host(decoded: Decoded) -> tuple[NDArray[np.float32], list[float]]:
    """Mask logits and object probabilities on the CPU: one copy for all objects."""
    return decoded.logits.cpu().numpy(), decoded.score.sigmoid().cpu().tolist()
