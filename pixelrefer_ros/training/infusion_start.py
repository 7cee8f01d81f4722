# SPDX-License-Identifier: Apache-2.0
"""How a new object encoder begins behind a vision encoder that sees.

What an object's own patches in the frame show is handed on, and there an encoder that has learned who is
around says it linearly. To look there is learned first and alone, in few and quick steps; values are handed
on as they are; and what to make of them is found by ridge regression over some thousand objects. Local
infusion is silent at first. The stage learns on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pixelrefer_ros.model import ObjectEncoder
from pixelrefer_ros.training.infusion_views import Seen, fused, looked_at
from pixelrefer_ros.training.optimizers import optimizers_of, parameter_groups
from pixelrefer_ros.training.signs import Signs

_LEAST_LOOK = 1e-6  # of an attention of which the logarithm is taken
_LED_RATE = 1e-2  # of the first half of the steps; then it falls
_OF_EACH, _BATCHES = 8, 8  # objects of so many batches in such a step
_RIDGE = 1e-2  # of the mean square of what is regressed on
_LOUD = 2.0  # what the frame says over what the object's own crop says
_LINEAR = 0.02  # of random weights that are kept, in the layers that are solved for


def begin_infusion(
    encoder: ObjectEncoder, seen: Sequence[Seen], signs: Signs, *, seed: int, led_steps: int
) -> None:
    """Leads its attention, then solves for its projection.

    Args:
        encoder: with random weights.
        seen: some thousand objects, in batches.
        signs: what its tokens are to be.
        seed: of which objects are shown when.
        led_steps: in which its attention learns where to look.
    """
    hand_on(encoder)
    lead(encoder, seen, seed=seed, steps=led_steps)
    project(encoder, seen, signs)


@torch.no_grad()
def hand_on(encoder: ObjectEncoder) -> None:
    """Lets global attention hand on what it looks at, loudly, and local attention say nothing at first."""
    attention, width = encoder.fusion_attention_global, encoder.pos_linear.out_features
    attention.in_proj_weight[2 * width :] = torch.eye(width)
    attention.out_proj.weight.copy_(_LOUD * torch.eye(width))
    encoder.fusion_attention_local.out_proj.weight.zero_()
    encoder.fusion_attention_local.out_proj.bias.zero_()


def lead(encoder: ObjectEncoder, seen: Sequence[Seen], *, seed: int, steps: int) -> None:
    """Teaches tokens to look at their object's own patches in the frame, and nothing else."""
    groups = parameter_groups({_LED_RATE: [encoder]}, weight_decay=0.0, hidden=[encoder])
    optimizers = optimizers_of(groups)
    schedules = [LambdaLR(of, lambda step: min(1.0, 2 * (1 - step / steps))) for of in optimizers]
    for step in range(steps):
        rng = np.random.default_rng([seed, 31, step])
        shares = []
        for number in rng.integers(len(seen), size=_BATCHES):
            views = torch.from_numpy(rng.integers(len(seen[number].tokens), size=_OF_EACH))
            shares.append(looked_at(encoder, seen[number][views]))
        looked = torch.cat(shares)
        if not looked.requires_grad:  # there is no attention to lead
            return
        encoder.zero_grad()
        (looked + _LEAST_LOOK).log().mean().neg().backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()


@torch.no_grad()
def project(encoder: ObjectEncoder, seen: Sequence[Seen], signs: Signs) -> None:
    """Sets the projection to the linear map that is nearest to signs."""
    tokens = torch.cat([fused(encoder, of).float() for of in seen])
    meant = torch.cat([signs.meaning(of.facts) for of in seen]).repeat_interleave(tokens.shape[1], dim=0)
    _pass_linearly(encoder.feat_linear, *_ridge(tokens.flatten(0, 1), meant))


def _pass_linearly(layers: nn.Sequential, weights: Tensor, bias: Tensor) -> None:
    """Writes a linear map into two layers with GELU between them: GELU(x) - GELU(-x) = x."""
    first, second = (layer for layer in layers if isinstance(layer, nn.Linear))
    pairs = min(first.out_features // 2, first.in_features)
    left, values, right = torch.linalg.svd(weights, full_matrices=False)
    down, up = right[:pairs], left[:, :pairs] * values[:pairs]
    first.weight.mul_(_LINEAR)
    second.weight.mul_(_LINEAR)
    first.bias.zero_()
    first.weight[:pairs], first.weight[pairs : 2 * pairs] = down, -down
    second.weight[:, :pairs], second.weight[:, pairs : 2 * pairs] = up, -up
    second.bias.copy_(bias)


def _ridge(given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (wanted's width, given's width) and bias of a regression."""
    mean, goal = given.mean(dim=0), wanted.mean(dim=0)
    centered = (given - mean).double()
    square = centered.T @ centered
    penalty = _RIDGE * square.diagonal().mean() * torch.eye(len(square)).to(square)
    weights = torch.linalg.solve(square + penalty, centered.T @ (wanted - goal).double()).T.to(given.dtype)
    return weights, goal - weights @ mean
