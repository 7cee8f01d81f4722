# SPDX-License-Identifier: Apache-2.0
"""What one setting is: its type, bounds, unit, and when it may change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from pixelrefer_ros.errors import ParameterError

Value = bool | int | float | str


class Change(Enum):
    """When a parameter may be given another value."""

    ANY_TIME = "any time; takes effect at once"
    UNCONFIGURED = "while the node is unconfigured"
    START = "only at start (read-only)"


@dataclass(frozen=True)
class Parameter:
    """One setting.

    Attributes:
        name: as in ROS.
        type: bool, int, float or str.
        default: used where nothing is given.
        unit: of the value; empty where it has none.
        minimum, maximum: inclusive bounds of a number; None: unbounded.
        off: a number below `minimum` that is taken too, and switches off what it sets; None: there is none.
        choices: the values a text may take; empty: any.
        max_length: most characters of a text; None for other types.
        change: when it may be given another value.
        description: what it does.
    """

    name: str
    type: type[bool] | type[int] | type[float] | type[str]
    default: Value
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    off: float | None = None
    choices: tuple[str, ...] = ()
    max_length: int | None = None
    change: Change = Change.ANY_TIME
    description: str = ""

    @property
    def read_only(self) -> bool:
        """True if the value is fixed once the node runs."""
        return self.change is Change.START

    @property
    def bounds(self) -> str:
        """The values allowed, in words; empty if every value of the type is."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.minimum is not None or self.maximum is not None:
            off = "" if self.off is None else f"{plain(self.off)}, or "
            return f"{off}from {plain(self.minimum)} to {plain(self.maximum)}"
        if self.max_length is not None:
            return f"at most {self.max_length} characters"
        return ""

    def check(self, value: object) -> Value:
        """Return `value` as this parameter's type.

        Args:
            value: what was given; an int is taken where a float is wanted.

        Raises:
            ParameterError: its type, bounds, length or choice is wrong; names parameter and value.
        """
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not self.type or not isinstance(value, bool | int | float | str):
            raise ParameterError(
                f"parameter {self.name}: {value!r} is a {type(value).__name__}; give a {self.type.__name__}"
            )
        if self.choices and value not in self.choices:
            raise ParameterError(f"parameter {self.name}: {value!r} is not {self.bounds}")
        if isinstance(value, str):
            if self.max_length is not None and len(value) > self.max_length:
                raise ParameterError(f"parameter {self.name}: {len(value)} characters; give {self.bounds}")
        elif not math.isfinite(value) or not self._in_bounds(value):
            raise ParameterError(
                f"parameter {self.name}: {value!r} is out of bounds; give a value {self.bounds}"
            )
        return value

    def _in_bounds(self, value: float) -> bool:
        above = self.minimum is None or value >= self.minimum
        return (above and (self.maximum is None or value <= self.maximum)) or value == self.off


def plain(value: object) -> str:
    """A value as a person or a YAML file would write it."""
    if value is None:
        return "any"
    return str(value).lower() if isinstance(value, bool) else str(value)
