# SPDX-License-Identifier: Apache-2.0
"""Where a new object encoder begins: it looks at its object, and what is linear from there is solved for.

Global infusion (paper, Algorithm 1) has to find an object's own patches among 576, and to hand on what they
say, which a vision encoder that has learned who is around says there linearly. To look is learned first and
alone, in few and quick steps; values are handed on as they are; and what to make of them is found by ridge
regression over some thousand objects. The stage learns on from there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pixelrefer_ros.model import ObjectEncoder
from pixelrefer_ros.training.infusion_views import Seen
from pixelrefer_ros.training.optimizers import optimizers_of, parameter_groups
from pixelrefer_ros.training.signs import Signs

LEAST_LOOK = 1e-6
"""Of an attention of which the logarithm is taken."""
_LED, _LED_RATE = 100, 1e-2
_VIEWS = 64  # objects of such a step
_TOGETHER = 128  # objects whose tokens are computed at once
_RIDGE = 1e-2  # of the mean square of what is regressed on
_LOUD = 2.0  # what the frame says over what the object's own crop says
_QUIET = 0.1  # of random weights that are kept
_LINEAR = 0.02  # likewise, in the layers that are solved for


def begin_infusion(encoder: ObjectEncoder, seen: Seen, signs: Signs, *, seed: int) -> None:
    """Leads its attention, then solves for its projection.

    Args:
        encoder: with random weights.
        seen: some thousand objects, through it.
        signs: what its tokens are to be.
        seed: of which objects are shown when.
    """
    hand_on(encoder)
    lead(encoder, seen, seed=seed)
    project(encoder, seen, signs)


@torch.no_grad()
def hand_on(encoder: ObjectEncoder) -> None:
    """Lets global attention hand on what it looks at, loudly, and local attention be quiet at first."""
    attention, width = encoder.fusion_attention_global, encoder.pos_linear.out_features
    attention.in_proj_weight[2 * width :] = torch.eye(width)
    attention.out_proj.weight.copy_(_LOUD * torch.eye(width))
    encoder.fusion_attention_local.out_proj.weight.mul_(_QUIET)


def lead(encoder: ObjectEncoder, seen: Seen, *, seed: int, steps: int = _LED) -> None:
    """Teaches tokens to look at their object's own patches in the frame, and nothing else."""
    groups = parameter_groups({_LED_RATE: [encoder]}, weight_decay=0.0, hidden=[encoder])
    optimizers = optimizers_of(groups)
    for step in range(steps):
        looked = seen.some(np.random.default_rng([seed, 31, step]), _VIEWS).looked_at
        if not looked.requires_grad:  # there is no attention to lead
            return
        encoder.zero_grad()
        (looked + LEAST_LOOK).log().mean().neg().backward()
        for optimizer in optimizers:
            optimizer.step()


@torch.no_grad()
def project(encoder: ObjectEncoder, seen: Seen, signs: Signs) -> None:
    """Sets the projection to the linear map that is nearest to signs."""
    given = seen.inputs()
    infused: list[Tensor] = []
    hook = encoder.feat_linear.register_forward_pre_hook(lambda _, inputs: infused.append(inputs[0]))
    try:
        for parts in zip(*(part.split(_TOGETHER) for part in given[:3]), strict=True):
            encoder.infuse(*parts)
    finally:
        hook.remove()
    tokens = torch.cat(infused)
    meant = signs.meaning(given.facts).repeat_interleave(tokens.shape[1], dim=0)
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
