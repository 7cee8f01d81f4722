# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint lies: a folder on this machine, or an id on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model.weights import refuse_pickle
from pixelrefer_ros.runtime.hub import fetch_checkpoint, is_hub_id

_PATTERNS = ["*.safetensors", "*.json", "*.txt"]


def find_checkpoint(path_or_id: str | Path) -> tuple[Path, str]:
    """Finds the folder of a checkpoint, fetching it from the hub if it is an id and not yet on this machine.

    Returns:
        The folder, and the model's name: the last part of the path or id.

    Raises:
        CheckpointError: no such folder, a pickled file, or the hub cannot be reached.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path, path.resolve().name
    refuse_pickle(path)
    if path.exists():
        raise CheckpointError(f"{path} is a file: give the folder of the checkpoint")
    if not isinstance(path_or_id, str) or not is_hub_id(path_or_id):
        raise CheckpointError(
            f"{path_or_id} does not exist: give the folder of a checkpoint, or a hub id like owner/name"
        )
    return fetch_checkpoint(path_or_id, _PATTERNS), path_or_id.rpartition("/")[2]
