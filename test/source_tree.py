# SPDX-License-Identifier: Apache-2.0
"""Where the sources lie, and files outside the package imported by their path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pixelrefer_ros"
ROOMS_BESIDE = ("export", "engines")
"""Rooms that lie beside the package and are installed into it."""
SOURCES = sorted(path for room in (PACKAGE.name, *ROOMS_BESIDE) for path in (ROOT / room).rglob("*.py"))


def load_file(path: Path) -> ModuleType:
    """Import a file that lies outside the package."""
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
