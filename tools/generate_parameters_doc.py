# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/parameters.md`` from the schema: ``python tools/generate_parameters_doc.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "parameters.md"
sys.path.insert(0, str(ROOT))

from pixelrefer_ros.parameters import SCHEMA, Parameter, plain  # noqa: E402


def render_page(schema: Iterable[Parameter] = SCHEMA) -> str:
    """The reference page of the parameters, in Markdown."""
    lines = [
        "# Parameters",
        "",
        "Of the node `pixelrefer`. This page is generated from `pixelrefer_ros/parameters.py` by "
        "`python tools/generate_parameters_doc.py`; do not edit it.",
        "",
        "A value of the wrong type or out of bounds is refused with the reason, at start as while running. "
        "What can only change while the node is unconfigured takes effect when it is configured next "
        "(`ros2 lifecycle set /pixelrefer cleanup`, set, then `configure` and `activate`).",
        "",
        "`ros2 launch pixelrefer_ros pixelrefer.launch.py` takes some of them as arguments, such as "
        "`model:=DIR device:=cuda` (`--show-args` lists them); launch says nothing of an argument that does "
        "not exist. It takes all of them from a file, `params_file:=my.yaml`, instead of "
        "[config/pixelrefer.yaml](../config/pixelrefer.yaml). Arguments override the file.",
        "",
        "| name | type | default | unit | allowed | may change | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in schema:
        default = f"`{plain(item.default)}`" if item.default != "" else "(empty)"
        cells = (f"`{item.name}`", item.type.__name__, default, item.unit, item.bounds)
        lines.append("| " + " | ".join((*cells, item.change.value, item.description)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
