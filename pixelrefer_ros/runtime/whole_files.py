# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, also when the disk is full or the machine goes off."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from av import FFmpegError
    from typing_extensions import Buffer

PART = ".part"
"""How the names of files end that are not yet whole."""


def write_whole(path: Path, content: Buffer) -> None:
    """Writes a file whole or not at all: no half file is left, also when the disk is full.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file whole or not at all.

    Args:
        path: of the file; its folder is there.
        tensors: by name.
        metadata: of the file's header.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    unfinished = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        save_file(dict(tensors), unfinished, metadata=None if metadata is None else dict(metadata))
        os.replace(unfinished, path)
    except SafetensorError as error:  # in it is the system's own error, as text
        number = re.search(r"os error (\d+)", str(error))
        reason = os.strerror(int(number[1])) if number else str(error)
        raise OSError(int(number[1]) if number else None, reason, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def not_written(place: str, error: OSError | FFmpegError) -> str:
    """The line for people: what cannot be written, why, and what to do.

    Args:
        place: the file or folder that was asked for, after the option that asks for it.
        error: what was raised.
    """
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is not None and not str(place).endswith(str(error.filename)):
        reason += f": {error.filename}"
    return f"{place} cannot be written ({reason}): make room there, or choose another place"
