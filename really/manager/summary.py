"""The summary of a manager: a dict that prints as aligned text, as wide as the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

LEAST_WIDTH = 40
# Entries whose integers are identifiers and not counts.
IDENTIFIERS = ("pid", "runner")


class Summary(dict[str, Any]):
    """A dict whose `str()` has one line per entry, and then a section for each dict or list of dicts.

    Long entries are wrapped at the width of the terminal (or COLUMNS, or 80).
    """

    def __str__(self) -> str:
        width = max(LEAST_WIDTH, shutil.get_terminal_size().columns)
        nested = {name: value for name, value in self.items() if _is_section(value)}
        plain = {name: value for name, value in self.items() if name not in nested}
        sections = [_lines(plain, width)] if plain else []
        sections += [[name, *_section(value, width)] for name, value in nested.items()]
        return "\n\n".join("\n".join(lines) for lines in sections)


def _is_section(value: Any) -> bool:
    return (isinstance(value, Mapping) and bool(value)) or _is_table(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _section(value: Any, width: int) -> list[str]:
    lines = _table(value) if _is_table(value) else _lines(value, width - 2)
    return [f"  {line}" for line in lines]


def _lines(entries: Mapping[str, Any], width: int) -> list[str]:
    names = max((len(str(name)) for name in entries), default=0)
    lines = []
    for name, value in entries.items():
        if _is_section(value):
            lines += [str(name), *_section(value, width)]
        else:
            text = textwrap.wrap(_text(name, value), max(width - names - 2, LEAST_WIDTH // 2)) or [""]
            first, *others = text
            lines.append(f"{name!s:<{names}}  {first}".rstrip())
            lines += [" " * (names + 2) + other for other in others]
    return lines


def _table(rows: list[Mapping[str, Any]]) -> list[str]:
    """The rows as text in columns of minimal width, with numbers aligned to the right."""
    columns = []
    for name in rows[0]:
        values = [row.get(name) for row in rows]
        cells = [str(name), *(_text(name, value) for value in values)]
        width = max(map(len, cells))
        align_right = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        columns.append([cell.rjust(width) if align_right else cell.ljust(width) for cell in cells])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _text(name: Any, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and str(name).endswith("_bytes"):
        return _size(value)
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    if isinstance(value, int):
        return str(value) if name in IDENTIFIERS else f"{value:,}"
    numbers = isinstance(value, tuple) and len(value) > 1 and all(type(part) is int for part in value)
    if numbers and value == tuple(range(value[0], value[0] + len(value))):
        return f"{value[0]} to {value[-1]}"
    # The text of a Box has many blanks, from its arrays.
    return " ".join(str(value).split())


def _size(count: float) -> str:
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if count < 1000:
            break
        count, unit = count / 1000, larger
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
