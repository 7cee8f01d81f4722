# SPDX-License-Identifier: Apache-2.0
"""Small models exported once for all tests that need them: an export takes seconds."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pixelrefer_ros.model import write_tiny_checkpoint
from pixelrefer_ros.runtime import Graph, OnnxRuntimeBackend, OnnxRuntimeSession, Profile, is_exported
from pixelrefer_ros.tracking import write_tiny_sam2

PATCH_BUDGET = 600
"""Of the small models: attention over thousands of patches would be the time of the tests."""


def exported_tiny(
    factory: pytest.TempPathFactory, *, opset: int = 24, precision: str = "fp32"
) -> tuple[Path, Path]:
    """The folders of a small checkpoint and of its export, shared by all test processes; not to be changed.

    The opset 20 one has the released reading of positions, and its head tied to the embeddings.
    """
    from pixelrefer_ros.offline.export import export_model

    root = _shared(factory)
    checkpoint, folder = root / f"tiny-{opset}", root / f"tiny-{opset}-{precision}"
    with _alone(checkpoint):
        if not checkpoint.is_dir():
            older = opset == 20
            write_tiny_checkpoint(
                checkpoint, position_reading="released" if older else "paper", tied=older, context_length=1024
            )
            config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
            config["patch_budget"] = PATCH_BUDGET
            (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with _alone(folder):
        if not is_exported(folder):
            export_model(checkpoint, folder, precision=precision, opset=opset)
    return checkpoint, folder


def exported_tiny_tracker(
    factory: pytest.TempPathFactory, *, opset: int = 24, precision: str = "fp32"
) -> tuple[Path, Path]:
    """The folders of a small SAM 2 and of its export, shared as those of `exported_tiny`.

    In fp32 it is exported as it is; in half precisions for 64 pixels and 4 objects.
    """
    from pixelrefer_ros.export import export_tracker

    root = _shared(factory)
    checkpoint, folder = root / "tiny-sam2", root / f"tiny-sam2-{opset}-{precision}"
    smaller = {} if precision == "fp32" else {"image_size": 64, "max_objects": 4}
    with _alone(checkpoint):
        if not checkpoint.is_dir():
            write_tiny_sam2(checkpoint, seed=3)
    with _alone(folder):
        if not is_exported(folder):
            export_tracker(checkpoint, folder, precision=precision, opset=opset, **smaller)
    return checkpoint, folder


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process makes what is at the path; one that is killed leaves the turn to the next."""
    with path.with_name(f"{path.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _shared(factory: pytest.TempPathFactory) -> Path:
    """A folder that the test processes of one run have in common."""
    root = factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


class SmallEngines(OnnxRuntimeBackend):
    """Graphs that take less than their export says, as engines built with a small profile do.

    Args:
        most: by the graph's name and the symbol, what it takes at most.
    """

    def __init__(self, most: dict[tuple[str, str], int]) -> None:
        super().__init__(threads=1)
        self._most = most

    def open(self, folder: Path, graph: Graph) -> OnnxRuntimeSession:
        session = super().open(folder, graph)
        cut = {
            symbol: Profile(
                sizes.min, sizes.min, min(sizes.max, self._most.get((graph.name, symbol), sizes.max))
            )
            for symbol, sizes in graph.profiles.items()
        }
        session.graph = replace(graph, profiles=cut)
        return session
