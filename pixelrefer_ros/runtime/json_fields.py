# SPDX-License-Identifier: Apache-2.0
"""Reading a JSON file field by field, so that every error names the file, the field and the remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixelrefer_ros.errors import CheckpointError

EXPORT_AGAIN = "export the model again with `pixelrefer export`"
"""The remedy for an exported folder that is not whole."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")


class JsonFields:
    """The fields of one JSON object, and where they stand.

    Args:
        path: of the file.
        within: the dotted name of the object in it; empty for the whole.
        content: what was parsed.

    Raises:
        CheckpointError: the content is no JSON object. Every method raises it for its field.
    """

    def __init__(self, path: Path, within: str, content: Any) -> None:
        self.path = path
        self._within = within
        if not isinstance(content, dict):
            raise CheckpointError(
                f"{path}: {within or 'the whole'} is a JSON {type(content).__name__}, not an object: "
                + EXPORT_AGAIN
            )
        self.content: dict[str, Any] = content

    def name(self, field_name: str) -> str:
        """The dotted name of a field."""
        return f"{self._within}.{field_name}" if self._within else field_name

    def wrong(self, field_name: str, problem: str) -> CheckpointError:
        """The error for a field's value."""
        return CheckpointError(f"{self.path}: {self.name(field_name)} is {problem}: {EXPORT_AGAIN}")

    def get(self, field_name: str, kind: type, default: Any = None) -> Any:
        """A field of exactly that JSON type; absent fields take the default, if there is one."""
        if field_name not in self.content and default is None:
            raise CheckpointError(f"{self.path}: {self.name(field_name)} is missing: {EXPORT_AGAIN}")
        value = self.content.get(field_name, default)
        if type(value) is not kind:
            raise self.wrong(field_name, f"{value!r}; it must be of the JSON type for {kind.__name__}")
        return value

    def choice(self, field_name: str, choices: Sequence[Any]) -> Any:
        """A field with one of these values."""
        value = self.get(field_name, type(choices[0]))
        if value not in choices:
            raise self.wrong(field_name, f"{value!r}; it must be one of {', '.join(map(str, choices))}")
        return value

    def file(self, field_name: str) -> str:
        """The name of a file in the same folder: a name from a file must not lead out of it."""
        value: str = self.get(field_name, str)
        if not _FILE_NAME.fullmatch(value):
            raise self.wrong(field_name, f"{value!r}; it must be the name of a file of the same folder")
        return value

    def file_names(self) -> list[str]:
        """The names of all fields, where files are named after them: none must lead out of a folder."""
        for name in self.content:
            if not _FILE_NAME.fullmatch(name):
                raise CheckpointError(
                    f"{self.path}: {self._within or 'the whole'} has a field {name!r:.80}; files are named "
                    f"after it: it must be like the name of a file: {EXPORT_AGAIN}"
                )
        return list(self.content)

    def mapping(self, field_name: str) -> JsonFields:
        """A field that is an object."""
        return JsonFields(self.path, self.name(field_name), self.get(field_name, dict))

    def texts(self, field_name: str) -> dict[str, str]:
        """A field that is an object of texts."""
        value: dict[str, Any] = self.get(field_name, dict)
        return {key: str(text) for key, text in value.items()}
