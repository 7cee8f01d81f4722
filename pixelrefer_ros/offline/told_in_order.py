# SPDX-License-Identifier: Apache-2.0
"""What comes in any order, handed on in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class ToldInOrder(Generic[_Item]):
    """Hands on each item as soon as it and all those before it are there.

    `put` does not raise, so that it can be called from the middle of other work: the first failure of who is
    told waits for `finish`, and nothing more is told.
    """

    def __init__(self, on_item: Callable[[int, _Item], None]) -> None:
        """Begin with nothing.

        Args:
            on_item: told place and item, from place 0 on.
        """
        self._on_item = on_item
        self._items: dict[int, _Item] = {}
        self._next = 0
        self._failure: Exception | None = None

    def put(self, place: int, item: _Item) -> None:
        """Take in an item.

        Args:
            place: among all, from 0; each place once.
            item: to hand on.
        """
        self._items[place] = item
        while self._next in self._items:
            self._tell(self._next)
            self._next += 1

    def has_failed(self) -> bool:
        """Whether who is told has failed."""
        return self._failure is not None

    def finish(self) -> None:
        """Hand on what is left, in order, though items before it are missing.

        Raises:
            Exception: the first failure of who is told.
        """
        for place in sorted(self._items):
            self._tell(place)
        if self._failure is not None:
            raise self._failure

    def _tell(self, place: int) -> None:
        item = self._items.pop(place)
        if self._failure is None:
            try:
                self._on_item(place, item)
            except Exception as failure:
                self._failure = failure
