# SPDX-License-Identifier: Apache-2.0
"""Results as JSON, and the page of benchmarks: each writes a section of its own there, between its marks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def print_and_write(result: dict[str, Any], path: Path | None) -> None:
    """Prints a result as JSON, and writes it to a file where one is named."""
    text = json.dumps(result, indent=2)
    print(text)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def write_section(path: Path, section: str) -> None:
    """Puts a section, which begins and ends with its marks, in place of the page's; or at its end."""
    begin, end = section.splitlines()[0], section.splitlines()[-1]
    text = path.read_text(encoding="utf-8") if path.is_file() else "# Benchmarks\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n?", re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda match: section, text)
    else:
        text = text.rstrip() + "\n\n" + section
    path.write_text(text, encoding="utf-8")
