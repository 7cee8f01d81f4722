# SPDX-License-Identifier: Apache-2.0
"""Where a new object encoder begins: what is linear in it is solved for, not learned step by step.

Global infusion (paper, Algorithm 1) has to find an object's own patches among 576, by where they are, and to
hand on what they say, which a vision encoder that has learned who is around says there linearly. So the
places that tokens and patches speak of, and the signs that an object's own patches stand for, are found by
ridge regression over some objects, and written into the weights; the rest of the stage learns on from there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelrefer_ros.model import ObjectEncoder

_TOGETHER = 128  # objects whose attention is computed at once
_FOR_PLACES = 512  # objects: the patches of their frames are some hundred thousand
_RIDGE = 1e-2  # of the mean square of what is regressed on
_NEAR = 0.04  # how far from a place patches still count: a deviation, as share of the frame
_LOUD = 2.0  # what the frame says over what the object's own crop says
_QUIET = 0.1  # of random weights that are kept
_LINEAR = 0.02  # of a step through GELU that stays almost linear


@torch.no_grad()
def begin_infusion(
    encoder: ObjectEncoder,
    tokens: Tensor,
    local: Tensor,
    whole: Tensor,
    own: Tensor,
    meant: Tensor,
    middles: Tensor,
) -> None:
    """Sets an encoder's weights by what is linear.

    Args:
        encoder: with random weights.
        tokens: T_R (V, n, D_v) of some thousand objects, see `ObjectEncoder.infuse`.
        local: F_l (V, 256, D_v).
        whole: F_g (V, 576, D_v).
        own: (V, 576) bool, each object's own patches in its frame.
        meant: (V, D) what the sign of each says; see `Signs.meaning`.
        middles: (V, 2) of each, as shares of the frame.
    """
    attention = encoder.fusion_attention_local
    attention.out_proj.weight.mul_(_QUIET)
    around = [
        attention(encoder.ln_local(some), context, context, need_weights=False)[0]
        for some, context in zip(tokens.split(_TOGETHER), local.split(_TOGETHER), strict=True)
    ]
    tokens = tokens + torch.cat(around)
    few = slice(_FOR_PLACES)
    places = _places(whole[few], own[few], middles[few])
    _look_there(encoder, tokens[few], whole[few], places, middles[few])
    seen = [
        encoder.fusion_attention_global(encoder.ln_global(some), frames, frames, need_weights=False)[0]
        for some, frames in zip(tokens.split(_TOGETHER), whole.split(_TOGETHER), strict=True)
    ]
    weights, bias = _ridge((tokens + torch.cat(seen)).flatten(0, 1), _repeated(meant, tokens))
    _pass_linearly(encoder.feat_linear, weights, bias)


def _places(whole: Tensor, own: Tensor, middles: Tensor) -> Tensor:
    """(V, 576, 2): where each patch is; an object's own patches are at its middle."""
    side = round(whole.shape[1] ** 0.5)
    along = (torch.arange(side, device=whole.device) + 0.5) / side
    grid = torch.stack(torch.meshgrid(along, along, indexing="xy"), dim=-1).flatten(0, 1)
    return torch.where(own[..., None], middles[:, None], grid)


def _look_there(
    encoder: ObjectEncoder, tokens: Tensor, whole: Tensor, places: Tensor, middles: Tensor
) -> None:
    """Lets every head look where a token's object is: by minus the squared distance of the places."""
    attention = encoder.fusion_attention_global
    width, heads = attention.embed_dim, attention.num_heads
    depth = width // heads
    of_token, token_bias = _ridge(encoder.ln_global(tokens).flatten(0, 1), _repeated(middles, tokens))
    squared = torch.cat([places, places.square().sum(dim=2, keepdim=True)], dim=2)
    of_patch, patch_bias = _ridge(whole.flatten(0, 1), squared.flatten(0, 1))
    scale = depth**0.5 / (2 * _NEAR**2)
    rows = attention.in_proj_weight.unflatten(0, (3, heads, depth))
    biases = attention.in_proj_bias.unflatten(0, (3, heads, depth))
    rows[:2] *= _QUIET
    rows[0, :, :2], biases[0, :, :2] = 2 * scale * of_token, 2 * scale * token_bias
    rows[0, :, 2], biases[0, :, 2] = 0.0, -scale
    rows[1, :, :3], biases[1, :, :3] = of_patch, patch_bias
    rows[2] = torch.eye(width, device=rows.device).unflatten(0, (heads, depth))
    biases[2] = 0.0
    attention.out_proj.weight.copy_(_LOUD * torch.eye(width))
    attention.out_proj.bias.zero_()


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


def _repeated(values: Tensor, tokens: Tensor) -> Tensor:
    """(V n, ...): each object's values (V, ...) for each of its tokens (V, n, D)."""
    return values.repeat_interleave(tokens.shape[1], dim=0)


def _ridge(given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (wanted's width, given's width) and bias of a regression."""
    mean, goal = given.mean(dim=0), wanted.mean(dim=0)
    centered = (given - mean).double()
    square = centered.T @ centered
    penalty = _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    weights = torch.linalg.solve(square + penalty, centered.T @ (wanted - goal).double()).T.to(given.dtype)
    return weights, goal - weights @ mean
