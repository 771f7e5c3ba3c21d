"""Files that are mapped into memory: created, opened, allocated ahead of writes, made durable."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils import system
from really._utils._locks import Lock
from really._utils.input_files import open_regular
from really.errors import DiskFullError, FileError, InvalidFileError

STEP = 64 << 20
"""Bytes that are allocated at a time: rare enough to cost nothing, and small enough to leave disk space to others."""

PIECE = 2 << 20
"""An allocation ends at a multiple of so many bytes, or with the file.

XFS takes blocks for a whole huge page when a byte of it is first written, also for those beyond the allocated ones.
"""

MARGIN = 1 << 20
"""Bytes that an allocation for a large file leaves free.

ext4 takes blocks of its own when allocated ones are first written. A write to a mapping for which it has none ends the
process (SIGBUS).
"""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors for a disk, or a quota, that is full."""


class MappedFile:
    """A file of fixed length as `data`, uint8 [nbytes], shared with all processes that map it.

    A new file has no blocks on the disk. `allocate` must come before a write: if the disk is full, a write to the
    mapping ends the process (SIGBUS). The mapping lives as long as an array over it.

    Raises:
        InvalidFileError: the file has another length, or is no ordinary file.
        FileError: the system cannot open, create or map it.
    """

    def __init__(self, path: Path, nbytes: int, *, writable: bool, new: bool = False) -> None:
        self.path, self.nbytes, self.allocated = path, nbytes, 0
        self._growing = Lock()
        self._handle = -1
        try:
            flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_CREAT | os.O_TRUNC if new else 0)
            self._handle = open_regular(path, flags)
            if new:
                os.ftruncate(self._handle, nbytes)
            self._check_length()
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(self._handle, nbytes, access=access)
        except FileError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise self._failed("open and map", error) from error
        except BaseException:
            self.close()
            raise
        self.data: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    def allocate(self, end: int) -> None:
        """Allocates blocks for the bytes before `end`, and for some bytes more if the disk has room.

        Raises DiskFullError if it has no room for the bytes before `end`.
        """
        with self._growing:
            for goal in (min(-(-end // step) * step, self.nbytes) for step in (STEP, PIECE)):
                if goal <= self.allocated or self._is_allocated(goal):
                    return
        raise self.full(end - self.allocated)

    def _is_allocated(self, goal: int) -> bool:
        """Allocates blocks up to `goal` unless the disk has no room for them and some bytes more."""
        if free_bytes(self.path) < goal - self.allocated + min(MARGIN, self.nbytes // 64):
            return False
        try:
            system.allocate(self._handle, self.allocated, goal - self.allocated)
        except OSError as error:
            _release_blocks(self._handle, self.allocated, goal - self.allocated)
            if error.errno not in FULL:
                raise self._failed("allocate", error) from error
            return False
        self.allocated = goal
        return True

    def check_allocated(self, end: int) -> None:
        """`allocate` for an existing file. It has its blocks, unless it was copied as a sparse file."""
        held = os.fstat(self._handle).st_blocks * 512
        self.allocated = self.nbytes if held >= self.nbytes else end if held >= end else 0
        if self.allocated < end:
            self.allocate(end)

    def full(self, needed: int) -> DiskFullError:
        """The error for a disk that has no room for `needed` more bytes."""
        left = free_bytes(self.path)
        return DiskFullError(errno.ENOSPC, f"{self.path}: needs {needed:,} bytes more, available are {left:,}")

    def sync(self) -> None:
        """Waits until everything written, also to the mapping, is on the disk."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise self._failed("make durable", error) from error

    def is_cut_short(self) -> bool:
        """Whether another program has cut the file short. If so, zeros are mapped in place of what is gone.

        To read what is gone would end this process (SIGBUS).
        """
        if self._handle < 0 or (length := os.fstat(self._handle).st_size) >= self.nbytes:
            return False
        first = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        if first < self.nbytes:
            system.map_zeros(self.data.ctypes.data + first, self.nbytes - first)
        return True

    def is_elsewhere(self) -> bool:
        """Whether the file is no longer at its path: nothing is there, or another file."""
        if self._handle < 0:
            return False
        try:
            return not os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return True

    def advise(self, advice: str) -> None:
        """Calls `madvise` for the mapping if the system knows this advice, whose name is given without MADV_."""
        number = getattr(mmap, f"MADV_{advice}", None)
        if number is not None:
            try:
                self._map.madvise(number)
            except OSError:
                return  # a file system may refuse advice

    def close(self) -> None:
        """Closes the file descriptor. The mapping stays as long as an array over it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the end of Python this module's names may be gone, and the system closes the file.
        if not is_finalizing():
            self.close()

    def _check_length(self) -> None:
        length = os.fstat(self._handle).st_size
        if length != self.nbytes:
            raise InvalidFileError(f"{self.path}: expected a file of {self.nbytes:,} bytes, got {length:,}")

    def _failed(self, what: str, error: OSError) -> FileError:
        if error.errno == errno.ENODEV:
            return FileError(errno.ENODEV, f"{self.path}: expected a file system whose files can be mapped (mmap)")
        reason = system.reason_of(error, self.path)
        if error.errno in FULL and reason == error.strerror:
            return self.full(self.nbytes)
        return FileError(error.errno, f"{self.path}: expected to {what} it, but {reason}")


def _release_blocks(handle: int, start: int, nbytes: int) -> None:
    """Gives back what a refused allocation took, if the system can: some keep it, and the disk stays full."""
    function = getattr(ctypes.CDLL(None), "fallocate64", None) or getattr(ctypes.CDLL(None), "fallocate", None)
    if function is not None:
        keep_size, punch_hole = 1, 2
        function(handle, keep_size | punch_hole, ctypes.c_int64(start), ctypes.c_int64(nbytes))


def free_bytes(path: Path) -> int:
    """Free bytes for this user on the file system of `path`, which need not exist."""
    found: Any = os.statvfs(existing(path))
    return int(found.f_bavail * found.f_frsize)


def existing(path: Path) -> Path:
    """`path`, or the nearest of its parent folders that exists."""
    for folder in (path, *path.absolute().parents):
        if folder.exists():
            return folder
    return Path("/")
