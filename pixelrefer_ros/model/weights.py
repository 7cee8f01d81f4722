# SPDX-License-Identifier: Apache-2.0
"""The weight files of a checkpoint folder, read tensor by tensor. Safetensors only: pickles run code."""

from __future__ import annotations

from collections.abc import KeysView
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model.config import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})


def refuse_pickle(path: Path) -> None:
    """Refuses a pickled weight file.

    Raises:
        CheckpointError: the name ends as pickled weights do.
    """
    if path.suffix.lower() in PICKLED:
        raise CheckpointError(
            f"{path} is a pickled weight file, which can run code when it is read: "
            "convert it to safetensors and give that folder"
        )


class WeightFiles:
    """All tensors of a folder: ``model.safetensors``, or the shards its index names.

    Nothing is read before it is asked for, and no file stays mapped afterwards, so that loading needs
    the memory of the model and one tensor.

    Raises:
        CheckpointError: there are no safetensors, a shard is missing or is no valid file, or the index
            points outside the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = self._find_files()
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            self._read_header(path)

    @property
    def names(self) -> KeysView[str]:
        """The names of all tensors."""
        return self._shapes.keys()

    def shape(self, key: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None where the files have none of that name."""
        return self._shapes.get(key)

    def read(self, key: str, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """One tensor in its own memory, converted and placed.

        Raises:
            CheckpointError: the tensor is not floating point (quantised), or cannot be read.
        """
        path = self._file_of[key]
        try:
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(key)
                if not tensor.is_floating_point():
                    raise CheckpointError(
                        f"{path}: {key} is {tensor.dtype}; only float32, float16 and bfloat16 can be loaded"
                    )
                # A copy, always: a tensor that stays mapped dies with its file.
                return tensor.to(device=device, dtype=dtype, copy=True)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: {key} cannot be read: {error}") from error

    def _read_header(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    self._file_of[key] = path
                    self._shapes[key] = tuple(file.get_slice(key).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error

    def _find_files(self) -> tuple[Path, ...]:
        index = self.folder / INDEX
        if index.is_file():
            return self._shards(index)
        if (self.folder / SINGLE).is_file():
            return (self.folder / SINGLE,)
        for path in sorted(self.folder.iterdir()):
            refuse_pickle(path)
        raise CheckpointError(
            f"{self.folder} holds neither {SINGLE} nor {INDEX}: give the folder of a checkpoint"
        )

    def _shards(self, index: Path) -> tuple[Path, ...]:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index} has no weight_map: download the checkpoint again")
        shards = []
        for name in sorted({str(value) for value in weight_map.values()}):
            path = self.folder / name
            refuse_pickle(path)
            if Path(name).name != name or path.suffix != ".safetensors":
                raise CheckpointError(
                    f"{index} names {name!r}: a shard must be a .safetensors file of the same folder"
                )
            if not path.is_file():
                raise CheckpointError(
                    f"{path} is missing, but {INDEX} names it: download the checkpoint again"
                )
            shards.append(path)
        return tuple(shards)
