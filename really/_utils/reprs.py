"""reprs: one line that describes an object, also one that is half made because its constructor raised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def one_line(thing: object, values: Mapping[str, Any]) -> str:
    """`Class(name=value, ...)`; a path is text."""
    shown = (f"{name}={(str(value) if isinstance(value, Path) else value)!r}" for name, value in values.items())
    return f"{type(thing).__name__}({', '.join(shown)})"


def described(thing: object, *names: str) -> str:
    """`one_line` of those of the attributes that the object has."""
    return one_line(thing, {name: vars(thing)[name] for name in names if name in vars(thing)})
