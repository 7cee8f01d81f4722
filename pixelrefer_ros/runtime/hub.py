# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the Hugging Face hub: fetched once, then read from its cache without asking anybody."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pixelrefer_ros.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def is_hub_id(name: str | Path) -> bool:
    """Whether a name can be that of a checkpoint on the hub: ``owner/name``."""
    return isinstance(name, str) and _HUB_ID.fullmatch(name) is not None


def fetch_checkpoint(hub_id: str, patterns: Sequence[str]) -> Path:
    """The folder of a checkpoint of the hub in the cache of this machine, fetched if it is not whole there.

    A robot that has it never waits for a network, and runs the same weights until somebody fetches others.

    Args:
        hub_id: ``owner/name``.
        patterns: names of the files that are needed; others are not fetched.

    Raises:
        CheckpointError: it is not there, and the hub does not give it.
    """
    from huggingface_hub import snapshot_download  # only here is a network wanted
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(hub_id, allow_patterns=list(patterns), local_files_only=True))
        if _has_weights(cached):
            return cached
    except LocalEntryNotFoundError:  # nothing of it, or an interrupted download
        pass
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's own errors, and those of the network below it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{hub_id} is no folder here and cannot be fetched from the hub ({reason}): "
            "download it on a machine with network and give its folder"
        ) from error


def _has_weights(folder: Path) -> bool:
    """Whether config and weights are there; what lists the files may be missing where they were cached."""
    names = [_CONFIG, _WEIGHTS]
    if (folder / _INDEX).is_file():
        try:
            names = [
                _CONFIG,
                *json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values(),
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
    return all((folder / str(name)).is_file() for name in names)
