"""Batches as tensors of TensorFlow, PyTorch or JAX, over the batch's own memory if the library can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.packages import needed
from really._utils.quiet import tensorflow
from really.data.schema import Spec
from really.errors import InvalidTypeError, InvalidValueError, one_of

Tensors = dict[str, Any]
"""Key -> [n, ...], an array or a tensor of the chosen library."""
Converter = Callable[[str, NDArray[Any]], Any]
"""Makes a tensor of (key, column)."""


def converter(as_: str) -> Converter:
    """A function that makes a column a tensor over the same memory. The memory returns to the buffer's pool after it.

    TensorFlow and JAX take columns through DLPack, PyTorch through `from_numpy`; all leave them in the machine's
    memory. JAX without `jax_enable_x64` has no 64-bit types: such columns are copied to 32 bits.

    Raises:
        InvalidValueError: no such library is known.
        MissingPackageError: it is not installed.
    """
    makers = {"numpy": _numpy, "tf": _tensorflow, "torch": _torch, "jax": _jax}
    if as_ not in makers:
        raise InvalidValueError(one_of("as_", as_, makers))
    return makers[as_]()


def check_dtypes(as_: str, spec: Spec) -> None:
    """Raises InvalidTypeError for the first key whose dtype has no tensors: text, times, structures, long double."""
    for key, (dtype, _) in spec.items():
        if as_ != "numpy" and not (dtype.kind in "biufc" and dtype.char not in "gG" and dtype.isnative):
            raise InvalidTypeError(
                f"as_={as_!r}: key {key!r}: expected bool, an integer, float16 to float64, complex64 or complex128, "
                f"got {dtype}; as_='numpy' takes it"
            )


def convert(convert_column: Converter, batch: Mapping[str, NDArray[Any]]) -> Tensors:
    """Every column of a batch as a tensor; nobody else may write to the batch."""
    return {key: convert_column(key, column) for key, column in batch.items()}


def _numpy() -> Converter:
    return lambda key, column: column


def _tensorflow() -> Converter:
    tf = tensorflow("as_='tf'")
    return lambda key, column: tf.experimental.dlpack.from_dlpack(column.__dlpack__())


def _torch() -> Converter:
    with needed("as_='torch'", "PyTorch", "torch"):
        import torch

    return lambda key, column: torch.from_numpy(column)


def _jax() -> Converter:
    with needed("as_='jax'", "JAX", "jax"):
        import jax

    def to_jax(key: str, column: NDArray[Any]) -> Any:
        return jax.dlpack.from_dlpack(narrowed(key, column, jax.dtypes.canonicalize_dtype(column.dtype)))

    return to_jax


def narrowed(key: str, column: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The column in JAX's dtype for it: itself, or a copy of half the width; InvalidValueError if it does not fit."""
    if dtype == column.dtype:
        return column
    narrow = column.astype(dtype)
    if narrow.dtype.kind in "iu" and not np.array_equal(narrow, column):
        raise InvalidValueError(
            f"as_='jax': key {key!r}: expected {column.dtype} that fits {narrow.dtype}, as jax_enable_x64 is off, "
            f"got {column.ravel()[(narrow != column).argmax()]}"
        )
    return narrow
