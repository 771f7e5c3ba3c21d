"""`tf.data` datasets over columns in a dict, for training loops that use such datasets."""

from __future__ import annotations

from collections.abc import KeysView, Mapping
from typing import Any

import numpy as np

from really._utils.quiet import tensorflow
from really.errors import InvalidTypeError, InvalidValueError


def dict_to_dataset(data_dict: Mapping[str, Any], batch_size: int | None = None) -> tuple[Any, KeysView[str]]:
    """Returns one `tf.data.Dataset` of tuples with one element per key, in the order of the keys, and the keys.

    Args:
        data_dict: columns `[row, ...]` of equal length, as `manager.sample` gives them; dtypes are kept.
        batch_size: rows of a batch; the last batch may have fewer. None gives single rows.

    Raises:
        InvalidTypeError, InvalidValueError: the columns are no dict or differ in length, or the batch size is
            invalid.
    """
    tf = tensorflow("dict_to_dataset")
    _check(data_dict, batch_size)
    return _batched(tf.data.Dataset.from_tensor_slices(tuple(data_dict.values())), batch_size), data_dict.keys()


def dict_to_dict_of_datasets(data_dict: Mapping[str, Any], batch_size: int | None = None) -> dict[str, Any]:
    """Returns a `tf.data.Dataset` for each key, to zip. Arguments and errors as in `dict_to_dataset`."""
    tf = tensorflow("dict_to_dict_of_datasets")
    _check(data_dict, batch_size)
    return {key: _batched(tf.data.Dataset.from_tensor_slices(column), batch_size) for key, column in data_dict.items()}


def _batched(dataset: Any, batch_size: int | None) -> Any:
    return dataset if batch_size is None else dataset.batch(batch_size)


def _check(data_dict: Mapping[str, Any], batch_size: int | None) -> None:
    if not isinstance(data_dict, Mapping):
        raise InvalidTypeError(f"data_dict: expected a dict of columns, got {type(data_dict).__name__}")
    lengths = {key: len(column) for key, column in data_dict.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidValueError(f"data_dict: expected columns of one length, got {lengths}")
    if batch_size is not None and (not isinstance(batch_size, int | np.integer) or batch_size < 1):
        raise InvalidValueError(f"batch_size: expected an integer of at least 1 or None, got {batch_size!r}")
