"""Files that memory is mapped from: made, opened, given blocks ahead of what is written, made durable."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.errors import DiskFullError, FileError, InvalidValueError

STEP = 64 << 20
"""Bytes that a file gets at a time: seldom enough to cost nothing, little enough to leave the disk to others."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class MappedFile:
    """A file of fixed length as `data`, uint8 [nbytes], shared with whoever else maps it.

    A file that is new has no blocks: `allocate` has to come before a byte is written, because a full disk that is only
    met while writing to a mapping ends the process (SIGBUS). The mapping lives as long as an array over it.

    Raises:
        InvalidValueError: the file is of another length.
        FileError: the system does not open, make or map it.
    """

    def __init__(self, path: Path, nbytes: int, *, writable: bool, new: bool = False) -> None:
        self.path, self.nbytes, self.allocated = path, nbytes, 0
        self._growing = threading.Lock()
        self._handle = -1
        try:
            flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_CREAT | os.O_TRUNC if new else 0)
            self._handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
            if new:
                os.ftruncate(self._handle, nbytes)
            self._check_length()
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(self._handle, nbytes, access=access)
        except OSError as error:
            self.close()
            raise self._failed("open and map", error) from error
        except BaseException:
            self.close()
            raise
        self.data: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    def allocate(self, end: int) -> None:
        """Sees to it that the disk has set aside blocks for the bytes before `end`, and for some more where it can.

        Raises DiskFullError where it cannot.
        """
        with self._growing:
            for goal in (min(-(-end // STEP) * STEP, self.nbytes), end):
                if goal <= self.allocated:
                    return
                try:
                    os.posix_fallocate(self._handle, self.allocated, goal - self.allocated)
                except OSError as error:
                    if error.errno not in _FULL:
                        raise self._failed("allocate", error) from error
                else:
                    self.allocated = goal
                    return
        raise self.full(end - self.allocated)

    def check_allocated(self, end: int) -> None:
        """`allocate` for a file from before, which has its blocks unless it was copied without its zeros."""
        held = os.fstat(self._handle).st_blocks * 512
        self.allocated = self.nbytes if held >= self.nbytes else end if held >= end else 0
        if self.allocated < end:
            self.allocate(end)

    def full(self, needed: int) -> DiskFullError:
        """The error for a disk that has no room for so many bytes more."""
        left = free_bytes(self.path)
        return DiskFullError(errno.ENOSPC, f"{self.path}: needs {needed:,} bytes more, available are {left:,}")

    def sync(self) -> None:
        """Returns when what has been written, to the mapping too, is on the disk."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise self._failed("make durable", error) from error

    def advise(self, advice: str) -> None:
        """`madvise` for the whole mapping, by its name without MADV_; nothing where the system does not know it."""
        number = getattr(mmap, f"MADV_{advice}", None)
        if number is not None:
            try:
                self._map.madvise(number)
            except OSError:
                return  # it is advice: a file system may have no use for it

    def close(self) -> None:
        """Gives the handle back; the mapping stays as long as somebody looks at it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self) -> None:
        self.close()

    def _check_length(self) -> None:
        length = os.fstat(self._handle).st_size
        if length != self.nbytes:
            raise InvalidValueError(f"{self.path}: expected a file of {self.nbytes:,} bytes, got {length:,}")

    def _failed(self, what: str, error: OSError) -> FileError:
        if error.errno == errno.ENODEV:
            return FileError(errno.ENODEV, f"{self.path}: expected a file system whose files can be mapped (mmap)")
        if error.errno in _FULL:
            return self.full(self.nbytes)
        return FileError(error.errno, f"{self.path}: expected to {what} it, but {error.strerror or error}")


def free_bytes(path: Path) -> int:
    """Bytes that are free for this user on the file system that `path` is on, or would be."""
    found: Any = os.statvfs(existing(path))
    return int(found.f_bavail * found.f_frsize)


def existing(path: Path) -> Path:
    """`path`, or the innermost folder on the way to it that is there."""
    for folder in (path, *path.absolute().parents):
        if folder.exists():
            return folder
    return Path("/")
