"""The errors that `really` raises. Each is also a subclass of the builtin error that fits."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "ClosedError",
    "DiskFullError",
    "EmptyBufferError",
    "EnvironmentFailedError",
    "FileError",
    "InvalidFileError",
    "InvalidStateError",
    "InvalidTypeError",
    "InvalidValueError",
    "LockedError",
    "MissingPackageError",
    "ModelError",
    "NotEnoughMemoryError",
    "OvertakenError",
    "ReadOnlyError",
    "ReallyError",
    "RunnerError",
    "RunnerTimeoutError",
]


def __dir__() -> list[str]:
    return __all__


class ReallyError(Exception):
    """Base class of all errors that this package raises."""


class InvalidValueError(ReallyError, ValueError):
    """An argument has an invalid value."""


class InvalidTypeError(ReallyError, TypeError):
    """An argument has an invalid type."""


class EmptyBufferError(InvalidValueError):
    """Rows were requested from a buffer that has none."""


class MissingPackageError(ReallyError, ImportError):
    """A package that this call needs is not installed. The message has the command that installs it."""


class ModelError(InvalidValueError):
    """The model's outputs or weights do not fit the task."""


class RunnerError(ReallyError, RuntimeError):
    """A runner failed. The message has the original traceback."""


class EnvironmentFailedError(RunnerError):
    """An environment raised an error, or returned a value that its spaces do not allow."""


class RunnerTimeoutError(RunnerError, TimeoutError):
    """Runners did not return enough results within `remote_time_out`."""


class NotEnoughMemoryError(ReallyError, MemoryError):
    """A request needs more memory than is left."""


class OvertakenError(ReallyError, RuntimeError):
    """Newer rows replaced rows of the buffer before a reader had read them."""


class FileError(ReallyError, OSError):
    """The system cannot read or write a file: no space, no permission, no such folder."""


class InvalidFileError(FileError, InvalidValueError):
    """A file is not what its format allows: cut short, damaged, crafted, of another format or version."""


class DiskFullError(FileError):
    """The disk has no room for the data. None of it was written."""


class LockedError(ReallyError, RuntimeError):
    """Another process, or another buffer of this process, has the folder open for writing.

    It is also raised in the handler of a signal that would change a buffer amid a call that changes it.
    """


class ReadOnlyError(ReallyError, RuntimeError):
    """The buffer may not write its files."""


class InvalidStateError(ReallyError, RuntimeError):
    """A call does not fit the state of its object: another call must come first, or what it needs has ended."""


class ClosedError(ReallyError, ValueError):
    """The buffer is closed."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Text with the known names that resemble an unknown one, to append to a message. Empty if there are none."""
    near = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def one_of(what: str, got: object, supported: Iterable[str]) -> str:
    """Message for an unknown name: the supported names, the given name, and the names that resemble it."""
    names = sorted(supported)
    return f"{what}: expected one of {', '.join(map(repr, names))}, got {got!r}.{did_you_mean(got, names)}"


def summary(error: Exception) -> str:
    """Type and message of an error in one line, without terminal colours."""
    # Keras writes the place first, and the cause, in bold, two lines below it.
    lines = [line for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300] or 'no message'}"
