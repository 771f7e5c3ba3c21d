"""Files that appear complete or not at all: written under a temporary name, made durable, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import IO

from really._utils.checks import checked_path
from really._utils.input_files import first_bytes, kind_of
from really._utils.system import open_folder, reason_of
from really.errors import FileError, InvalidValueError

PARTIAL = ".partial"
LACKS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""Numbers of the errors of a system that lacks room or handles, whatever the path is."""


def leftovers_of(name: str) -> str:
    """Glob of the temporary files for `name` that a killed process leaves behind."""
    return f".{name}.*{PARTIAL}"


@contextlib.contextmanager
def file_errors(path: str | PathLike[str], what: str) -> Iterator[None]:
    """Turns an OSError of the block into a FileError that names the path and the content, `what`."""
    try:
        yield
    except FileError:
        raise  # of another file, which is read meanwhile
    except OSError as error:
        raise FileError(error.errno, f"{path}: expected to write {what}, but {reason_of(error, path)}") from error


@contextlib.contextmanager
def replacing(path: str | PathLike[str], magic: bytes, what: str) -> Iterator[IO[bytes]]:
    """Opens a new file that replaces `path` when the block ends without an error. After an error it is removed.

    Args:
        path: the file's path. An existing file is replaced if it is empty or of the same format.
        magic: the first bytes of a file of this format.
        what: the format in words, for messages.

    Raises:
        InvalidValueError: something else is at `path`.
        FileError: the file cannot be written.
    """
    path = Path(path)
    check_replaceable(path, magic, what)
    # The name comes before the file, and the file is no object of Python: an interrupt at any place leaves no file
    # behind, and none is lost in a method that pyarrow asks for, or in a finaliser.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{PARTIAL}"
    try:
        with file_errors(path, what), open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_replaceable(path: Path, magic: bytes, what: str, argument: str = "") -> None:
    """Raises InvalidValueError, naming `argument`, if something other than such a file is at `path`."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return  # nothing is there, or the path is none: writing says so
    if not (stat.S_ISREG(found.st_mode) and (found.st_size == 0 or starts_with(path, magic))):
        where = f"{argument}: {path}" if argument else f"{path}"
        raise InvalidValueError(f"{where}: expected {what} to replace, or nothing, got {described(path)}")


def starts_with(path: str | PathLike[str], magic: bytes) -> bool:
    """Whether there is a file that starts with `magic`."""
    try:
        return first_bytes(path, len(magic)) == magic
    except OSError:
        return False


def described(path: str | PathLike[str]) -> str:
    """Says in words what is at `path`."""
    path = Path(path)
    if path.is_dir():
        return "a folder"
    if not path.exists():
        return "nothing"
    if not path.is_file():
        return kind_of(path.stat().st_mode)
    try:
        start = first_bytes(path, 8)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"
    return f"a file that starts with {start!r}" if start else "an empty file"


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable if the system can."""
    handle = open_folder(folder)
    if handle is None:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def writable_folder(name: str, path: str | PathLike[str]) -> Path:
    """Creates the folder if it is missing, and writes a file on trial, so that an error does not come after an hour.

    Raises InvalidTypeError, or what `unwritable` returns, naming the argument, if the folder cannot be written.
    """
    folder = checked_path(name, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk has room for a name, but not for the content of a file.
            file.write(b"x")
            file.flush()
        return folder
    except OSError as error:
        raise unwritable(name, folder, error) from error


def unwritable(name: str, path: Path, error: OSError) -> InvalidValueError | FileError:
    """The error for a folder that cannot be written: that of the argument, or that of a system that lacks room."""
    text = f"{name}: expected a folder that can be written, got {str(path)!r}: "
    if error.errno in LACKS:
        return FileError(error.errno, text + reason_of(error, path))
    return InvalidValueError(f"{text}{error}")
