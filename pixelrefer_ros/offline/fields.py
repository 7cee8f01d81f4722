# SPDX-License-Identifier: Apache-2.0
"""Reading the small YAML and JSON files people write by hand: every mistake is named where it stands."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pixelrefer_ros.errors import InputFileError

MAX_FILE_BYTES = 4_000_000
"""Larger files are refused."""
MAX_ENTRIES = 10_000
"""Longer lists are refused."""
_HUGE = 1e9
_MAX_WHOLE = 2**63 - 1


class Entry:
    """One entry of such a file: a mapping whose fields are asked for one by one, with their type.

    Attributes:
        path: the file, for messages and for paths relative to it.
        number: the entry's place in the file, from 1.
    """

    def __init__(self, path: Path, what: str, number: int, fields: Mapping[str, Any]) -> None:
        """Wrap a mapping; ``what`` names the kind of entry in messages."""
        self.path, self.what, self.number, self._fields = path, what, number, fields

    def __contains__(self, name: str) -> bool:
        """Whether a field is given."""
        return name in self._fields

    def wrong(self, name: str, remedy: str) -> NoReturn:
        """Refuse a field.

        Raises:
            InputFileError: always; it names file, entry, field, value and remedy.
        """
        value = f"is {reprlib.repr(self._fields[name])}" if name in self._fields else "is missing"
        raise InputFileError(f"{self.path}: {self.what} {self.number}: {name} {value}; {remedy}")

    def only(self, known: Collection[str]) -> None:
        """Refuse fields that are not known: a misspelt one would be passed over."""
        for name in self._fields:
            if name not in known:
                raise InputFileError(
                    f"{self.path}: {self.what} {self.number}: field {reprlib.repr(name)} is unknown; "
                    f"the fields are: {', '.join(known)}"
                )

    def one_of(self, names: Collection[str]) -> str | None:
        """The one field of these that is given; None if none is."""
        given = [name for name in names if name in self._fields]
        if len(given) > 1:
            self.wrong(given[1], f"{given[0]} is given too; give one of {', '.join(names)}")
        return given[0] if given else None

    def text(self, name: str, default: str | None = None) -> str:
        """A text; with ``default`` None it must be there and not be empty."""
        value = self._fields.get(name, default)
        if not isinstance(value, str) or (default is None and not value.strip()):
            self.wrong(name, "give a text (in quotes, if it looks like a number)")
        return value

    def whole(self, name: str, default: int | None = None, least: int = 0) -> int:
        """A whole number of at least ``least`` that fits 64 bits."""
        value = self._fields.get(name, default)
        if not is_whole(value) or not least <= value <= _MAX_WHOLE:
            self.wrong(name, f"give a whole number of at least {least}")
        return int(value)

    def seconds(self, name: str, default: float | None = None, above: float | None = None) -> float:
        """A finite number of seconds, at least 0, or greater than ``above``."""
        value = self._fields.get(name, default)
        if not is_number(value) or value < 0 or (above is not None and value <= above):
            self.wrong(
                name, "give seconds, 0 or more" if above is None else f"give seconds, more than {above:g}"
            )
        return float(value)

    def sequence(self, name: str) -> list[Any]:
        """A list that is not empty."""
        value = self._fields.get(name)
        if not isinstance(value, list) or not value:
            self.wrong(name, "give a list")
        if len(value) > MAX_ENTRIES:
            self.wrong(name, f"give at most {MAX_ENTRIES} of them")
        return value


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a number of a size that can mean something; infinity is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE


def read_entries(path: Path | str, key: str, what: str) -> list[Entry]:
    """The entries of a file: a list of mappings, or a mapping with that list under ``key``.

    Args:
        path: JSON if its name ends in ``.json``, else YAML.
        key: the name the list may stand under.
        what: one entry's name, for messages.

    Returns:
        The entries, in order.

    Raises:
        InputFileError: no such file, not YAML or JSON, too large, or not such a list.
    """
    path = Path(path)
    content = parse_file(path)
    if isinstance(content, dict):
        if set(content) != {key}:
            raise InputFileError(
                f"{path}: found {reprlib.repr(content)}; give a list, or `{key}:` with a list"
            )
        content = content[key]
    if not isinstance(content, list):
        raise InputFileError(f"{path}: found {reprlib.repr(content)}; give a list of {key}")
    if len(content) > MAX_ENTRIES:
        raise InputFileError(f"{path}: {len(content)} {key}; give at most {MAX_ENTRIES}")
    for number, fields in enumerate(content, 1):
        if not isinstance(fields, dict):
            raise InputFileError(
                f"{path}: {what} {number} is {reprlib.repr(fields)}; give a mapping of fields"
            )
    return [Entry(path, what, number, fields) for number, fields in enumerate(content, 1)]


def parse_file(path: Path) -> Any:
    """What a YAML file holds, or a JSON file, by its name.

    Args:
        path: JSON if its name ends in ``.json``, else YAML.

    Returns:
        Mappings, lists, texts and numbers, as in the file.

    Raises:
        InputFileError: no such file, not YAML or JSON, or too large.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputFileError(f"{path} has {path.stat().st_size} bytes; give at most {MAX_FILE_BYTES}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"{path} cannot be read ({error}); give a YAML or JSON file in UTF-8") from error
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputFileError(
            f"{path} is not valid {'JSON' if path.suffix == '.json' else 'YAML'}: {reason}"
        ) from error
