"""What not every system has: locks, allocated blocks, folders that open like files, waits. Linux has all of it.

`import really`, buffers in memory and collecting in this process need none of it. Buffers on disk do, and say so.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from pathlib import Path

from really.errors import InvalidValueError

if sys.platform == "linux":
    import resource
if sys.platform != "win32":
    import fcntl

    HAS_LOCKS = True
else:
    HAS_LOCKS = False

READ_FLAGS: int = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
"""Flags of `os.open` for ordinary files. Without O_NONBLOCK a POSIX system waits for the writer of a FIFO."""


def check_mapped_folders(where: str) -> None:
    """Raises InvalidValueError if this system cannot keep a buffer on disk: it lacks locks or allocated blocks."""
    if not (HAS_LOCKS and hasattr(os, "posix_fallocate")):
        raise InvalidValueError(
            f"{where}: expected a system with flock and posix_fallocate, such as Linux, got {sys.platform}; "
            "a buffer without path= is in memory and works here"
        )


def waits() -> int | None:
    """How often this thread has waited for something. Returns None if the system does not count it."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if sys.platform == "linux" else None


def lock(handle: int, *, wait: bool) -> None:
    """Takes the exclusive lock of an open file or folder, which ends with the process.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
        OSError: the system or the file system has no locks.
    """
    if sys.platform == "win32":
        raise OSError("this system has no flock")
    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def unlock(handle: int) -> None:
    """Releases the lock. To close the handle is not enough: a process that was forked meanwhile has it, too."""
    if sys.platform != "win32":
        fcntl.flock(handle, fcntl.LOCK_UN)


def allocate(handle: int, start: int, nbytes: int) -> None:
    """Allocates blocks of a file on the disk; raises OSError if there is no room."""
    if sys.platform != "linux":
        raise OSError("this system has no posix_fallocate")
    os.posix_fallocate(handle, start, nbytes)


def map_zeros(address: int, nbytes: int) -> None:
    """Maps zeros of this process alone in place of the pages from an address on. Raises OSError if that fails."""
    library, in_place = ctypes.CDLL(None, use_errno=True), 0x10
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    if sys.platform == "win32":
        raise OSError("this system cuts no file that is mapped")
    access, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | in_place
    if library.mmap(address, nbytes, access, kind, -1, 0) != address:
        raise OSError(ctypes.get_errno(), "expected to map memory")


def open_folder(folder: str | os.PathLike[str]) -> int | None:
    """A handle of a folder, to lock it or to make a rename durable. None if the system opens no folders."""
    if sys.platform == "win32":
        return None
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def reason_of(error: OSError, path: str | os.PathLike[str]) -> str:
    """What the system says about a file that it does not write. A disk full of files may have free bytes."""
    if error.errno == errno.ENOSPC and hasattr(os, "statvfs"):
        place = Path(path).absolute()
        found = os.statvfs(next((folder for folder in (place, *place.parents) if folder.exists()), "/"))
        if found.f_files and not found.f_favail:
            return "the file system has no inode left for another file"
    return error.strerror or str(error)
