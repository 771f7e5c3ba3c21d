"""How much memory this process can still take, by the limits of the machine, of a container and of the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from really.errors import NotEnoughMemoryError


def refuse_if_too_big(what: str, needed: int, promised: int = 0, advice: str = "") -> None:
    """Raises NotEnoughMemoryError if `needed` bytes are more than `available_bytes()` less `promised` bytes."""
    left = available_bytes()
    available = None if left is None else max(0, left - promised)
    if available is not None and needed > available:
        raise NotEnoughMemoryError(f"{what}: needs {needed:,} bytes, available are {available:,}{advice}")


def available_bytes() -> int | None:
    """The least that machine, control groups and process limit leave. Returns None if no limit is known."""
    left = [*_machine_left(), *_cgroup_left(), *_process_left()]
    return max(0, min(left)) if left else None


def own_bytes() -> int:
    """Bytes that this process holds in memory for itself, without files and shared memory. Returns 0 if unknown."""
    pages = _read(Path("/proc/self/statm")).split()
    if not pages:
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def _machine_left(meminfo: Path = Path("/proc/meminfo")) -> Iterator[int]:
    for line in _read(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _cgroup_left(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _group_left(root, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            yield from _group_left(root / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _group_left(root: Path, path: str, limit_name: str, used_name: str) -> Iterator[int]:
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        limit, used = _read(folder / limit_name).strip(), _read(folder / used_name).strip()
        if limit.isdigit() and used.isdigit():
            yield int(limit) - int(used)
        if folder == root:
            return


def _process_left() -> Iterator[int]:
    try:
        import resource
    except ImportError:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read(Path("/proc/self/statm")).split()
    if limit != resource.RLIM_INFINITY and pages:
        yield limit - int(pages[0]) * resource.getpagesize()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
