"""What several file formats share: the first bytes of files of other projects' formats, and JSON with NumPy arrays."""

from __future__ import annotations

import json
import os
import re
from os import PathLike
from typing import Any

import numpy as np

from really._utils.input_files import SMALL_FILE, read_small
from really.errors import InvalidFileError, InvalidValueError

# The first bytes of an Arrow IPC file, and of a Parquet file.
ARROW_MAGIC, PARQUET_MAGIC = b"ARROW1", b"PAR1"
MAX_DEPTH = 64
"""Most lists and objects within each other in a file of JSON."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_STEPS = np.zeros(256, np.int8)
_STEPS[[*b"[{"]], _STEPS[[*b"]}"]] = 1, -1


def arrow_path(path: str | PathLike[str]) -> bytes:
    """The path for pyarrow, which takes text for UTF-8: a name on this system may be any bytes."""
    return os.fsencode(path)


def array_to_json(value: Any) -> Any:
    """A NumPy array or scalar as JSON: the argument `default` of `json.dumps`."""
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    return value.item()


def array_from_json(value: dict[str, Any]) -> Any:
    """The array of an object that `array_to_json` made, or the object itself: the `object_hook` of `json.loads`.

    Raises InvalidValueError if the array is none of numbers.
    """
    if set(value) != {"array", "dtype"}:
        return value
    dtype = np.dtype(value["dtype"])
    if dtype.kind not in "biufc":
        raise InvalidValueError(f"dtype: expected one of numbers, got {value['dtype']!r}")
    return np.array(value["array"], dtype)


def json_object(text: bytes, *, arrays: bool = False) -> dict[str, Any]:
    """The object that the text is; with `arrays`, with the arrays in it.

    Raises ValueError if the text is no JSON object, or has more than MAX_DEPTH levels.
    """
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and (depth := _depth(text)) > MAX_DEPTH:
        raise InvalidValueError(f"expected JSON of at most {MAX_DEPTH} levels, got {depth}")
    found = json.loads(text, object_hook=array_from_json if arrays else None)
    if not isinstance(found, dict):
        raise InvalidValueError(f"expected a JSON object, got {type(found).__name__}")
    return found


def _depth(text: bytes) -> int:
    """Most lists and objects within each other."""
    levels = np.cumsum(_STEPS[np.frombuffer(_STRING.sub(b"", text), np.uint8)], dtype=np.int64)
    return int(levels.max(initial=0))


def read_json(path: str | PathLike[str], what: str, most: int = SMALL_FILE) -> dict[str, Any]:
    """The object in a file of JSON of at most `most` bytes.

    Raises:
        InvalidFileError: it is longer, no ordinary file, or no JSON object.
        OSError: the system does not read it.
    """
    try:
        return json_object(read_small(path, most))
    except ValueError as error:
        if isinstance(error, InvalidFileError):
            raise
        raise InvalidFileError(f"{path}: expected {what}, got a damaged file: {error}") from error
