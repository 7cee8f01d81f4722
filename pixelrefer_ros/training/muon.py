# SPDX-License-Identifier: Apache-2.0
"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024).

`torch.optim.Muon` iterates in bfloat16. On a CPU without instructions for it that took two thirds of every
step. Here it is float32 there, and matrices of one shape go through the iteration together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_ITERATION = (3.4445, -4.775, 2.0315)
"""Coefficients of x, x^3 and x^5: those of torch, and of the first publication."""
_ITERATIONS = 5
_LEAST_NORM = 1e-7
_LIKE_ADAMW = 0.2
"""Root mean square of a step over the rate, about that of AdamW."""


class Muon(torch.optim.Optimizer):
    """Steps matrices by their momentum, made orthogonal, with Nesterov's look ahead and decoupled decay.

    Args:
        params: matrices, or groups of them.
        lr: the rate; a step is as large as one of AdamW at the same rate.
        weight_decay: share of a weight that a step of rate 1 takes away.
        momentum: share of it that is kept.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Moves every matrix that has a gradient; a closure is evaluated first, its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                kept = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                ahead = matrix.grad.lerp(kept, group["momentum"])
                alike.setdefault(tuple(matrix.shape), []).append((matrix, ahead))
            for shape, members in alike.items():
                steps = orthogonal(torch.stack([ahead for _, ahead in members]))
                size = _LIKE_ADAMW * math.sqrt(max(shape)) * group["lr"]
                for (matrix, _), turned in zip(members, steps, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(turned, alpha=-size)
        return loss


def orthogonal(matrices: Tensor) -> Tensor:
    """(K, rows, columns) float32: the same singular vectors, with singular values from 0.7 to 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    turned = matrices.mT if tall else matrices
    turned = turned / turned.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST_NORM)
    if knows_bfloat16(matrices.device):
        turned = turned.bfloat16()
    first, third, fifth = _ITERATION
    for _ in range(_ITERATIONS):
        square = turned @ turned.mT
        turned = first * turned + (third * square + fifth * square @ square) @ turned
    turned = turned.to(matrices.dtype)
    return turned.mT if tall else turned


def knows_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are faster than those of float32: twice as fast where a CPU knows them."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
