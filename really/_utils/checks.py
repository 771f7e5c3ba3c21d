"""Checks of arguments: numbers, mappings and paths that callers give. Each returns the checked value."""

from __future__ import annotations

import errno
import math
import operator
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.errors import InvalidTypeError, InvalidValueError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def checked_integer(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """`value` as an int from `least` to `most`, or of at least `least`.

    Raises:
        InvalidTypeError: it is no integer, or a bool.
        InvalidValueError: it is out of range.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InvalidTypeError(
            f"{name}: expected an integer >= {least}, got {value!r} ({type(value).__name__})"
        ) from None
    if number < least or (most is not None and number > most):
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise InvalidValueError(f"{name}: expected an integer {allowed}, got {number}")
    return number


def checked_number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a finite float from `low` to `high`. Infinity is refused even if `high` is infinity.

    Raises:
        InvalidTypeError: it is no number. A bool is none; a text such as "0.5" is one.
        InvalidValueError: it is out of range.
    """
    allowed = f"a number from {low:g} to {high:g}" if high < math.inf else f"a finite number >= {low:g}"
    number = _float(name, value, allowed)
    if not (low <= number <= high and math.isfinite(number)):
        raise InvalidValueError(f"{name}: expected {allowed}, got {value!r}")
    return number


def checked_positive(name: str, value: Any) -> float:
    """`value` as a finite float above 0; raises InvalidTypeError or InvalidValueError."""
    number = _float(name, value, "a number > 0")
    if not 0 < number < math.inf:
        raise InvalidValueError(f"{name}: expected a number > 0, got {value!r}")
    return number


def checked_bool(name: str, value: Any) -> bool:
    """The value as a bool. Raises InvalidTypeError, naming it, for anything that is none."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidTypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def checked_mapping(name: str, value: Any) -> dict[str, Any]:
    """`value` as a new dict; None gives an empty one. Raises InvalidTypeError if it is no mapping."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidTypeError(f"{name}: expected a dict or None, got {value!r} ({type(value).__name__})")
    return dict(value or {})


def checked_path(name: str, value: Any) -> Path:
    """`value` as an absolute path that the system can have, whether or not a file is there.

    A relative path means the current folder of this call, so that it still holds after `os.chdir`. `~` at the beginning
    is the user's folder.

    Raises InvalidTypeError if it is no path, InvalidValueError if it is a URL, has a zero byte, no system can have its
    letters or its length, or the current folder is gone.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InvalidTypeError(f"{name}: expected a path, got {value!r} ({type(value).__name__})")
    if "\0" in os.fspath(value):
        raise InvalidValueError(f"{name}: expected a path, got {os.fspath(value)!r}, which has a zero in it")
    if URL.match(os.fspath(value)):
        raise InvalidValueError(f"{name}: expected a path on this machine, got the URL {os.fspath(value)!r}")
    try:
        path = Path(os.path.expanduser(value)).absolute()
    except FileNotFoundError as error:
        raise InvalidValueError(f"{name}: expected a path, got {value!r} in a folder that is gone: {error}") from error
    try:
        os.lstat(path)
    except UnicodeEncodeError as error:
        raise InvalidValueError(f"{name}: expected a path, got {os.fspath(value)!r}, which no file can have") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidValueError(f"{name}: expected a path, got {value!r}: {error.strerror}") from error
    return path


def checked_file_name(name: str, value: Any) -> str:
    """`value` as a part of the name of a file or folder.

    Raises InvalidValueError unless it is text that can be printed, without separators of paths.
    """
    if not isinstance(value, str) or not value or not value.isprintable() or set(value) & {"/", "\\"}:
        raise InvalidValueError(f"{name}: expected a name that can be printed, without path separators, got {value!r}")
    return value


def as_array(name: str, value: Any) -> NDArray[Any]:
    """A value as an array, without a copy if it is one. Tells what keeps NumPy from taking a tensor.

    Raises:
        InvalidTypeError: a tensor of PyTorch that requires a gradient, or of bfloat16.
    """
    try:
        return np.asarray(value)
    except (RuntimeError, TypeError) as error:
        if (told := why_no_array(value)) is not None:
            raise InvalidTypeError(f"{name}: {told}") from error
        raise


def why_no_array(value: Any) -> str | None:
    """Why NumPy takes no array from a tensor of PyTorch, or from a list of them; None if that is not known."""
    leaf = first_leaf(value)
    if getattr(leaf, "requires_grad", False):
        return "expected a tensor without a gradient, got one that requires it; give tensor.detach()"
    if str(getattr(leaf, "dtype", "")) == "torch.bfloat16":
        return "expected a tensor of a dtype that NumPy has, got torch.bfloat16; give tensor.float()"
    return None


def first_leaf(value: Any) -> Any:
    """The first element of nested lists or tuples that is none itself, or an empty one."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return value


def _float(name: str, value: Any, allowed: str) -> float:
    try:
        if isinstance(value, bytes | bool | np.bool_):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise InvalidTypeError(f"{name}: expected {allowed}, got {value!r} ({type(value).__name__})") from None
