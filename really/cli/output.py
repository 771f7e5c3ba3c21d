"""What commands print: entries as aligned text, or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

# Numbers of a row that are shown; of longer ones the shape is.
SHOWN = 8


def show(entries: Any, as_json: bool) -> None:
    """Prints a mapping, or a list of mappings."""
    if as_json:
        print(json.dumps(_finite(entries), indent=2, allow_nan=False))
        return
    from really.manager.summary import Summary

    if isinstance(entries, Mapping):
        print(Summary(entries))
    else:
        print(Summary({"rows": entries}) if entries else "no rows")


def cell(value: Any) -> str:
    """A value of a row as short text; its shape and dtype if it has many numbers."""
    if isinstance(value, list | tuple | bytes) and len(value) > SHOWN:  # of DuckDB, which keeps no shape
        return f"{len(value):,} values"
    if getattr(value, "size", 1) > SHOWN:
        return f"{value.dtype}{list(value.shape)}"
    return " ".join(str(value).split())


def _finite(value: Any) -> Any:
    """The value in types of JSON, which has no NaN and no infinity: they are null."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)
