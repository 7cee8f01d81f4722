# SPDX-License-Identifier: Apache-2.0
"""What infusion sees before its first step: each scene once in a run, however often that is stopped.

To draw and to encode some thousand scenes takes most of an hour. So every batch is written as soon as it has
been seen, and a stopped run goes on with the next one. From the first batches the object encoder begins: of
these it is what the vision encoder says (3 MB each, of 12 scenes), later and of all others what the object
encoder projects (0.3 MB each). The files go when the stage is finished.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from pixelrefer_ros import __version__
from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.training import processes
from pixelrefer_ros.training.asked import Asked
from pixelrefer_ros.training.data import loader
from pixelrefer_ros.training.infusion_views import Seen, Shown, ShownBatches, fused, see
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.seen_files import SeenFiles
from pixelrefer_ros.training.world import OFFERED

_INFUSION = ("ln_", "fusion_")  # parts of an object encoder


class SeenOnce:
    """Batches of scenes, by number; of several processes each has its own ones.

    Args:
        network: on its device. Its vision encoder and what gives tokens their positions stay as they are.
        batches: that are shown.
        folder: of the files, of all processes.
        settings: of the whole run.
        deadline: on the clock of `time.monotonic`, s; a call sees one batch in any case.
    """

    def __init__(
        self,
        network: PixelReferNetwork,
        batches: ShownBatches,
        folder: Path,
        settings: LanguageSettings,
        *,
        deadline: float,
    ) -> None:
        self._network, self._batches = network, batches
        self._folder, self._settings, self._deadline = folder, settings, deadline
        self._files = SeenFiles(folder, settings.process)
        recipe = [__version__, settings.shown_by, settings.infusion_scenes, settings.bf16, *OFFERED]
        recipe += [network.config.mask_num, network.config.patch_budget]
        self._sight = _digest(repr(recipe), network.vision.state_dict() | self._part("pos_"))

    def seen(self, numbers: range) -> list[tuple[Seen, Asked]] | None:
        """What the vision encoder says, and what is asked about it; None where time was up first."""
        missing = [number for number in numbers if self._files.depends_on(number) != self._sight]
        shown = self._shown(missing)
        found: list[tuple[Seen, Asked]] = []
        for number in _counted(numbers):
            if number in missing:
                seen, asked = self._see(next(shown))
                self._files.write(number, self._sight, asked, seen)
            else:
                seen, asked = self._files.seen(number, self._network.device)
            found.append((seen, asked))
            if self._late(new=number in missing):
                return None
        return found

    def projected(self, numbers: range) -> list[Asked] | None:
        """Questions with what the object encoder projects of their views; None where time was up first.

        Of the encoder only the projection itself may change from now on.
        """
        encoder, device = self._network.object_encoder, self._network.device
        projected = _digest(self._sight, self._part(*_INFUSION))
        kept = {number: self._files.depends_on(number) for number in numbers}
        missing = [number for number in numbers if kept[number] not in (projected, self._sight)]
        shown = self._shown(missing)
        found: list[Asked] = []
        for number in _counted(numbers):
            if kept[number] == projected:
                found.append(self._files.asked(number))
            else:
                new = number in missing
                seen, asked = self._see(next(shown)) if new else self._files.seen(number, device)
                found.append(replace(asked, fused=fused(encoder, seen).cpu()))
                self._files.write(number, projected, found[-1])
            if self._late(new=number in missing):
                return None
        return found

    def remove(self) -> None:
        """The files of all processes, which nobody needs any more."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _part(self, *names: str) -> dict[str, Tensor]:
        """Weights of the object encoder whose names begin so."""
        return {k: v for k, v in self._network.object_encoder.state_dict().items() if k.startswith(names)}

    def _shown(self, numbers: list[int]) -> Iterator[Shown]:
        return iter(loader(self._batches, numbers, workers=self._settings.workers))

    def _see(self, shown: Shown) -> tuple[Seen, Asked]:
        # Copies: each tensor of a worker's item holds a file open.
        own = replace(shown, own=shown.own.clone(), asked=copy.deepcopy(shown.asked))
        return see(self._network, own, bf16=self._settings.bf16), own.asked

    def _late(self, *, new: bool) -> bool:
        """Whether to stop; all processes ask together. Where a batch was only read, there is time."""
        return processes.agreed(new and time.monotonic() > self._deadline)


def _counted(numbers: range) -> Iterable[int]:
    hidden = None if processes.is_first() else True
    batches: Iterable[int] = tqdm(numbers, desc="batches seen", disable=hidden)
    return batches


def _digest(more: str, weights: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of both."""
    digest = hashlib.sha256(more.encode())
    digest.update(save({name: value.cpu().contiguous() for name, value in weights.items()}))
    return digest.hexdigest()
