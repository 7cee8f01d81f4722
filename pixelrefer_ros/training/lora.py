# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates of a checkpoint's language model, through peft; merged into plain weights at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pixelrefer_ros.errors import ParameterError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every projection of a Qwen2 layer."""


def add_low_rank(language: nn.Module, rank: int) -> None:
    """Puts low-rank updates into a language model, in place; only they, and nothing else of it, can learn.

    Args:
        language: a `Qwen2ForCausalLM`.
        rank: of every update.

    Raises:
        ParameterError: peft is not installed.
    """
    peft = _peft()
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=list(TARGETS))
    peft.inject_adapter_in_model(config, language)
    for name, parameter in language.named_parameters():
        parameter.requires_grad_("lora_" in name)


def halve_frozen(language: nn.Module) -> dict[str, Tensor]:
    """Holds the weights that have updates in bfloat16, for products in bfloat16, until `merge_low_rank`.

    Autocast would make, and keep for the gradient, a copy of each in every call: it caches only the copies of
    weights that learn.

    Returns:
        The weights themselves, on the CPU, by the names of their layers.

    Raises:
        ParameterError: peft is not installed.
    """
    kept = {}
    for name, layer in _updated(language):
        weight = layer.get_base_layer().weight
        kept[name] = weight.detach().cpu().clone()
        weight.data = weight.data.to(torch.bfloat16)
    return kept


def merge_low_rank(language: nn.Module, kept: Mapping[str, Tensor] | None = None) -> None:
    """Adds the updates to the weights they belong to, in place, and takes them out: plain layers are left.

    Args:
        language: of `add_low_rank`.
        kept: of `halve_frozen`, if that was called.

    Raises:
        ParameterError: peft is not installed.
    """
    for name, layer in list(_updated(language)):
        if kept:
            weight = layer.get_base_layer().weight
            weight.data = kept[name].to(weight.device)
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(language.get_submodule(parent), child, layer.get_base_layer())


def _updated(language: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that have updates, by name."""
    kind = _peft().tuners.tuners_utils.BaseTunerLayer
    return ((name, module) for name, module in language.named_modules() if isinstance(module, kind))


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ParameterError(
            "LoRA needs the peft package: pip install peft, or train without --lora"
        ) from None
    return peft
