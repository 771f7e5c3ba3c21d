"""What may be done with a buffer's folder: the errors of one that is closed, read-only, full or returned."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

from really._utils.mapped_files import free_bytes
from really.errors import ClosedError, DiskFullError, FileError, OvertakenError, ReadOnlyError, ReallyError


class FolderAccess:
    """What `Folder` inherits: who may use the folder at `path`.

    Attributes:
        path: the folder.
        writable: whether the files are this process's to write.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path, self.writable = path.absolute(), writable
        self._refusal: ReallyError | None = None
        if not writable:
            self._refusal = ReadOnlyError(f"{self.path}: expected a buffer opened for writing, got one of mode 'r'")

    def check_open(self, what: str) -> None:
        """Raises ClosedError if the buffer has been closed."""
        if isinstance(self._refusal, ClosedError):
            self.check_writable(what)

    def check_writable(self, what: str) -> None:
        """Raises ReadOnlyError or ClosedError if the files cannot be written."""
        if self._refusal is not None:
            raise type(self._refusal)(f"{what}: {self._refusal}")

    def refuse_moved(self) -> NoReturn:
        """Raises the error of a process whose folder is no longer at its path."""
        got = "another folder" if self.path.exists() else "nothing"
        raise FileError(
            errno.ENOENT,
            f"{self.path}: expected the folder of the buffer that is open, got {got}: it was moved or removed "
            f"meanwhile; the rows are in its files, priorities and checksums are those of the last flush",
        )

    def refuse_rolled_back(self) -> NoReturn:
        """Raises the error of a process that reads rows of before a return to a checkpoint."""
        raise OvertakenError(
            f"{self.path}: expected rows as they were when the buffer was opened, but the process that writes it has "
            f"returned to a checkpoint; open it again"
        )

    def refuse_frames(self, number: int, key: str, num_in: int) -> DiskFullError:
        """The error of a put for whose frames a file could not grow, and whose first `num_in` rows are in."""
        left, reason = free_bytes(self.path), os.strerror(number)
        done = f"{num_in:,} rows are in" if num_in else "none is in"
        return DiskFullError(
            number, f"put: key {key!r}: {self.path}: no block more for frames, {done}: {reason}, available are {left:,}"
        )
