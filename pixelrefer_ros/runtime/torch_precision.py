# SPDX-License-Identifier: Apache-2.0
"""What torch computes float32 with on a GPU."""

from __future__ import annotations

import torch


def keep_float32(device: torch.device, dtype: torch.dtype) -> None:
    """Has float32 mean float32 on a GPU, in convolutions too: torch multiplies there with 10 bits (TF32).

    For the whole process and from then on, as torch knows no other way that holds in several threads. Matrix
    products are exact by torch's default, and whoever chose another (`torch.set_float32_matmul_precision`)
    keeps it.

    Args:
        device: where a network was put.
        dtype: of its weights.
    """
    if device.type == "cuda" and dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False
