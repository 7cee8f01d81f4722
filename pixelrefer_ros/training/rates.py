# SPDX-License-Identifier: Apache-2.0
"""How fast each part of PixelRefer-Lite learns."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates at their highest.

    The paper fine-tunes (1e-5 for the language model, more for the object encoder in stage 1; one rate for
    all in stage 2); from random weights everything needs more, in the same order.

    Attributes:
        object_encoder: of PixelRefer's own part.
        vision: of the vision encoder; 0 freezes it.
        language: of the language model; 0 freezes it.
    """

    object_encoder: float
    vision: float
    language: float


FROM_NOTHING = (Rates(6e-4, 0.0, 3e-4), Rates(4e-4, 0.0, 5e-4))
"""Of both stages, behind a vision encoder that has learned to see (see `teach_attributes`): it stays."""
FINE_TUNING = (Rates(1e-4, 0.0, 1e-5), Rates(1e-5, 0.0, 1e-5))
"""For a trained checkpoint: the vision encoder stays, the rest moves as slowly as in the paper."""
LOW_RANK = (Rates(1e-4, 0.0, 2e-4), Rates(1e-5, 0.0, 2e-4))
"""With low-rank updates of the language model, which begin at zero and need more."""


def rates_of(network: nn.Module, rates: Rates) -> dict[float, list[nn.Module]]:
    """The modules by their learning rate; those with none are frozen.

    Args:
        network: a `Learner`.
        rates: of its parts.
    """
    by_rate: dict[float, list[nn.Module]] = {}
    for name, rate in asdict(rates).items():
        module = getattr(network, name)
        updates = [p for key, p in module.named_parameters() if "lora_" in key]
        module.requires_grad_(rate > 0 and not updates)
        for update in updates:
            update.requires_grad_(rate > 0)
        if rate > 0:
            by_rate.setdefault(rate, []).append(module)
    return by_rate
