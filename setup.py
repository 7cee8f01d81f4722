# SPDX-License-Identifier: Apache-2.0
"""`pip install .`: the core, with no ROS. The ROS package is built by colcon from CMakeLists.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# The version is a fact of the package; importing the package here would need its dependencies.
VERSION = re.search(r'^__version__ = "([^"]+)"', (HERE / "pixelrefer_ros/__init__.py").read_text(), re.M)[1]

# Rooms that lie beside the package and are installed into it.
ROOMS = {f"pixelrefer_ros.{room}": room for room in ("export", "engines")}


def packages() -> list[str]:
    """Every folder with an `__init__.py`, under the name it is imported by."""
    found = [name for name in find_packages() if name.split(".")[0] == "pixelrefer_ros"]
    for name, folder in ROOMS.items():
        if (HERE / folder / "__init__.py").is_file():
            found += [name, *(f"{name}.{inner}" for inner in find_packages(folder))]
    return found


# The small trained models lie beside the package too; folders of files, no code.
MODELS = {"pixelrefer_ros.models": "models"}

setup(version=VERSION, packages=[*packages(), *MODELS], package_dir=ROOMS | MODELS)
