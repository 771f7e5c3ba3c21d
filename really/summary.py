"""The summary of a manager: a dict that prints as an aligned text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Summary(dict[str, Any]):
    """A dict whose `str()` is for people: one line an entry, nested dicts indented, a list of dicts as a table."""

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(entries: Mapping[str, Any], indent: str = "") -> list[str]:
    width = max((len(str(name)) for name in entries), default=0)
    lines = []
    for name, value in entries.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            lines += [f"{indent}{name}", *_table(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name!s:<{width}}  {_text(value)}")
    return lines


def _table(rows: list[Mapping[str, Any]], indent: str) -> list[str]:
    cells = [list(map(str, rows[0])), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, tuple) and len(value) > 3 and value == tuple(range(value[0], value[-1] + 1)):
        return f"{value[0]} to {value[-1]}"
    return str(value)
