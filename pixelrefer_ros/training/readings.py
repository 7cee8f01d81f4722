# SPDX-License-Identifier: Apache-2.0
"""What a new language model has learned to read, kept beside the state from one stage to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.training.changes import ChangeHeads, Changes
from pixelrefer_ros.training.signs import Facts, Signs

SIGNS, CHANGES = "signs.safetensors", "changes.safetensors"
"""Files beside the state."""
OF_CHANGES = 0.3
"""Their weight beside answers."""


@dataclass(frozen=True, eq=False, slots=True)
class Readings:
    """Both are left out of the checkpoint.

    Attributes:
        signs: stand in place of object tokens.
        changes: of the hidden states of the last layers.
    """

    signs: Signs
    changes: ChangeHeads

    @classmethod
    def new(cls, network: PixelReferNetwork, *, seed: int) -> Readings:
        """With random weights, on the network's device."""
        width = network.config.language.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            signs, changes = Signs(width, network.config.mask_num), ChangeHeads(width)
        return cls(signs.to(network.device), changes.to(network.device))

    @classmethod
    def load(cls, network: PixelReferNetwork, folder: Path) -> Readings | None:
        """Those that a course left in a folder; None where none was finished."""
        if not (folder / SIGNS).exists():
            return None
        readings = cls.new(network, seed=0)
        readings.signs.load(folder / SIGNS)
        readings.changes.load_state_dict(load_file(folder / CHANGES))
        return readings

    def save(self, folder: Path) -> None:
        """Writes them as safetensors."""
        self.signs.save(folder / SIGNS)
        save_file(self.changes.state_dict(), folder / CHANGES)

    def frozen(self) -> Readings:
        """The same, to be learned from."""
        self.signs.requires_grad_(False)
        self.changes.requires_grad_(False)
        return self

    def loss_of_changes(self, late: Tensor, facts: Facts, views: Sequence[int], times: Tensor) -> Tensor:
        """How wrongly changes are read, a scalar.

        Args:
            late: (2, P, D), see `AnswerLoss`.
            facts: of V views.
            views: (P,) which of them each is.
            times: (P,) float32, s since the first view of the same object.
        """
        off: Tensor = self.changes(late, Changes.of(facts[list(views)], times))
        return off
