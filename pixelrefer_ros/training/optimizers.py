# SPDX-License-Identifier: Apache-2.0
"""Which weights are stepped by which optimiser, and at what rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from pixelrefer_ros.training.muon import Muon

_BETAS = (0.9, 0.98)
_MUON = "muon"
_MUON_RATE = 2.0  # times the module's rate: at equal rates its steps are as large as AdamW's


def parameter_groups(
    rates: Mapping[float, Iterable[nn.Module]], *, weight_decay: float, hidden: Iterable[nn.Module] = ()
) -> list[dict[str, Any]]:
    """The optimisers' groups: each module with its own learning rate; norms, biases, embeddings do not decay.

    Args:
        rates: learning rate to the modules that learn with it; what does not require gradients is left out.
        weight_decay: of matrices.
        hidden: modules whose matrices are stepped by Muon (Jordan et al. 2024) instead of AdamW: a small
            transformer with random weights then learns from half as many examples.
    """
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    turned = {id(p) for module in hidden for p in module.parameters() if p.dim() == 2}
    for rate, modules in rates.items():
        decays: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        orthogonal: list[nn.Parameter] = []
        for module in modules:
            embedded = {
                id(p)
                for m in module.modules()
                if isinstance(m, nn.Embedding)
                for p in m.parameters(recurse=False)
            }
            for parameter in module.parameters():
                if not parameter.requires_grad or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                matrix = parameter.dim() >= 2 and id(parameter) not in embedded
                of_muon = matrix and id(parameter) in turned
                (orthogonal if of_muon else decays if matrix else others).append(parameter)
        groups.append({"params": decays, "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": others, "lr": rate, "weight_decay": 0.0})
        groups.append(
            {"params": orthogonal, "lr": _MUON_RATE * rate, "weight_decay": weight_decay, _MUON: True}
        )
    return [group for group in groups if group["params"]]


def optimizers_of(groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon if any group is stepped by it.

    Args:
        groups: of `parameter_groups`.
    """
    plain = [{k: v for k, v in group.items() if k != _MUON} for group in groups]
    orthogonal = [of for of, group in zip(plain, groups, strict=True) if _MUON in group]
    others = [of for of, group in zip(plain, groups, strict=True) if _MUON not in group]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, betas=_BETAS, fused=True)]
    return [*found, Muon(orthogonal)] if orthogonal else found
