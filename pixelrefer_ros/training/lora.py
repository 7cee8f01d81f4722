# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates of a checkpoint's language model, through peft; merged into plain weights at the end."""

from __future__ import annotations

from typing import Any

from torch import nn

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


def merge_low_rank(language: nn.Module) -> None:
    """Adds the updates to the weights they belong to, in place, and takes them out: plain layers are left.

    Raises:
        ParameterError: peft is not installed.
    """
    layer_kind = _peft().tuners.tuners_utils.BaseTunerLayer
    layers: list[tuple[str, Any]] = [(n, m) for n, m in language.named_modules() if isinstance(m, layer_kind)]
    for name, layer in layers:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(language.get_submodule(parent), child, layer.get_base_layer())


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ParameterError(
            "LoRA needs the peft package: pip install peft, or train without --lora"
        ) from None
    return peft
