# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/messages.md`` from the message files: ``python tools/generate_messages_doc.py``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "messages.md"
KINDS = (
    ("msg", "Messages", ("",)),
    ("srv", "Services", ("request", "response")),
    ("action", "Actions", ("goal", "result", "feedback")),
)
LINE = re.compile(r"^(?P<type>\S+)\s+(?P<name>\w+)(?:\s*=\s*(?P<value>[^#\s]+))?\s*(?:#\s*(?P<comment>.*))?$")


@dataclass
class Row:
    """A field or a constant, with the comments that speak of it."""

    type: str
    name: str
    value: str
    meaning: str


@dataclass
class Part:
    """What stands between two ``---`` of a file: the text about the whole, and the rows."""

    about: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def read_parts(text: str) -> list[Part]:
    """Split a message file into its parts.

    A comment speaks of the lines below it, up to the next empty one; a comment that is followed by an empty
    line speaks of the whole part.

    Raises:
        ValueError: a line that is neither a comment nor a field nor a constant.
    """
    return [_read_part(part) for part in re.split(r"^---$", text, flags=re.MULTILINE)]


def _read_part(text: str) -> Part:
    part = Part()
    above: list[str] = []
    spoken_of = False  # the comment above has met a field
    for line in [*(line.strip() for line in text.splitlines()), ""]:
        if line.startswith("#"):
            above = [*([] if spoken_of else above), line.lstrip("# ")]
            spoken_of = False
        elif not line:
            part.about += [] if spoken_of else above
            above, spoken_of = [], False
        else:
            match = LINE.match(line)
            if match is None:
                raise ValueError(f"neither a field nor a constant: {line!r}")
            meaning = " ".join([*above, match["comment"] or ""]).strip()
            part.rows.append(Row(match["type"], match["name"], match["value"] or "", meaning))
            spoken_of = True
    return part


def render_page(root: Path = ROOT) -> str:
    """The reference page of the messages, in Markdown."""
    lines = [
        "# Messages",
        "",
        "Of the package `pixelrefer_ros`. This page is generated from `msg/`, `srv/` and `action/` by "
        "`python tools/generate_messages_doc.py`; do not edit it.",
    ]
    for folder, title, parts in KINDS:
        lines += ["", f"## {title}"]
        for path in sorted((root / folder).glob(f"*.{folder}")):
            lines += ["", f"### {path.stem}", *_render_file(path, parts)]
    return "\n".join(lines) + "\n"


def _render_file(path: Path, names: tuple[str, ...]) -> Iterator[str]:
    for name, part in zip(names, read_parts(path.read_text(encoding="utf-8")), strict=True):
        if part.about:
            yield from ("", _escaped(" ".join(part.about)))
        if name:
            yield from ("", f"*{name}*" + ("" if part.rows else ": empty"))
        if part.rows:
            yield from ("", "| type | name | meaning |", "|---|---|---|")
        for row in part.rows:
            shown = f"`{row.name}` = {row.value}" if row.value else f"`{row.name}`"
            yield f"| `{row.type}` | {shown} | {_escaped(row.meaning)} |"


def _escaped(text: str) -> str:
    """The text with what Markdown would take for markup shown as it is."""
    return re.sub(r"([|<])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
