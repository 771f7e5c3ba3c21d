"""The lock of a buffer's folder: one process writes, and the system releases the lock if that process dies."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from really._utils import system
from really._utils.input_files import open_regular, read_small
from really.errors import LockedError

LOCK = "lock"


class FolderLock:
    """An exclusive flock on the file `lock` of a folder, held until `release`.

    Raises:
        LockedError: another process holds it.
        OSError: the system does not open or write the file.
    """

    def __init__(self, folder: Path) -> None:
        self._process = os.getpid()
        try:
            self._handle = _locked_file(folder / LOCK)
        except BlockingIOError as error:
            raise LockedError(
                f"{folder}: expected a buffer that nobody else writes, but {_owner(folder / LOCK)}"
            ) from error
        try:
            length = os.pwrite(self._handle, str(self._process).encode(), 0)
            os.ftruncate(self._handle, length)  # not to 0: file systems bring a file that is written anew to the disk
        except BaseException:
            self.release()
            raise

    def is_at(self, folder: Path) -> bool:
        """Whether this is the lock of the folder that is at this path now."""
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(folder / LOCK))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def release(self) -> None:
        """Releases the lock; harmless when repeated."""
        handle, self._handle = self._handle, -1
        if handle < 0:
            return
        if os.getpid() == self._process:
            system.unlock(handle)
        os.close(handle)


def _owner(path: Path) -> str:
    """Who holds a lock, and what to do about it."""
    owner = read_small(path)[:20].decode(errors="replace")
    if owner == str(os.getpid()):
        return "another buffer of this process does; close that one: buffer.close()"
    return f"process {owner or 'another one'} does; open it with mode='r' to read it meanwhile"


def _locked_file(path: Path) -> int:
    """A handle of the file, locked; raises BlockingIOError if another process has locked it."""
    while True:
        handle = open_regular(path, os.O_RDWR | os.O_CREAT)
        try:
            system.lock(handle, wait=False)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):  # else its last owner has removed it meanwhile
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
