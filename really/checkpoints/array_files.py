"""Arrays in an HDF5 file: written, and read only if the file has exactly the arrays that its description names.

A file has the arrays in order, as data sets `<group>/0`, `<group>/1`, ... A reader follows no link to another file and
reads no storage outside the file. It compares dtype and shape before it reads a byte.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils import packages
from really._utils.input_files import open_regular, reading
from really._utils.packages import needed
from really.data.schema import shape_from_json
from really.errors import InvalidFileError, InvalidValueError

SUFFIX = ".h5"
Described = dict[str, Any]
"""`name`, `shape` and `dtype` of an array, in JSON types."""


def check_installed(path: Path) -> None:
    """Raises MissingPackageError, naming the path of a save, if h5py is not installed: before anything is written."""
    packages.check_installed("h5py", str(path), "h5py for HDF5 files", "hdf5")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Any]:
    """Opens a new HDF5 file of `h5py` in memory, and writes it to `path` at the end.

    HDF5 would end the process with a segmentation fault if the disk were full when it closes a file. The caller has
    called `check_installed`.
    """
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        yield file
    with memory.getbuffer() as image:
        path.write_bytes(image)


def write_into(file: Any, variables: Sequence[Any], described: Sequence[Described], group: str = "weights") -> None:
    """Writes the arrays into an open file."""
    for at, (variable, about) in enumerate(zip(variables, described, strict=True)):
        array = np.asarray(variable)
        saved = file.create_dataset(f"{group}/{at}", data=array.astype(stored_dtype(array.dtype), copy=False))
        saved.attrs.update({"name": about["name"], "dtype": about["dtype"]})


def stored_dtype(dtype: np.dtype[Any] | str) -> np.dtype[Any]:
    """The dtype in a file. float32 holds every bfloat16 (and similar, non-builtin dtype) exactly."""
    try:
        found = np.dtype(dtype)
    except TypeError:  # a name that only TensorFlow knows
        return np.dtype(np.float32)
    return found if found.isbuiltin == 1 else np.dtype(np.float32)


@contextlib.contextmanager
def opened(path: Path, what: str) -> Iterator[Any]:
    """Opens an HDF5 file to read; raises InvalidFileError for whatever is wrong with it or with what is read."""
    with needed(str(path), "h5py for HDF5 files", "hdf5"):
        import h5py

    with reading(path, what), open(open_regular(path), "rb") as content, h5py.File(content, "r") as file:
        yield file


def read_array(file: Any, place: str, dtype: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
    """The data set at this place of an open file; raises InvalidValueError unless it has this dtype and shape."""
    import h5py

    found: Any = file
    for name in place.split("/"):
        if not isinstance(found, h5py.Group) or name not in found:
            raise InvalidValueError(f"{place}: expected a data set, got nothing")
        if not isinstance(found.get(name, getlink=True), h5py.HardLink):
            raise InvalidValueError(f"{place}: expected a data set of this file, got a link")
        found = found[name]
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise InvalidValueError(f"{place}: expected a data set, got {type(found).__name__}")
    if list(found.shape) != list(shape) or found.dtype != dtype:
        raise InvalidValueError(
            f"{place}: expected {dtype} of shape {list(shape)}, got {found.dtype} of {list(found.shape)}"
        )
    if found.chunks is not None or found.external or found.is_virtual:
        raise InvalidValueError(f"{place}: expected values in one piece of this file, got others")
    return np.asarray(found)


def read(path: Path, described: Sequence[Described], group: str = "weights") -> list[NDArray[Any]]:
    """Reads the described arrays from a file; raises InvalidFileError unless it has them as described."""
    with opened(path, f"{len(described)} {group}") as file:
        arrays = []
        for at, about in enumerate(described):
            with naming(path, about["name"]):
                arrays.append(read_array(file, f"{group}/{at}", stored_dtype(about["dtype"]), about["shape"]))
    return arrays


def check_described(described: Sequence[Any]) -> None:
    """Raises ValueError, TypeError or KeyError unless a file may describe arrays so."""
    for about in described:
        shape_from_json(about["shape"])
        if not isinstance(about["name"], str) or not isinstance(about["dtype"], str):
            raise InvalidValueError(f"expected a name and a dtype, got {about!r}")


def check_no_nan(path: Path, described: Sequence[Described], arrays: Sequence[NDArray[Any]]) -> None:
    """Raises InvalidFileError if an array has a NaN, which would make every output NaN."""
    for about, array in zip(described, arrays, strict=True):
        if array.dtype.kind in "fc" and np.isnan(array).any():
            raise InvalidFileError(f"{path}: expected numbers at {about['name']}, got NaN")


@contextlib.contextmanager
def naming(path: Path, name: str) -> Iterator[None]:
    """Adds the name of an array to the errors of the block."""
    try:
        yield
    except InvalidValueError as error:
        raise InvalidFileError(f"{path}: {name}: {error}") from error
