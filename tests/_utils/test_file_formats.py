"""JSON with NumPy arrays and scalars."""

from __future__ import annotations

import json

import numpy as np
import pytest

from really._utils.file_formats import MAX_DEPTH, array_from_json, array_to_json, json_object
from really.errors import InvalidValueError


def test_arrays_come_back_from_json_with_their_dtypes() -> None:
    given = {"state": {"key": np.arange(4, dtype=np.uint64), "large": np.array([2**64 - 1], np.uint64)}, "array": [1]}
    text = json.dumps(given | {"number": np.int64(3)}, default=array_to_json)
    found = json.loads(text, object_hook=array_from_json)
    assert (found["number"], found["array"]) == (3, [1])
    for name, array in given["state"].items():
        np.testing.assert_array_equal(found["state"][name], array, strict=True)


def nested(depth: int) -> bytes:
    """An object of so many levels, with a string that has brackets."""
    return b'{"a[{": "[[\\"{{", "b": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_json_has_at_most_so_many_levels_and_any_number_of_lists() -> None:
    assert json_object(nested(MAX_DEPTH))["a[{"] == '[["{{'
    with pytest.raises(InvalidValueError, match=f"at most {MAX_DEPTH} levels, got {MAX_DEPTH + 1}"):
        json_object(nested(MAX_DEPTH + 1))
    assert len(json_object(b'{"lists": [' + b"[[]], " * 1000 + b"1]}")["lists"]) == 1001
