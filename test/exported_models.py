# SPDX-License-Identifier: Apache-2.0
"""Small models exported once for all tests that need them: an export takes seconds."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from pixelrefer_ros.model import write_tiny_checkpoint
from pixelrefer_ros.runtime import is_exported

PATCH_BUDGET = 600
"""Of the small models: attention over thousands of patches would be the time of the tests."""


def exported_tiny(
    factory: pytest.TempPathFactory, *, opset: int = 24, precision: str = "fp32"
) -> tuple[Path, Path]:
    """The folders of a small checkpoint and of its export, shared by all test processes; not to be changed.

    The opset 20 one has the released reading of positions, and its head tied to the embeddings.
    """
    from pixelrefer_ros.offline.export import export_model

    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    checkpoint, folder = root / f"tiny-{opset}", root / f"tiny-{opset}-{precision}"
    with (root / "exported.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not checkpoint.is_dir():
            older = opset == 20
            write_tiny_checkpoint(
                checkpoint, position_reading="released" if older else "paper", tied=older, context_length=1024
            )
            config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
            config["patch_budget"] = PATCH_BUDGET
            (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if not is_exported(folder):
            export_model(checkpoint, folder, precision=precision, opset=opset)
    return checkpoint, folder
