"""What commands print: entries as aligned text, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# Numbers of a row that are shown; of longer ones the shape is.
SHOWN = 8


def show(entries: Any, as_json: bool) -> None:
    """Prints a mapping, or a list of mappings."""
    if as_json:
        print(json.dumps(entries, default=_plain, indent=2))
        return
    from really.manager.summary import Summary

    print(Summary(entries) if isinstance(entries, Mapping) else Summary({"rows": entries}))


def cell(value: Any) -> str:
    """A value of a row as short text; its shape and dtype if it has many numbers."""
    size = getattr(value, "size", 1)
    if size > SHOWN:
        return f"{value.dtype}{list(value.shape)}"
    return " ".join(str(value).split())


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
