# SPDX-License-Identifier: Apache-2.0
"""Ask what anything a robot's camera sees is: region language, tracking and ROS 2 in one package."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import extend_path
from types import ModuleType

# The interface package (messages, services, actions) that colcon generates has this same name.
# When Python finds this folder first (a checkout, `python -m pytest`), the generated `msg`, `srv`
# and `action` are still to be found further along the path; and the other way round.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"


class _CheckoutRooms(importlib.abc.MetaPathFinder):
    """Finds `pixelrefer_ros.export` and `.engines` in a checkout, where they lie beside this package.

    Installed ones lie inside it and are found first. (The checkout's top folder cannot simply join
    ``__path__``: its `msg` folder would hide that no messages are built.)
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in (f"{__name__}.export", f"{__name__}.engines"):
            return None
        checkout = Path(__file__).resolve().parent.parent
        door = checkout / fullname.rpartition(".")[2] / "__init__.py"
        if not (door.is_file() and (checkout / "package.xml").is_file()):
            return None
        return importlib.util.spec_from_file_location(
            fullname, door, submodule_search_locations=[str(door.parent)]
        )


sys.meta_path.append(_CheckoutRooms())
