# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: weights and sums in float32, products in bfloat16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def mixed_precision(device: torch.device, *, bf16: bool) -> Iterator[None]:
    """Within it, products are taken in bfloat16 if so wished; gradients follow outside of it.

    On a CPU attention is then plain matrix products: they are fast in bfloat16 where the processor knows it
    (avx512_bf16, amx), which the fused kernel's gradient is not. (`packed_rows` takes its own likewise.)
    """
    if not bf16:
        yield
        return
    with torch.autocast(device.type, torch.bfloat16), contextlib.ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
