"""JSON with NumPy arrays and scalars."""

from __future__ import annotations

import json

import numpy as np

from really._utils.file_formats import array_from_json, array_to_json


def test_arrays_come_back_from_json_with_their_dtypes() -> None:
    given = {"state": {"key": np.arange(4, dtype=np.uint64), "large": np.array([2**64 - 1], np.uint64)}, "array": [1]}
    text = json.dumps(given | {"number": np.int64(3)}, default=array_to_json)
    found = json.loads(text, object_hook=array_from_json)
    assert (found["number"], found["array"]) == (3, [1])
    for name, array in given["state"].items():
        np.testing.assert_array_equal(found["state"][name], array, strict=True)
