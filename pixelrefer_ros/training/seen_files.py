# SPDX-License-Identifier: Apache-2.0
"""Questions about views as files: each whole or not there, and of use only to what it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pixelrefer_ros.runtime.whole_files import write_tensors
from pixelrefer_ros.training.asked import Asked
from pixelrefer_ros.training.infusion_views import Seen
from pixelrefer_ros.training.object_facts import Facts
from pixelrefer_ros.training.text_rows import IGNORED, TextRows
from pixelrefer_ros.training.world import OFFERED

_DEPENDS = "depends_on"
_KINDS = tuple(OFFERED)
_OF_VIEWS = ("tokens", "whole", "frame_of", "own")


class SeenFiles:
    """By number, in safetensors.

    Args:
        folder: made with the first file.
        process: of a run; each has files of its own.
    """

    def __init__(self, folder: Path, process: int) -> None:
        self._folder, self._process = folder, process

    def depends_on(self, number: int) -> str | None:
        """What it was written with; None where there is no file that can be read."""
        try:
            with safe_open(self._path(number), framework="pt") as file:
                return (file.metadata() or {}).get(_DEPENDS)
        except (SafetensorError, OSError):
            return None

    def write(self, number: int, depends_on: str, asked: Asked, seen: Seen | None = None) -> None:
        """Takes the place of what is there, in one step.

        Args:
            number: of the file.
            depends_on: what has to be the same for it to be of use.
            asked: questions; with what is projected of their views, if they have it.
            seen: these views, as long as nothing is projected.
        """
        tensors = _of_questions(asked)
        if seen is not None:
            tensors |= {name: getattr(seen, name) for name in _OF_VIEWS}
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(number)
        whole = {name: value.cpu().contiguous() for name, value in tensors.items()}
        write_tensors(path, whole, {_DEPENDS: depends_on})

    def asked(self, number: int) -> Asked:
        """The questions."""
        return _questions(self._read(number))

    def seen(self, number: int, device: torch.device) -> tuple[Seen, Asked]:
        """The views, on this device, and the questions; of a file that has both."""
        kept = self._read(number)
        asked = _questions(kept)
        tokens, whole, frame_of, own = (kept[name].to(device) for name in _OF_VIEWS)
        return Seen(tokens, whole, frame_of, own, asked.facts), asked

    def _read(self, number: int) -> dict[str, Tensor]:
        # Copies: hundreds of files would stay mapped, and what is mapped dies with its file.
        return {name: value.clone() for name, value in load_file(self._path(number)).items()}

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._process}_{number}.safetensors"


def _of_questions(asked: Asked) -> dict[str, Tensor]:
    rows = asked.rows
    said = torch.arange(rows.ids.shape[1]) < rows.length[:, None]
    tensors = {
        "ids": rows.ids[said].int(),  # half of it would be padding
        "labels": rows.labels[said].int(),
        "length": rows.length,
        "views": torch.tensor(asked.views),
        "named": asked.facts.named,
        "measured": asked.facts.measured,
        "times": asked.times,
        "kinds": torch.tensor([_KINDS.index(kind) for kind in asked.kinds]),
        "runs": torch.tensor(asked.runs),
    }
    return tensors if asked.fused is None else tensors | {"fused": asked.fused}


def _questions(kept: Mapping[str, Tensor]) -> Asked:
    length = kept["length"]
    said = torch.arange(int(length.max())) < length[:, None]
    ids = torch.zeros(said.shape, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    ids[said], labels[said] = kept["ids"].long(), kept["labels"].long()
    return Asked(
        rows=TextRows(ids, labels, length),
        views=kept["views"].tolist(),
        facts=Facts(kept["named"], kept["measured"]),
        times=kept["times"],
        kinds=[_KINDS[place] for place in kept["kinds"].tolist()],
        runs=kept["runs"].tolist(),
        fused=kept.get("fused"),
    )
