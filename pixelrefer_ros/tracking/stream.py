# SPDX-License-Identifier: Apache-2.0
"""SAM 2 on a live stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pixelrefer_ros.errors import EmptyRegion, NoSuchObject, Overloaded, ParameterError
from pixelrefer_ros.runtime import BackendInUse, choose_backend, open_backend
from pixelrefer_ros.tracking.checkpoint import load_sam2
from pixelrefer_ros.tracking.frame_order import FrameKey, frame_key
from pixelrefer_ros.tracking.graphs import open_tracker
from pixelrefer_ros.tracking.prompts import MaskPrompt, PointPrompt, check_frame, to_prompt
from pixelrefer_ros.tracking.sam2 import Sam2
from pixelrefer_ros.tracking.session import Session
from pixelrefer_ros.tracking.states import StateRules
from pixelrefer_ros.tracking.steps import Features, Sam2Steps
from pixelrefer_ros.types import Frame, Region, Track

if TYPE_CHECKING:
    from transformers import Sam2VideoModel


class StreamTracker:
    """SAM 2 with objects that come, are corrected and go while others are followed.

    Each object remembers its prompt frame, its 6 newest memories and 16 pointers; objects run as one
    batch, and influence each other only by being in different places, see `StateRules`. Memory does not grow
    with the stream.

    Time is counted in frames that were processed: a camera frame that was never given to `track` does
    not exist for the memory, nor does one in which the object was absent, see `StateRules`. The newest
    memory is one step back, whatever the camera skipped. A prompt on an older frame is placed where that
    frame stood among the processed ones (a skipped frame at the processed one before it), and the object
    goes straight from there to the next frame tracked.

    **Corrections.** A box or a mask says what the whole object is: it starts the object anew on that
    frame, as its first prompt did, without memory, because memory is what led the tracker astray. (SAM 2
    was trained with boxes on first prompts only.) Points refine what is followed: the object's memory
    from before that frame conditions the decoder, the mask it has there is given back as a prompt, and
    points given on the same prompt frame add up; that is how SAM 2 was trained to take corrective clicks.
    An object that is not TRACKED has no mask to refine, so that points start it anew, too. Either way
    the corrected frame becomes the prompt frame, whose memory is never dropped, and all other history is
    forgotten: the frames in between hold the very mistake that was corrected, and, newest first, would
    outvote the correction. What the history knew lives on in the refined mask.

    Attributes:
        in_use: what computes the model, and why.
    """

    def __init__(
        self,
        model: Sam2VideoModel | Sam2Steps,
        *,
        max_objects: int = 16,
        states: StateRules | None = None,
        in_use: BackendInUse | None = None,
    ) -> None:
        """Follow objects with ``model``, in its device and dtype.

        Args:
            model: in evaluation mode; its weights are shared, not copied. Or the steps of a model whose
                components somebody else computes.
            max_objects: objects at one time.
            states: when an object counts as visible and as lost.
            in_use: what computes the model; None: torch.

        Raises:
            ParameterError: ``max_objects`` is below 1.
        """
        if max_objects < 1:
            raise ParameterError(f"max_objects is {max_objects}: give 1 or more")
        with torch.inference_mode():
            self._sam2 = model if isinstance(model, Sam2Steps) else Sam2(model)
        self.in_use = in_use or _in_torch(self._sam2, "the model is torch's")
        self._max_objects = max_objects
        self._session = Session(self._sam2, states or StateRules())
        self._encoded: tuple[FrameKey, Frame, Features] | None = None
        self._newest: Frame | None = None  # kept alive: without stamps, the array is a frame's identity

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
        backend: str = "auto",
        engines: Path | None = None,
    ) -> StreamTracker:
        """Load a SAM 2 checkpoint, or open an exported one.

        Args:
            path_or_id: a folder in the transformers format, one of Meta's ``.pt`` files (or a folder
                with one), a hub id such as ``facebook/sam2.1-hiera-tiny``, or an exported folder.
            device: ``cpu``, ``cuda`` or ``cuda:N``.
            dtype: ``float32``, ``bfloat16`` (``bf16``) or ``float16`` (``fp16``); an exported folder has its
                own.
            image_size: side of the model's square input, pixels, a multiple of 32; None: as in the
                checkpoint's config. Cost grows with its square to its fourth power. An exported folder
                has its own.
            max_objects: objects at one time.
            states: when an object counts as visible and as lost.
            backend: what computes the model, see `pixelrefer_ros.runtime.choose_backend`.
            engines: where an exported folder's TensorRT engines lie; None: in the folder.

        Raises:
            CheckpointError: the checkpoint cannot be read.
            ParameterError: a setting outside its bounds, or not the one of the exported folder.
            BackendError: the backend cannot run the exported folder.
        """
        path = Path(path_or_id).expanduser()
        folder = path if path.is_dir() else None
        chosen, reason = choose_backend(backend, folder, device, engines)
        sam2: Sam2Steps
        if folder is not None and chosen != "torch":
            opened = open_backend(chosen, device, engines)
            sam2 = open_tracker(folder, opened, device=device, image_size=image_size)
            most = sam2.objects_in_one_run
            if most is not None and most < max_objects:
                reason += f"; its graphs take {most} objects in one run, so more than that in several"
            in_use = BackendInUse(opened.name, str(sam2.device), sam2.manifest.precision, reason)
        else:
            with torch.inference_mode():
                sam2 = Sam2(load_sam2(path_or_id, device=device, dtype=dtype, image_size=image_size))
            in_use = _in_torch(sam2, reason)
        return cls(sam2, max_objects=max_objects, states=states, in_use=in_use)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects followed now, oldest first."""
        return self._session.object_ids

    @property
    def image_size(self) -> int:
        """Side of the model's input, pixels."""
        return self._sam2.image_size

    @property
    def memory_nbytes(self) -> int:
        """Bytes of the objects' memory slots."""
        return self._session.bank.nbytes

    def remove(self, object_id: int) -> None:
        """Forget one object and free its slots.

        Raises:
            NoSuchObject: the id is not followed.
        """
        if object_id not in self.object_ids:
            raise NoSuchObject(f"object {object_id} is not followed: the tracker has {list(self.object_ids)}")
        self._session.remove(object_id)

    def clear(self) -> None:
        """Forget every object and every frame: what comes next may be another stream."""
        self._session.clear()
        self._encoded = self._newest = None

    @torch.inference_mode()
    def prompt(self, frame: Frame, regions: Sequence[Region]) -> list[Track]:
        """Start or correct objects on a frame; see `Tracker.prompt`."""
        height, width = check_frame(frame.rgb)
        asked = [(region.object_id, to_prompt(region, height, width)) for region in regions]
        self._check(asked)
        tracks: dict[int, Track] = {}
        waiting = list(enumerate(asked))
        while waiting:  # an id named twice is started, then corrected
            now: dict[int, tuple[int, PointPrompt | MaskPrompt]] = {}
            for place, (object_id, prompt) in waiting:
                now.setdefault(object_id, (place, prompt))
            batch = {object_id: prompt for object_id, (_, prompt) in now.items()}
            given = self._session.prompt(frame, self._features(frame), batch)
            tracks |= {place: given[object_id] for object_id, (place, _) in now.items()}
            waiting = [item for item in waiting if item[0] not in tracks]
        return [tracks[place] for place in range(len(asked))]

    @torch.inference_mode()
    def track(self, frame: Frame) -> list[Track]:
        """Follow every object to a frame; see `Tracker.track`."""
        check_frame(frame.rgb)
        key = frame_key(frame)
        if self._newest is None or frame_key(self._newest) != key:
            self._session.count(frame)
            self._newest = frame
        if due := self._session.due(key):
            self._session.propagate(frame, self._features(frame), due)
        return self._session.tracks(frame)

    def _check(self, asked: Sequence[tuple[int, PointPrompt | MaskPrompt]]) -> None:
        """Refuse a prompt as a whole, before anything changes."""
        known = set(self.object_ids)
        new = {object_id for object_id, _ in asked} - known
        if len(known) + len(new) > self._max_objects:
            raise Overloaded(
                f"{len(known)} objects are followed and {len(new)} more were asked for, the bound is "
                f"{self._max_objects}: remove an object first, or raise max_objects"
            )
        earlier: set[int] = set()
        for object_id, prompt in asked:
            in_view = object_id in earlier or self._session.refinable(object_id)
            if isinstance(prompt, PointPrompt) and not in_view and not (prompt.labels > 0).any():
                raise EmptyRegion(
                    f"object {object_id} is not in view, and no point is on it: give at least one point "
                    "with label 1"
                )
            earlier.add(object_id)

    def _features(self, frame: Frame) -> Features:
        """The frame's features, computed once while it stays the last frame looked at."""
        key = frame_key(frame)
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = None  # free the old ones before the new ones are made
            self._encoded = (key, frame, self._sam2.encode(frame.rgb))
        return self._encoded[2]


def _in_torch(sam2: Sam2Steps, reason: str) -> BackendInUse:
    return BackendInUse("torch", str(sam2.device), str(sam2.dtype).removeprefix("torch."), reason)
