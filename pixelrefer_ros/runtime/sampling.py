# SPDX-License-Identifier: Apache-2.0
"""From logits to the next token: greedily, or drawn from the likeliest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 always takes the likeliest token; above, the logits are divided by it and one is drawn.
        top_p: draw among the likeliest tokens that together hold this probability, in (0, 1].
        seed: of the generator; the same seed, prompt and model give the same text.

    Raises:
        ParameterError: a value outside its bounds.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the bounds."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ParameterError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ParameterError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.seed < 0:
            raise ParameterError(f"seed is {self.seed}; it must be 0 or more")


GREEDY = Sampling()


class TokenChooser:
    """Chooses the tokens of one answer, one after the other.

    Args:
        sampling: how; a fresh chooser starts its random numbers anew.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: NDArray[np.float32]) -> tuple[int, float]:
        """The next token and its probability.

        Args:
            logits: (V,) float32.

        Returns:
            The token id, and its probability under the softmax of the logits as they are (temperature and
            top_p change the choice, not how sure the model is).
        """
        token = self._draw(logits) if self._sampling.temperature > 0 else int(logits.argmax())
        return token, float(_softmax(logits)[token])

    def _draw(self, logits: NDArray[np.float32]) -> int:
        probabilities = _softmax(logits.astype(np.float64) / self._sampling.temperature)
        order = np.argsort(-probabilities, kind="stable")
        cumulative = np.cumsum(probabilities[order])
        # The token that crosses top_p is kept, so that at least one always is.
        kept = int(np.searchsorted(cumulative, self._sampling.top_p, side="left")) + 1
        kept = min(kept, len(order))
        drawn = self._random.random() * cumulative[kept - 1]
        return int(order[min(int(np.searchsorted(cumulative[:kept], drawn, side="right")), kept - 1)])


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum())
