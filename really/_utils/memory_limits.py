"""How much memory this process can still take, by the limits of the machine, of a container and of the process."""

from __future__ import annotations

import os
from collections.abc import Iterator

from really._utils.system import READ_FLAGS
from really.errors import NotEnoughMemoryError

NO_LIMIT = 1 << 60
"""A control group of version 1 that has no limit names one of more bytes than this."""
MOST_AT_ONCE = 1 << 16


def refuse_if_too_big(what: str, needed: int, promised: int = 0, advice: str = "") -> int | None:
    """`available_bytes()`; raises NotEnoughMemoryError if they, less the `promised` ones, are less than `needed`."""
    left = available_bytes()
    available = None if left is None else max(0, left - promised)
    if available is not None and needed > available:
        raise NotEnoughMemoryError(f"{what}: needs {needed:,} bytes, available are {available:,}{advice}")
    return left


def available_bytes() -> int | None:
    """The least that machine, control groups and process limit leave. Returns None if no limit is known."""
    left = [*_machine_left(), *_cgroup_left(), *_process_left()]
    return max(0, min(left)) if left else None


def own_bytes() -> int:
    """Bytes that this process holds in memory for itself, without files and shared memory. Returns 0 if unknown."""
    pages = _read("/proc/self/statm").split()
    if not pages:
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def _machine_left(meminfo: str = "/proc/meminfo") -> Iterator[int]:
    _, name, rest = _read(meminfo).partition("MemAvailable:")
    if name:
        yield int(rest.split(maxsplit=1)[0]) * 1024


def _cgroup_left(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> Iterator[int]:
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _group_left(root, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            yield from _group_left(f"{root}/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _group_left(root: str, path: str, limit_name: str, used_name: str) -> Iterator[int]:
    """What the limits of a group and of those that it is part of leave, up to `root`."""
    folder = f"{root}/{path.strip('/')}".rstrip("/")
    while len(folder) >= len(root):
        limit = _read(f"{folder}/{limit_name}").strip()
        is_limited = limit.isdigit() and int(limit) < NO_LIMIT
        used = _read(f"{folder}/{used_name}").strip() if is_limited else ""
        if used.isdigit():
            yield int(limit) - int(used)
        folder = os.path.dirname(folder)


def _process_left() -> Iterator[int]:
    try:
        import resource
    except ImportError:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = [] if limit == resource.RLIM_INFINITY else _read("/proc/self/statm").split()
    if pages:
        yield limit - int(pages[0]) * resource.getpagesize()


def _read(path: str) -> str:
    """The text of a file of the system; "" if there is none. A file object of Python would take twice as long."""
    try:
        handle = os.open(path, READ_FLAGS)
    except OSError:
        return ""
    try:
        return b"".join(iter(lambda: os.read(handle, MOST_AT_ONCE), b"")).decode()
    except OSError:
        return ""
    finally:
        os.close(handle)
