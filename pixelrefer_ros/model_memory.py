# SPDX-License-Identifier: Apache-2.0
"""Loaded models and Python's garbage collector: passed over while they are used, freed once they are not."""

from __future__ import annotations

import gc
import sys


def pass_over_loaded() -> None:
    """Let the collector pass over everything there is now; call it once the models are loaded.

    That is hundreds of thousands of objects of torch and the models. Walking through them, the collector
    would stop the camera for half a second every now and then.
    """
    gc.collect()
    gc.freeze()


def pass_over_nothing() -> None:
    """Undo `pass_over_loaded`: what is dropped from now on, the collector frees when it comes to it."""
    gc.unfreeze()


def free_dropped() -> None:
    """Free what nobody refers to any more except in circles, models among it; takes up to half a second.

    They would lie in memory, and on the GPU, beside those that are loaded next.
    """
    gc.collect()
    torch = sys.modules.get("torch")  # where nothing has imported it, there is nothing of its to free
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
