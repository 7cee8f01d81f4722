# SPDX-License-Identifier: Apache-2.0
"""SAM 2 on a live stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Sam2VideoModel

from pixelrefer_ros.errors import EmptyRegion, NoSuchObject, Overloaded, ParameterError
from pixelrefer_ros.tracking.checkpoint import load_sam2
from pixelrefer_ros.tracking.followed import Followed, joined
from pixelrefer_ros.tracking.frame_order import FrameKey, FrameOrder, frame_key
from pixelrefer_ros.tracking.masks import mask_at_frame_size, mask_box
from pixelrefer_ros.tracking.prompts import MAX_POINTS, MaskPrompt, PointPrompt, check_frame, to_prompt
from pixelrefer_ros.tracking.sam2 import Decoded, Features, Sam2
from pixelrefer_ros.tracking.states import StateRules, Visibility
from pixelrefer_ros.types import Frame, Mask, Region, Track, TrackState

Asked = tuple[int, PointPrompt | MaskPrompt]


class StreamTracker:
    """SAM 2 with objects that come, are corrected and go while others are followed.

    Each object remembers its prompt frame, its 6 newest memories and 16 pointers; objects run as one
    batch and do not influence each other. Memory does not grow with the stream.

    Time is counted in frames that were processed: a camera frame that was never given to `track` does
    not exist for the memory. The newest memory is one step back, whatever the camera skipped. A prompt
    on an older frame is placed where that frame stood among the processed ones (a skipped frame at the
    processed one before it), and the object goes straight from there to the next frame tracked.

    **Corrections.** A box or a mask says what the whole object is: it starts the object anew on that
    frame, as its first prompt did, without memory, because memory is what led the tracker astray. (SAM 2
    was trained with boxes on first prompts only.) Points refine what is followed: the object's memory
    from before that frame conditions the decoder, the mask it has there is given back as a prompt, and
    points given on the same prompt frame add up; that is how SAM 2 was trained to take corrective clicks.
    An object that is not TRACKED has no mask to refine, so that points start it anew, too. Either way
    the corrected frame becomes the prompt frame, whose memory is never dropped, and all other history is
    forgotten: the frames in between hold the very mistake that was corrected, and, newest first, would
    outvote the correction. What the history knew lives on in the refined mask.
    """

    def __init__(
        self, model: Sam2VideoModel, *, max_objects: int = 16, states: StateRules | None = None
    ) -> None:
        """Follow objects with ``model``, in its device and dtype.

        Args:
            model: in evaluation mode; its weights are shared, not copied.
            max_objects: objects at one time.
            states: when an object counts as visible and as lost.

        Raises:
            ParameterError: ``max_objects`` is below 1.
        """
        if max_objects < 1:
            raise ParameterError(f"max_objects is {max_objects}: give 1 or more")
        with torch.inference_mode():
            self._sam2 = Sam2(model)
        self._max_objects = max_objects
        self._rules = states or StateRules()
        self._bank = self._sam2.new_bank()
        self._objects: list[Followed] = []  # in the order of the bank's rows
        self._order = FrameOrder()
        self._encoded: tuple[FrameKey, Frame, Features] | None = None
        self._newest: Frame | None = None
        self._number = 0  # of the newest frame, in self._order

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        image_size: int | None = None,
        max_objects: int = 16,
        states: StateRules | None = None,
    ) -> StreamTracker:
        """Load a SAM 2 checkpoint.

        Args:
            path_or_id: a folder in the transformers format, one of Meta's ``.pt`` files (or a folder
                with one), or a hub id such as ``facebook/sam2.1-hiera-tiny``.
            device: ``cpu``, ``cuda`` or ``cuda:N``.
            dtype: ``float32``, ``bfloat16`` or ``float16``.
            image_size: side of the model's square input, pixels, a multiple of 32; None: as in the
                checkpoint's config. Cost grows with its square to its fourth power.
            max_objects: objects at one time.
            states: when an object counts as visible and as lost.

        Raises:
            CheckpointError: the checkpoint cannot be read.
            ParameterError: a setting outside its bounds.
        """
        model = load_sam2(path_or_id, device=device, dtype=dtype, image_size=image_size)
        return cls(model, max_objects=max_objects, states=states)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects followed now, oldest first."""
        return tuple(item.object_id for item in self._objects)

    @property
    def image_size(self) -> int:
        """Side of the model's input, pixels."""
        return self._sam2.image_size

    @property
    def memory_nbytes(self) -> int:
        """Bytes of the objects' memory slots."""
        return self._bank.nbytes

    def remove(self, object_id: int) -> None:
        """Forget one object and free its slots.

        Raises:
            NoSuchObject: the id is not followed.
        """
        row = self._row(object_id)
        if row is None:
            raise NoSuchObject(f"object {object_id} is not followed: the tracker has {list(self.object_ids)}")
        self._bank.remove(row)
        del self._objects[row]

    def clear(self) -> None:
        """Forget every object, and the last picture."""
        self._objects.clear()
        self._bank = self._sam2.new_bank()
        self._encoded = None

    @torch.inference_mode()
    def prompt(self, frame: Frame, regions: Sequence[Region]) -> list[Track]:
        """Start or correct objects on a frame; see `Tracker.prompt`."""
        height, width = check_frame(frame.rgb)
        asked = [(region.object_id, to_prompt(region, height, width)) for region in regions]
        self._check_bounds(asked)
        if not asked:
            return []
        features = self._features(frame)
        tracks: dict[int, Track] = {}
        waiting = list(enumerate(asked))
        while waiting:  # an id named twice is started, then corrected
            now: dict[int, tuple[int, PointPrompt | MaskPrompt]] = {}
            for place, (object_id, prompt) in waiting:
                now.setdefault(object_id, (place, prompt))
            self._prompt_batch(frame, features, {object_id: prompt for object_id, (_, prompt) in now.items()})
            tracks |= {place: self._objects[self._known_row(i)].track for i, (place, _) in now.items()}
            waiting = [item for item in waiting if item[0] not in tracks]
        return [tracks[place] for place in range(len(asked))]

    @torch.inference_mode()
    def track(self, frame: Frame) -> list[Track]:
        """Follow every object to a frame; see `Tracker.track`."""
        height, width = check_frame(frame.rgb)
        key = frame_key(frame)
        if self._newest is None or frame_key(self._newest) != key:
            self._number = self._order.process(frame.stamp_ns)
            self._newest = frame
        rows = [row for row, item in enumerate(self._objects) if item.key != key and self._searched(item)]
        if rows:
            self._propagate(frame, rows)
        for item in self._objects:
            if item.key != key:  # LOST and not searched for
                item.key = key
                item.report(0.0, np.zeros((height, width), np.bool_), None, 0)
        return [item.track for item in self._objects]

    def _searched(self, item: Followed) -> bool:
        return item.visibility.state != TrackState.LOST or self._rules.find_again_score is not None

    def _propagate(self, frame: Frame, rows: Sequence[int]) -> None:
        """Decode objects from their memory, and remember what was decoded."""
        items = [self._objects[row] for row in rows]
        features = self._features(frame)
        for item in items:
            if not item.first_distance:
                item.first_distance = max(self._number - item.prompt_place, 1)
        recall = self._bank.recall(rows, [item.first_distance for item in items], [0] * len(rows))
        decoded = self._sam2.propagate(self._sam2.with_memory(features, recall), features)
        self._bank.push(rows, self._sam2.remember_tracked(features, decoded), decoded.pointer)
        height, width = check_frame(frame.rgb)
        for i, (item, logits, score) in enumerate(zip(items, *_on_host(decoded), strict=True)):
            mask, box, area = mask_at_frame_size(logits, height, width)
            visible = self._rules.visible(score, area, mask.size)
            item.visibility.observed(visible, score, frame.stamp_ns, self._rules)
            item.stamps.append(frame.stamp_ns)
            item.key, item.logits = frame_key(frame), decoded.logits[i]
            item.report(score, mask, box, area)

    def _prompt_batch(
        self, frame: Frame, features: Features, asked: dict[int, PointPrompt | MaskPrompt]
    ) -> None:
        """Prompt different objects on one frame, alike prompts as one batch."""
        masks: list[tuple[int, MaskPrompt]] = []
        starts: dict[int, list[tuple[int, PointPrompt]]] = {}
        for object_id, prompt in asked.items():
            if isinstance(prompt, MaskPrompt):
                masks.append((object_id, prompt))
            elif not prompt.is_box and self._refinable(object_id):
                self._refine(frame, features, object_id, prompt)
            else:
                starts.setdefault(len(prompt.labels), []).append((object_id, prompt))
        size = check_frame(frame.rgb)
        for batch in starts.values():
            prompts = [prompt for _, prompt in batch]
            conditioned = self._sam2.without_memory(features)
            decoded = self._sam2.point_at(conditioned, features, prompts, size, first=True)
            self._start(frame, features, [i for i, _ in batch], decoded, prompts)
        if masks:
            given = [prompt.mask for _, prompt in masks]
            decoded, full = self._sam2.take_masks(features, given)
            self._start(frame, features, [i for i, _ in masks], decoded, None, full, given)

    def _refine(self, frame: Frame, features: Features, object_id: int, prompt: PointPrompt) -> None:
        """Correct a TRACKED object by points."""
        row = self._known_row(object_id)
        item, key, size = self._objects[row], frame_key(frame), check_frame(frame.rgb)
        if key == item.prompt_key:
            prompt = joined(item.points, prompt, MAX_POINTS)
            conditioned, first = self._sam2.without_memory(features), True
        else:
            back = item.frames_at_or_after(frame.stamp_ns)
            distance = item.first_distance or max(self._order.place(frame.stamp_ns) - item.prompt_place, 1)
            recall = self._bank.recall([row], [distance], [back])
            conditioned, first = self._sam2.with_memory(features, recall), False
        previous = (
            item.logits[None] if key == item.key else self._sam2.propagate(conditioned, features).logits
        )
        decoded = self._sam2.point_at(conditioned, features, [prompt], size, first=first, previous=previous)
        self._start(frame, features, [object_id], decoded, [prompt])

    def _start(
        self,
        frame: Frame,
        features: Features,
        object_ids: Sequence[int],
        decoded: Decoded,
        points: Sequence[PointPrompt] | None,
        full: Tensor | None = None,
        given: Sequence[Mask] | None = None,
    ) -> None:
        """Make this frame the prompt frame of objects, new or known; forget what they remembered."""
        memory = self._sam2.remember_prompted(features, decoded, full)
        height, width = check_frame(frame.rgb)
        place, key = self._order.place(frame.stamp_ns), frame_key(frame)
        rows = []
        for i, (object_id, logits, score) in enumerate(zip(object_ids, *_on_host(decoded), strict=True)):
            if given is None:
                mask, box, area = mask_at_frame_size(logits, height, width)
                visible = self._rules.visible(score, area, mask.size)
            else:  # the user's own mask, to the pixel
                mask = given[i].copy()
                box, area, visible = mask_box(mask), int(np.count_nonzero(mask)), True
            item = Followed(
                object_id=object_id,
                prompt_key=key,
                prompt_place=place,
                points=points[i] if points else None,
                key=key,
                logits=decoded.logits[i],
                visibility=Visibility.prompted(visible, frame.stamp_ns),
            )
            item.report(score, mask, box, area)
            row = self._row(object_id)
            if row is None:
                row = self._bank.add()
                self._objects.append(item)
            else:
                self._objects[row] = item
            rows.append(row)
        self._bank.start(rows, memory, decoded.pointer)

    def _check_bounds(self, asked: Sequence[Asked]) -> None:
        """Refuse a prompt as a whole, before anything changes."""
        known = set(self.object_ids)
        new = {object_id for object_id, _ in asked} - known
        if len(known) + len(new) > self._max_objects:
            raise Overloaded(
                f"{len(known)} objects are followed and {len(new)} more were asked for, the bound is "
                f"{self._max_objects}: remove an object first, or raise max_objects"
            )
        first_prompts: set[int] = set()
        for object_id, prompt in asked:
            refines = object_id in first_prompts or self._refinable(object_id)
            if isinstance(prompt, PointPrompt) and not refines and not (prompt.labels > 0).any():
                raise EmptyRegion(
                    f"object {object_id} is not in view, and no point is on it: give at least one point with label 1"
                )
            first_prompts.add(object_id)

    def _refinable(self, object_id: int) -> bool:
        row = self._row(object_id)
        return row is not None and self._objects[row].visibility.state == TrackState.TRACKED

    def _features(self, frame: Frame) -> Features:
        """The frame's features, computed once while it stays the last frame looked at."""
        key = frame_key(frame)
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = None  # free the old ones before the new ones are made
            self._encoded = (key, frame, self._sam2.encode(frame.rgb))
        return self._encoded[2]

    def _row(self, object_id: int) -> int | None:
        return next((row for row, item in enumerate(self._objects) if item.object_id == object_id), None)

    def _known_row(self, object_id: int) -> int:
        row = self._row(object_id)
        if row is None:
            raise NoSuchObject(f"object {object_id} is not followed: the tracker has {list(self.object_ids)}")
        return row


def _on_host(decoded: Decoded) -> tuple[np.ndarray, list[float]]:
    """Mask logits and object probabilities on the CPU: one copy for all objects."""
    return decoded.logits.cpu().numpy(), decoded.score.sigmoid().cpu().tolist()
