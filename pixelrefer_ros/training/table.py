# SPDX-License-Identifier: Apache-2.0
"""A CSV file that grows by rows, and by columns where a row brings new ones."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Writes a row under the file's header; what earlier rows have no value for stays empty in them.

    Args:
        path: made if it does not exist.
        row: values by column.
    """
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = [] if set(row) <= set(columns) else list(reader)
    grown = columns + [column for column in row if column not in columns]
    with path.open("w" if grown != columns else "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=grown)
        if grown != columns:
            writer.writeheader()
            writer.writerows(rows)
        writer.writerow(row)
