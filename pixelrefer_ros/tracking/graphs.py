# SPDX-License-Identifier: Apache-2.0
"""SAM 2's steps with its components computed by compiled graphs."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.runtime import Backend, Manifest, named_device, read_manifest, torch_dtype
from pixelrefer_ros.runtime.manifest import MANIFEST
from pixelrefer_ros.tracking.batches import ObjectBatches
from pixelrefer_ros.tracking.memory import Recall
from pixelrefer_ros.tracking.pixels import to_pixels
from pixelrefer_ros.tracking.shape import Sam2Shape
from pixelrefer_ros.tracking.steps import Decoded, Features, Sam2Steps
from pixelrefer_ros.types import RgbImage

GRAPHS = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder")
DOWNSAMPLE = 4
"""Side of the kernel, and stride, that makes a decoder's prompt of a given mask."""


class GraphSam2(Sam2Steps):
    """An exported SAM 2 under a backend.

    Attributes:
        manifest: of its folder.
        objects_in_one_run: that every graph takes, as exported or as its engine was built (None: any number);
            more are computed in several runs, one after the other.
    """

    def __init__(self, folder: Path, backend: Backend, *, device: torch.device) -> None:
        """Open the graphs of a folder.

        Args:
            folder: with the ``manifest.json`` of an exported tracker.
            backend: runs the graphs.
            device: where the backend's tensors lie.

        Raises:
            CheckpointError: this is no exported tracker, a setting or graph is missing, or a file is another
                than the manifest says.
            BackendError: the backend cannot run it.
        """
        self.manifest = manifest = read_manifest(folder)
        if manifest.kind != "sam2":
            raise CheckpointError(
                f"{folder / MANIFEST}: kind is {manifest.kind!r}: give an exported tracker (sam2) here"
            )
        try:
            shape = Sam2Shape.from_settings(manifest.settings)
            self._weight, self._bias = _mask_downsample(manifest, device)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder / MANIFEST}: {error}: export the tracker again with `pixelrefer export`"
            ) from error
        graphs = [manifest.graph(name, folder) for name in GRAPHS]
        try:
            dtype = torch_dtype(graphs[1].input("features").dtype)
        except KeyError as error:
            raise CheckpointError(f"{folder / MANIFEST}: graphs.{GRAPHS[1]} has no input {error}") from error
        super().__init__(shape, device=device, dtype=dtype)
        sessions = [ObjectBatches(backend.open(folder, graph)) for graph in graphs]
        self._encode, self._attend, self._decode, self._remember = sessions
        self.objects_in_one_run = min(
            (session.most for session in sessions if session.most is not None), default=None
        )

    def encode(self, rgb: RgbImage) -> Features:
        """See `Sam2Steps.encode`."""
        pixels = to_pixels(rgb, self.image_size).to(self.device)
        return Features(**self._encode.run({"pixels": pixels}))

    def with_memory(self, features: Features, recall: Recall) -> Tensor:
        """See `Sam2Steps.with_memory`."""
        memory_valid, pointer_valid = recall.memory_valid, recall.pointer_valid
        if memory_valid is None or pointer_valid is None:
            memory_valid = torch.ones(recall.memory.shape[:2], dtype=torch.bool, device=self.device)
            pointer_valid = torch.ones(recall.pointers.shape[:2], dtype=torch.bool, device=self.device)
        return self._attend.run(
            {
                "features": features.coarse,
                "memory": recall.memory,
                "memory_valid": memory_valid,
                "pointers": recall.pointers,
                "pointer_distance": recall.pointer_distance,
                "pointer_valid": pointer_valid,
            }
        )["conditioned"]

    def decode(
        self,
        conditioned: Tensor,
        features: Features,
        points: Tensor,
        labels: Tensor,
        mask: Tensor | None,
        *,
        best: bool,
    ) -> Decoded:
        """See `Sam2Steps.decode`."""
        count, given = points.shape[0], mask is not None
        if mask is None:
            mask = torch.zeros(count, *features.skip0.shape[-2:], device=self.device)
        return Decoded(
            **self._decode.run(
                {
                    "conditioned": conditioned.expand(count, -1, -1, -1).contiguous(),
                    "skip0": features.skip0,
                    "skip1": features.skip1,
                    "points": points,
                    "labels": labels,
                    "mask": mask.contiguous(),
                    "mask_given": torch.full((count,), given, device=self.device),
                    "take_best": torch.full((count,), best, device=self.device),
                }
            )
        )

    def remember(self, features: Features, mask: Tensor, present: Tensor) -> Tensor:
        """See `Sam2Steps.remember`."""
        feeds = {"features": features.coarse, "mask": mask.contiguous(), "present": present}
        return self._remember.run(feeds)["memory"]

    def shrink_mask(self, full: Tensor) -> Tensor:
        """See `Sam2Steps.shrink_mask`."""
        return F.conv2d(full[:, None], self._weight, self._bias, stride=DOWNSAMPLE)[:, 0]


def open_tracker(folder: Path, backend: Backend, *, device: str, image_size: int | None) -> GraphSam2:
    """Open an exported tracker; arguments and errors as `StreamTracker.from_pretrained`.

    Args:
        folder: with a ``manifest.json``.
        backend: runs its graphs.
        device: where it runs.
        image_size: None, or the one it was exported with.
    """
    sam2 = GraphSam2(folder, backend, device=named_device(device))
    if image_size not in (None, sam2.image_size):
        raise ParameterError(
            f"image_size is {image_size}, but {folder} was exported with {sam2.image_size}: leave it out, "
            f"or export with --image-size {image_size}"
        )
    return sam2


def _mask_downsample(manifest: Manifest, device: torch.device) -> tuple[Tensor, Tensor]:
    """The 17 numbers that make a decoder's prompt of a given mask: (1, 1, 4, 4) and (1,)."""
    numbers = manifest.settings["mask_downsample"]
    weight = torch.tensor(numbers["weight"], dtype=torch.float32, device=device)
    bias = torch.tensor(numbers["bias"], dtype=torch.float32, device=device)
    if weight.numel() != DOWNSAMPLE**2 or bias.numel() != 1:
        raise ValueError(
            f"settings.mask_downsample has {weight.numel()} and {bias.numel()} numbers, not "
            f"{DOWNSAMPLE**2} and 1"
        )
    return weight.view(1, 1, DOWNSAMPLE, DOWNSAMPLE), bias.view(1)
