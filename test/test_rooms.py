# SPDX-License-Identifier: Apache-2.0
"""The source tree: which room may import which, licences, lengths."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_tree import PACKAGE, ROOT, SOURCES

NO_ROS = {"rclpy", "launch", "launch_ros", "ament_index_python", "sensor_msgs", "std_msgs", "geometry_msgs"}
# What each room may import of the others. types, errors and parameters hold no behaviour: everybody may.
ROOM_IMPORTS = {
    "runtime": set(),
    "images": set(),
    "model": {"runtime"},
    "tracking": {"runtime"},
    "perception": {"model", "tracking", "runtime"},
}


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_only_the_ros_room_imports_ros() -> None:
    imports = {
        path: {name.split(".")[0] for name in imported_modules(path)} & NO_ROS
        for path in SOURCES
        if PACKAGE / "ros" not in path.parents
    }
    assert {str(path): names for path, names in imports.items() if names} == {}


@pytest.mark.parametrize("room", ROOM_IMPORTS)
def test_imports_point_one_way(room: str) -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in (PACKAGE / room).rglob("*.py")
        for name in imported_modules(path)
        if name.startswith("pixelrefer_ros.") and name.split(".")[1] in rooms - ROOM_IMPORTS[room] - {room}
    }
    assert wrong == set()


@pytest.mark.parametrize("module", ["perception", "offline", "cli"])
def test_the_core_is_imported_with_no_ros(module: str) -> None:
    # A name that is None in sys.modules cannot be imported.
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(NO_ROS)})); import pixelrefer_ros.{module}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_source_file_names_its_licence_first_and_stays_short() -> None:
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in SOURCES}
    unlicensed = [
        path for path, text in lines.items() if text[:1] != ["# SPDX-License-Identifier: Apache-2.0"]
    ]
    assert unlicensed == []
    assert {str(path): len(text) for path, text in lines.items() if len(text) > 300} == {}
