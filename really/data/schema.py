"""The schema of rows: which columns there are, and the dtype and shape that one row has in each."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really.errors import InvalidTypeError, InvalidValueError

EXTENSION = "ml_dtypes."
MAX_ITEM_NBYTES = 1 << 31
"""Most bytes of a dtype, and greatest length of an axis, that a file may name."""
MAX_AXES = 60
"""Most axes of a row. A NumPy array has at most 64, and a batch has up to two axes before those of a row."""

RECURRENT_STATE = "recurrent_state"
"""A column of each part of the recurrent state with which the row's action was chosen: `recurrent_state.h`, and so on.
The buffer's key, and the name by which `returns` asks, stand for all of them."""
HAS_STATE = "has_recurrent_state"
"""A column of a manager with `recurrent_state_every`: 1 where the recurrent state is that with which the row's action
was chosen, 0 where it repeats that of an earlier row."""


def shape_text(shape: Iterable[Any], *axes: str) -> str:
    """A shape as messages show it, with named axes before it: `[n, 4]`."""
    return f"[{', '.join(map(str, (*axes, *shape)))}]"


class ColumnSpec(NamedTuple):
    """What one row holds in one column. It equals the plain tuple (dtype, shape)."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of one row in this column."""
        return self.dtype.itemsize * math.prod(self.shape)


Spec = dict[str, ColumnSpec]
"""Column name -> dtype and shape of one row, in the order of the columns."""


def spec_of_columns(columns: Mapping[str, NDArray[Any]]) -> Spec:
    """The schema of columns [row, ...]."""
    return {key: ColumnSpec(column.dtype, column.shape[1:]) for key, column in columns.items()}


def row_nbytes(spec: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> int:
    """Bytes of a row without padding."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in spec.values())


def canonical(key: str) -> str:
    """Returns `state_new` for its alias `new_state`, also before a leaf's name, and any other key unchanged."""
    name, dot, leaf = key.partition(".")
    return f"state_new{dot}{leaf}" if name == "new_state" else key


def normal_dtype(key: str, dtype: Any) -> np.dtype[Any]:
    """The dtype in native byte order.

    Raises InvalidTypeError if it has no fixed width, or is neither a dtype of NumPy nor one of ml_dtypes (such as
    bfloat16), which alone have a name in files.
    """
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise InvalidTypeError(f"key {key!r}: expected a NumPy dtype, got {dtype!r}") from error
    if found.kind in "biuf" and found.isbuiltin == 1 and found.isnative:
        return found  # as nearly all are
    if found.hasobject or found.itemsize == 0:
        raise InvalidTypeError(f"key {key!r}: expected a dtype of fixed width, got {found}")
    if (is_extension(found.base) and not _is_named(found.base)) or any(map(is_extension, _fields(found))):
        expected = "a dtype of NumPy, or one of ml_dtypes in native byte order and no field"
        raise InvalidTypeError(f"key {key!r}: expected {expected}, got {found}")
    return found if found.isnative else found.newbyteorder("=")


def check_axes(what: str, key: str, shape: tuple[int, ...]) -> None:
    """Raises InvalidValueError if a row has so many axes that a batch of rows could not be a NumPy array."""
    if len(shape) > MAX_AXES:
        raise InvalidValueError(f"{what}: key {key!r}: expected rows of up to {MAX_AXES} axes, got {len(shape)}")


def is_extension(dtype: np.dtype[Any]) -> bool:
    """Whether another package has added the dtype to NumPy, as ml_dtypes adds bfloat16. NumPy's own files lose it."""
    return dtype.isbuiltin == 2


def dtype_to_json(dtype: np.dtype[Any]) -> Any:
    """A description of the dtype for JSON: its name if it is one of ml_dtypes, else that of NumPy's own files."""
    return EXTENSION + dtype.name if _is_named(dtype) else np.lib.format.dtype_to_descr(dtype)


def dtype_from_json(description: Any) -> np.dtype[Any]:
    """The dtype that `dtype_to_json` described. JSON has turned its tuples into lists.

    Raises InvalidValueError if it has Python objects, whose bytes would be pointers, or no fixed width, or if it is one
    of ml_dtypes, which is not installed or does not have it; TypeError or ValueError if it is no dtype.
    """
    found: np.dtype[Any] = _extension(description) or np.dtype(np.lib.format.descr_to_dtype(_with_tuples(description)))
    if found.hasobject or not 0 < found.itemsize <= MAX_ITEM_NBYTES:
        raise InvalidValueError(f"dtype: expected one of fixed width without Python objects, got {description!r}")
    return found


def shape_from_json(description: Any) -> tuple[int, ...]:
    """The shape of a row that a file names; raises InvalidValueError if no row can have it."""
    if (
        not isinstance(description, list)
        or len(description) > MAX_AXES
        or not all(type(length) is int and 0 <= length <= MAX_ITEM_NBYTES for length in description)
    ):
        raise InvalidValueError(f"shape: expected a list of up to {MAX_AXES} lengths, got {description!r}")
    return tuple(description)


def _extension(description: Any) -> np.dtype[Any] | None:
    """The dtype of ml_dtypes that the description names; None if it names none."""
    if not (isinstance(description, str) and description.startswith(EXTENSION)):
        return None
    try:
        found: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), description[len(EXTENSION) :]))
    except (ImportError, AttributeError, TypeError) as error:
        raise InvalidValueError(f"dtype: expected ml_dtypes to have {description!r}, but {error}") from error
    return found


def _is_named(dtype: np.dtype[Any]) -> bool:
    return is_extension(dtype) and f"{dtype.type.__module__}." == EXTENSION and dtype.isnative


def _fields(dtype: np.dtype[Any]) -> Iterator[np.dtype[Any]]:
    """The dtypes of all fields of a structured dtype, nested ones included."""
    for part, *_ in (dtype.base.fields or {}).values():
        yield part.base
        yield from _fields(part)


def _with_tuples(description: Any) -> Any:
    if not isinstance(description, list):
        return description
    if description and all(isinstance(part, list) for part in description):
        return [(name, _with_tuples(part), *(tuple(shape) for shape in shapes)) for name, part, *shapes in description]
    return tuple(_with_tuples(part) for part in description)
