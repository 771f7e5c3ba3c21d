"""What several file formats share: the first bytes of files of other projects' formats, and JSON with NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

# The first bytes of an Arrow IPC file, and of a Parquet file.
ARROW_MAGIC, PARQUET_MAGIC = b"ARROW1", b"PAR1"


def array_to_json(value: Any) -> Any:
    """A NumPy array or scalar as JSON: the argument `default` of `json.dumps`."""
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    return value.item()


def array_from_json(value: dict[str, Any]) -> Any:
    """The array of an object that `array_to_json` made, or the object itself: the `object_hook` of `json.loads`."""
    return np.array(value["array"], value["dtype"]) if set(value) == {"array", "dtype"} else value
