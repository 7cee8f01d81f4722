# SPDX-License-Identifier: Apache-2.0
"""The page of benchmarks: each benchmark writes a section of its own, between its marks."""

from __future__ import annotations

import re
from pathlib import Path


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
