# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint lies: a folder on this machine, or an id on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model.weights import refuse_pickle

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
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
    if not isinstance(path_or_id, str) or not _HUB_ID.fullmatch(path_or_id):
        raise CheckpointError(
            f"{path_or_id} does not exist: give the folder of a checkpoint, or a hub id like owner/name"
        )
    from huggingface_hub import snapshot_download  # only here is a network wanted

    try:
        folder = snapshot_download(path_or_id, allow_patterns=_PATTERNS)
    except Exception as error:  # the hub's own errors, and those of the network below it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path_or_id} is no folder here and cannot be fetched from the hub ({reason}): "
            "download it on a machine with network and give its folder"
        ) from error
    return Path(folder), path_or_id.rpartition("/")[2]
