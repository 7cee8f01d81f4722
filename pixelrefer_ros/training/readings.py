# SPDX-License-Identifier: Apache-2.0
"""What a new language model has learned to read, kept beside the state from one stage to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pixelrefer_ros.model import ChatTokenizer, PixelReferNetwork
from pixelrefer_ros.runtime.whole_files import write_tensors
from pixelrefer_ros.training.comparison_heads import ComparisonHeads
from pixelrefer_ros.training.language_loss import AnswerLoss
from pixelrefer_ros.training.object_facts import Facts
from pixelrefer_ros.training.runs import Runs
from pixelrefer_ros.training.side_heads import SideHeads
from pixelrefer_ros.training.signs import Signs

SIGNS, SIDES, COMPARISONS = "signs.safetensors", "side_heads.safetensors", "comparison_heads.safetensors"
"""Files beside the state."""


@dataclass(frozen=True, eq=False, slots=True)
class Readings:
    """All are left out of the checkpoint.

    Attributes:
        signs: stand in place of object tokens.
        sides: read the hidden states of object tokens after two layers.
        comparisons: read those of each object's last token after the third layer.
    """

    signs: Signs
    sides: SideHeads
    comparisons: ComparisonHeads

    @classmethod
    def new(cls, network: PixelReferNetwork, tokenizer: ChatTokenizer | None, *, seed: int) -> Readings:
        """With random weights, on the network's device; with a tokenizer, signs speak the network's words."""
        width, count = network.config.language.hidden_size, network.config.mask_num
        embedding = network.language.model.embed_tokens
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            signs = Signs(width, count) if tokenizer is None else Signs.speaking(embedding, count, tokenizer)
            readings = cls(signs, SideHeads(width, count), ComparisonHeads(width))
        for part in (readings.signs, readings.sides, readings.comparisons):
            part.to(network.device)
        return readings

    @classmethod
    def load(cls, network: PixelReferNetwork, folder: Path) -> Readings | None:
        """Those that reading left in a folder; None where it was not finished."""
        if not (folder / SIGNS).exists():
            return None
        readings = cls.new(network, None, seed=0)
        readings.signs.load(folder / SIGNS)
        readings.sides.load_state_dict(load_file(folder / SIDES))
        readings.comparisons.load_state_dict(load_file(folder / COMPARISONS))
        return readings

    def save(self, folder: Path) -> None:
        """Writes them as safetensors."""
        self.signs.save(folder / SIGNS)
        write_tensors(folder / SIDES, self.sides.state_dict())
        write_tensors(folder / COMPARISONS, self.comparisons.state_dict())

    def frozen(self) -> Readings:
        """The same, to be learned from."""
        for part in (self.signs.settled(), self.sides, self.comparisons):
            part.requires_grad_(False)
        return self

    def loss(self, result: AnswerLoss, facts: Facts, times: Tensor) -> tuple[Tensor, float]:
        """How wrongly neighbours and comparisons are read, and `SideHeads`' share; of P runs.

        Args:
            result: of the prompts that hold them.
            facts: of each run's view, in reading order.
            times: (P,) float32, s since the first view of the same object in the prompt.
        """
        runs = Runs.of(result.rows_of_runs, times)
        lost, named = self.sides(result.early, facts, ~runs.filmed)
        lost = lost + self.comparisons(result.late, facts, runs)
        return lost, named
