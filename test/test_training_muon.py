# SPDX-License-Identifier: Apache-2.0
"""Muon, in float32 where a CPU knows no bfloat16, does what torch's own does."""

from __future__ import annotations

import pytest
import torch

from pixelrefer_ros.training import muon
from pixelrefer_ros.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_steps_go_where_those_of_torch_go(shape):
    torch.manual_seed(0)
    start, goal = torch.randn(2, *shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        for matrix, optimizer in zip((ours, theirs), optimizers, strict=True):
            matrix.grad = matrix.detach() - goal
            optimizer.step()
    moved = (theirs - start).norm()
    assert moved > 0.3
    # bfloat16 keeps 8 bits, and the iteration magnifies small singular values' errors.
    assert (ours - theirs).norm() < 0.03 * moved


def test_singular_values_come_near_to_one_and_directions_stay(monkeypatch):
    monkeypatch.setattr(muon, "knows_bfloat16", lambda _: False)
    torch.manual_seed(1)
    matrices = torch.randn(3, 20, 32)
    turned = orthogonal(matrices)
    values = torch.linalg.svdvals(turned)
    assert values.min() > 0.6
    assert values.max() < 1.25
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    aligned = left.mT @ turned @ right.mT
    off = aligned - torch.diag_embed(aligned.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-3  # float32, after five products of products


def test_in_half_precision_it_comes_near_to_the_same(monkeypatch):
    torch.manual_seed(2)
    matrices = torch.randn(3, 20, 32)
    turned = {}
    for half in (False, True):
        monkeypatch.setattr(muon, "knows_bfloat16", lambda _, half=half: half)
        turned[half] = orthogonal(matrices)
    # 8 bits, magnified by the iteration where singular values are small.
    assert (turned[True] - turned[False]).norm() < 0.05 * turned[False].norm()


def test_a_matrix_without_a_gradient_stays():
    matrix = torch.nn.Parameter(torch.ones(3, 4))
    Muon([matrix]).step()
    assert torch.equal(matrix, torch.ones(3, 4))


def test_a_closure_gives_the_loss():
    matrix = torch.nn.Parameter(torch.eye(4))
    optimizer = Muon([matrix], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = matrix.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 4.0
    assert float(matrix.detach().square().sum()) < 4.0
