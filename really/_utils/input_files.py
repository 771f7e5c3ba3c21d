"""Files that are read: only ordinary files of a bounded size, and one kind of error for whatever is wrong with them."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from really._utils.system import READ_FLAGS
from really.errors import FileError, InvalidFileError, NotEnoughMemoryError, ReallyError

DAMAGE = (
    *(ReallyError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, OSError),
    SyntaxError,
)
"""What parsers raise for content that their format does not have; NumPy raises SyntaxError for names of dtypes."""
SMALL_FILE = 64 << 20
"""Most bytes of a file that is read at once, such as a description in JSON."""
PIECE = 1 << 20
"""Bytes of a longer file that are read at a time."""


@contextlib.contextmanager
def reading(
    path: str | PathLike[str],
    what: str,
    passing: type[Exception] | tuple[type[Exception], ...] = (FileError, NotEnoughMemoryError),
) -> Iterator[None]:
    """Turns whatever a parser raises in the block into an InvalidFileError that names the path and the content, `what`.

    Memory that is missing becomes a NotEnoughMemoryError: a damaged file may claim any size. Errors of the classes
    `passing` say already what is wrong.
    """
    try:
        yield
    except passing:
        raise
    except DAMAGE as error:
        raise InvalidFileError(f"{path}: expected {what}, but {_in_one_line(error)}") from error
    except MemoryError as error:
        raise NotEnoughMemoryError(
            f"{path}: expected {what} that fits into memory, but {_in_one_line(error)}"
        ) from error


def as_file_error(path: str | PathLike[str], error: OSError) -> FileError:
    """The error for a file that the system does not read; an error that is one already stays."""
    if isinstance(error, FileError):
        return error
    return FileError(error.errno, f"{path}: expected to read it, but {error.strerror or error}")


def open_regular(path: str | PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Opens an ordinary file and returns its handle.

    Raises:
        InvalidFileError: something else is there: a folder, a device, a FIFO, a socket.
        OSError: the system does not open it.
    """
    handle = os.open(path, flags | READ_FLAGS, 0o666)
    try:
        check_regular(path, os.fstat(handle).st_mode)
    except BaseException:
        os.close(handle)
        raise
    return handle


def check_regular(path: str | PathLike[str], mode: int) -> None:
    """Raises InvalidFileError unless the mode, `st_mode`, is that of an ordinary file."""
    if not stat.S_ISREG(mode):
        raise InvalidFileError(f"{path}: expected an ordinary file, got {kind_of(mode)}")


def kind_of(mode: int) -> str:
    """Says in words which kind of file has this `st_mode`."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_small(path: str | PathLike[str], most: int = SMALL_FILE) -> bytes:
    """The content of an ordinary file of at most `most` bytes.

    Raises:
        InvalidFileError: it is longer, or no ordinary file.
        OSError: the system does not read it.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most) + 1)  # Python allocates all that is asked for
        if len(content) > size:  # the file has grown, or its system tells no size
            content += file.read(max(0, most + 1 - len(content)))
    if len(content) > most:
        raise InvalidFileError(f"{path}: expected at most {most:,} bytes, got {os.stat(path).st_size:,}")
    return content


def crc32_of(path: str | PathLike[str]) -> int:
    """The CRC-32 of an ordinary file of any length; raises as `read_small` does."""
    crc32 = 0
    with open(open_regular(path), "rb") as file:
        while piece := file.read(PIECE):
            crc32 = zlib.crc32(piece, crc32)
    return crc32


def first_bytes(path: str | PathLike[str], num: int) -> bytes:
    """The first bytes of an ordinary file; raises as `read_small` does."""
    with open(open_regular(Path(path)), "rb") as file:
        return file.read(num)


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
