"""The errors that `really` raises: few classes, each also the builtin a caller would expect to catch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class ReallyError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidValueError(ReallyError, ValueError):
    """An argument has a value that cannot be used."""


class InvalidTypeError(ReallyError, TypeError):
    """An argument has a type that cannot be used."""


class EmptyBufferError(InvalidValueError):
    """Rows were asked of a buffer that holds none."""


class ModelError(InvalidValueError):
    """The model's outputs or weights do not fit what is asked of it."""


class RunnerError(ReallyError, RuntimeError):
    """A runner could not go on; the message holds the original traceback."""


class EnvironmentFailedError(RunnerError):
    """An environment raised, or returned what its spaces do not allow."""


class RunnerTimeoutError(RunnerError, TimeoutError):
    """Runners did not return enough results within `remote_time_out`."""


class NotEnoughMemoryError(ReallyError, MemoryError):
    """What was asked for does not fit in the memory that is left."""


class OvertakenError(ReallyError, RuntimeError):
    """Rows that were being read have meanwhile been dropped for newer ones."""


class FileError(ReallyError, OSError):
    """The system would not read or write a file: no space, no permission, no such folder."""


class DiskFullError(FileError):
    """The disk has no room for what was to be written; nothing of it has been."""


class LockedError(ReallyError, RuntimeError):
    """Another process, or another buffer of this one, has the folder open for writing."""


class ReadOnlyError(ReallyError, RuntimeError):
    """The buffer's files are not this one's to write."""


class ClosedError(ReallyError, ValueError):
    """The buffer has been closed."""


def one_of(what: str, got: object, supported: Iterable[str]) -> str:
    """Text for an unknown name: what was expected, what came, and the nearest supported names."""
    names = sorted(supported)
    near = difflib.get_close_matches(str(got), names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return f"{what}: expected one of {', '.join(repr(name) for name in names)}, got {got!r}.{hint}"


def summary(error: Exception) -> str:
    """Kind and message of any error in one line, without colours."""
    # Keras puts the place first and the cause, in bold, two lines further down.
    lines = [line for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300] or 'no message'}"
