"""Folders that appear complete or not at all: filled under a temporary name, made durable, then renamed.

A parent has several of them as `<stem>_<time>`; the names tell which is the newest. A killed process can leave an
incomplete folder behind. The next process that writes into the parent removes it: a lock on the parent excludes that
another process is still writing.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from really._utils.atomic_files import described, sync_folder
from really.errors import FileError, InvalidValueError

log = logging.getLogger("really")

# UTC, so that names sort by time even when clocks change for summer time.
TIME_FORMAT = "%Y%m%dT%H%M%S-%f"
TIME = r"\d{8}T\d{6}-\d{6}"
PARTIAL = ".partial"
LEFT_BEHIND = re.compile(rf"\..+_{TIME}(\.\d+)?{re.escape(PARTIAL)}")


def write(parent: Path, stem: str, fill: Callable[[Path], None], keep: int | None = None) -> Path:
    """Writes a new folder `<parent>/<stem>_<time>`; one writer at a time. Returns its path.

    Args:
        parent: created if it is missing.
        stem: the name before the time.
        fill: takes the folder under its temporary name, and writes files into it.
        keep: how many of these folders to keep, the new one included; older ones are removed after the new one is
            complete. None keeps all.

    Raises:
        InvalidValueError: `parent` is no folder that can be written.
        FileError: the system cannot write a file; the new folder is removed.
    """
    with _locked(_opened(parent)) as locked:
        if locked:
            _remove([entry for entry in parent.iterdir() if LEFT_BEHIND.fullmatch(entry.name)])
        folder = _filled(parent, stem, fill)
        if keep is not None:
            _remove(found(parent, stem)[:-keep])
    return folder


def found(parent: Path, stem: str) -> list[Path]:
    """The complete folders in `parent`, oldest first; entries with other names are ignored."""
    names = re.compile(rf"{re.escape(stem)}_{TIME}")
    return sorted(entry for entry in parent.iterdir() if names.fullmatch(entry.name) and entry.is_dir())


def newest(path: Path, stem: str) -> Path:
    """The newest folder in `path`, or `path` itself if it is such a folder.

    Raises InvalidValueError if there is none; the message says what is there instead.
    """
    if not path.is_dir():
        raise InvalidValueError(
            f"path: expected a folder with {stem}_<time> in it, got {str(path)!r}: {described(path)}"
        )
    if re.fullmatch(rf"{re.escape(stem)}_{TIME}", path.resolve().name):
        return path
    if folders := found(path, stem):
        return folders[-1]
    names = sorted(entry.name for entry in path.iterdir())
    there = f"it holds {', '.join(map(repr, names[:10]))}{' ...' * (len(names) > 10)}" if names else "it is empty"
    raise InvalidValueError(f"path: expected a folder {stem}_<time> in {str(path)!r}, but {there}")


def _filled(parent: Path, stem: str, fill: Callable[[Path], None]) -> Path:
    partial = parent / f".{stem}_{datetime.now(UTC).strftime(TIME_FORMAT)}.{os.getpid()}{PARTIAL}"
    try:
        partial.mkdir()
        fill(partial)
        for file in partial.iterdir():
            _sync(file)
        sync_folder(partial)
        folder = partial.rename(parent / f"{stem}_{_time_of_new(parent, stem).strftime(TIME_FORMAT)}")
        sync_folder(parent)
    except OSError as error:
        raise FileError(
            error.errno, f"{parent}: expected to write {stem}_<time>, but {error.strerror or error}"
        ) from error
    finally:
        # After the rename nothing has this name.
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _time_of_new(parent: Path, stem: str) -> datetime:
    """The time now; just after the newest folder if the clock went back. So the last written folder is the newest."""
    now, folders = datetime.now(UTC), found(parent, stem)
    if not folders:
        return now
    last = datetime.strptime(folders[-1].name.removeprefix(f"{stem}_"), TIME_FORMAT).replace(tzinfo=UTC)
    return max(now, last + timedelta(microseconds=1))


def _remove(folders: list[Path]) -> None:
    """Renames folders to temporary names, then removes them: if a kill interrupts it, no half folder counts."""
    for folder in folders:
        try:
            gone = folder.with_name(f".{folder.name.lstrip('.').removesuffix(PARTIAL)}{PARTIAL}")
            shutil.rmtree(folder.rename(gone))
        except OSError as error:
            log.warning("%s could not be removed: %s", folder, error)


def _opened(parent: Path) -> int:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InvalidValueError(f"path: expected a folder that can be written, got {str(parent)!r}: {error}") from error


@contextlib.contextmanager
def _locked(handle: int) -> Iterator[bool]:
    """Holds a folder's lock. Yields False if the file system has no locks; old incomplete folders then stay."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        locked = True
    except OSError:
        locked = False
    try:
        yield locked
    finally:
        if locked:
            # To close the handle is not enough: a process forked meanwhile has it, too.
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
