"""Numbers, mappings and paths that callers hand over, checked the same way wherever they come in."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from really.errors import InvalidTypeError, InvalidValueError


def check_count(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`; anything that is not an integer is refused."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise InvalidTypeError(
            f"{name}: expected an integer >= {least}, got {value!r} ({type(value).__name__})"
        ) from None
    if count < least:
        raise InvalidValueError(f"{name}: expected an integer >= {least}, got {count}")
    return count


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a finite float between `low` and `high`, both included (infinity is never accepted)."""
    number = _number(name, value)
    if not (low <= number <= high and math.isfinite(number)):
        raise InvalidValueError(f"{name}: expected a number from {low:g} to {high:g}, got {number!r}")
    return number


def check_positive(name: str, value: Any) -> float:
    """`value` as a finite float above 0."""
    number = _number(name, value)
    if not 0 < number < math.inf:
        raise InvalidValueError(f"{name}: expected a number > 0, got {value!r}")
    return number


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidTypeError(f"{name}: expected a number, got {value!r} ({type(value).__name__})") from None


def check_mapping(name: str, value: Any) -> dict[str, Any]:
    """`value` as a dict; None is an empty one."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidTypeError(f"{name}: expected a dict or None, got {value!r} ({type(value).__name__})")
    return dict(value or {})


def check_path(name: str, value: Any) -> Path:
    """`value` as a path that a system may have; whether something is there is for others to say."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InvalidTypeError(f"{name}: expected a path, got {value!r} ({type(value).__name__})")
    if "\0" in os.fspath(value):
        raise InvalidValueError(f"{name}: expected a path, got {os.fspath(value)!r}, which has a zero in it")
    return Path(value)
