"""Folders that appear complete or not at all: filled under a temporary name, made durable, then renamed.

A parent has several of them as `<stem>_<time>`. Each has a number in its `meta.json`, greater than those of all that
were there when it was saved: the greatest is the newest, whatever clocks said. A killed process can leave an incomplete
folder behind. The next process that writes into the parent removes it: a lock on the parent excludes that another
process is still writing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from really._utils import system
from really._utils.atomic_files import described, sync_folder, unwritable
from really._utils.file_formats import read_json
from really.errors import FileError, InvalidValueError, LockedError

log = logging.getLogger("really")

# UTC, so that names sort by time even when clocks change for summer time.
TIME_FORMAT = "%Y%m%dT%H%M%S-%f"
TIME = r"\d{8}T\d{6}-\d{6}"
PARTIAL = ".partial"
META, ARRAYS = "meta.json", ".h5"
MOST_BYTES = 1 << 30
"""Of `meta.json`: statistics of large observations are in it."""
LAST_NUMBER = (1 << 60) - 1
LAST_TIME = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
"""Later times are no time of a save, as no name of a later save could follow."""
_Writer = tuple[int, int, int, int]
_writers: set[_Writer] = set()
"""Process, thread, and the folder's device and inode, of each write that goes on."""
LEFT_BEHIND = re.compile(rf"\..+_{TIME}(\.\d+)?{re.escape(PARTIAL)}")


def write(
    parent: Path,
    stem: str,
    fill: Callable[[Path, int], None],
    keep: int | None = None,
    family: re.Pattern[str] | None = None,
) -> Path:
    """Writes a new folder `<parent>/<stem>_<time>`; one writer at a time. Returns its path.

    Args:
        parent: created if it is missing.
        stem: the name before the time.
        fill: takes the folder under its temporary name and its number, and writes files into it, `meta.json` too.
        keep: how many of these folders to keep, the new one included; older ones are removed after the new one is
            complete. None keeps all.
        family: names of the folders that are numbered together; by default those of this stem.

    Raises:
        InvalidValueError: `parent` is no folder that can be written.
        FileError: the system cannot write a file; the new folder is removed.
        LockedError: a handler of a signal writes into `parent` while the call that it interrupts does.
    """
    with _locked(_opened(parent)) as locked:
        if locked:
            _remove([entry for entry in parent.iterdir() if LEFT_BEHIND.fullmatch(entry.name)])
        folder = _filled(parent, stem, fill, family or names_of(stem))
        if keep is not None:
            _remove(found(parent, names_of(stem))[:-keep])
    return folder


def names_of(stem: str) -> re.Pattern[str]:
    """The names of the folders of this stem."""
    return re.compile(rf"{re.escape(stem)}_(?P<time>{TIME})")


def found(parent: Path, names: re.Pattern[str], *, tells: bool = False) -> list[Path]:
    """The complete folders in `parent` with these names, in the order in which they were saved.

    The names have a group `time`. Folders that hold neither `meta.json` nor arrays are others', and ignored. A folder
    whose number cannot be read is taken for as old as its time says; if no save has such a time, either, the folder is
    another's, too, and a warning says so if it `tells`.
    """
    times = {entry: match["time"] for entry in parent.iterdir() if (match := names.fullmatch(entry.name))}
    numbers = {entry: _number_of(entry) for entry in times if entry.is_dir() and _is_filled(entry)}
    known = sorted((times[entry], number) for entry, number in numbers.items() if number is not None)
    others = {entry for entry, number in numbers.items() if number is None and _time_in(times[entry]) is None}
    for entry in others if tells else ():
        log.warning("%s is ignored: expected a number and a time of a save, but neither can be read", entry)

    def order(entry: Path) -> tuple[int, bool, str]:
        number, time = numbers[entry], times[entry]
        before = [other for earlier, other in known if earlier < time]
        return (max(before, default=-1) if number is None else number), _time_in(time) is not None, time

    return sorted(numbers.keys() - others, key=order)


def _is_filled(folder: Path) -> bool:
    return any(entry.name == META or entry.suffix == ARRAYS for entry in folder.iterdir())


def _number_of(folder: Path) -> int | None:
    try:
        meta = read_json(folder / META, "a description", MOST_BYTES)
        number = meta.get("about", meta).get("number")
    except (OSError, ValueError, AttributeError):
        return None
    return number if type(number) is int and 0 <= number <= LAST_NUMBER else None


def newest(path: Path, stem: str) -> Path:
    """The newest folder in `path`, or `path` itself if it is such a folder.

    Raises InvalidValueError if there is none; the message says what is there instead.
    """
    if not path.is_dir():
        raise InvalidValueError(
            f"path: expected a folder with {stem}_<time> in it, got {str(path)!r}: {described(path)}"
        )
    if names_of(stem).fullmatch(path.resolve().name):
        return path
    if folders := found(path, names_of(stem), tells=True):
        return folders[-1]
    names = sorted(entry.name for entry in path.iterdir())
    there = f"it holds {', '.join(map(repr, names[:10]))}{' ...' * (len(names) > 10)}" if names else "it is empty"
    raise InvalidValueError(f"path: expected a folder {stem}_<time> in {str(path)!r}, but {there}")


def _filled(parent: Path, stem: str, fill: Callable[[Path, int], None], family: re.Pattern[str]) -> Path:
    partial = parent / f".{stem}_{datetime.now(UTC).strftime(TIME_FORMAT)}.{os.getpid()}{PARTIAL}"
    try:
        partial.mkdir()
        earlier = found(parent, family)
        last = max((_number_of(folder) or 0 for folder in earlier), default=0)
        fill(partial, min(1 + last, LAST_NUMBER))
        for file in partial.iterdir():
            _sync(file)
        sync_folder(partial)
        folder = partial.rename(parent / f"{stem}_{_time_after(earlier, family).strftime(TIME_FORMAT)}")
        sync_folder(parent)
    except OSError as error:
        # A FileError about another place says what a user can find there; this folder is removed.
        if error.errno is None or (isinstance(error, FileError) and str(partial) not in str(error)):
            raise
        reason = system.reason_of(OSError(error.errno, os.strerror(error.errno)), parent)
        raise FileError(error.errno, f"{parent}: expected to write {stem}_<time>, but {reason}") from error
    finally:
        # After the rename nothing has this name.
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _time_after(folders: list[Path], names: re.Pattern[str]) -> datetime:
    """The time now; just after the latest folder if the clock went back. So names sort in the order of saving."""
    latest = datetime.now(UTC)
    for folder in folders:
        if (match := names.fullmatch(folder.name)) and (time := _time_in(match["time"])) is not None:
            latest = max(latest, time + timedelta(microseconds=1))
    return latest


def _time_in(text: str) -> datetime | None:
    """The time that is in a name. None for a name that somebody else chose: it is no time, or nearly the last one."""
    try:
        time = datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return time if time <= LAST_TIME else None


def _remove(folders: list[Path]) -> None:
    """Renames folders to temporary names, then removes them: if a kill interrupts it, no half folder counts.

    Of a link only the link is removed.
    """
    for folder in folders:
        try:
            if folder.is_symlink() or not folder.is_dir():
                folder.unlink()
                continue
            gone = folder.with_name(f".{folder.name.lstrip('.').removesuffix(PARTIAL)}{PARTIAL}")
            shutil.rmtree(folder.rename(gone))
        except OSError as error:
            log.warning("%s could not be removed: %s", folder, error)


def _opened(parent: Path) -> int | None:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return system.open_folder(parent)
    except OSError as error:
        raise unwritable("path", parent, error) from error


@contextlib.contextmanager
def _locked(handle: int | None) -> Iterator[bool]:
    """Holds a folder's lock. Yields False if the file system has no locks; old incomplete folders then stay."""
    if handle is None:
        yield False
        return
    locked, writer = False, _writer(handle)
    try:
        _writers.add(writer)
        with contextlib.suppress(OSError):
            system.lock(handle, wait=True)
            locked = True
        yield locked
    finally:
        if locked:
            system.unlock(handle)
        _writers.discard(writer)
        os.close(handle)


def _writer(handle: int) -> _Writer:
    """This thread as the one that writes into the folder; closes the handle if it does so already.

    To wait for the lock would then be to wait for itself.
    """
    about = os.fstat(handle)
    writer = os.getpid(), threading.get_ident(), about.st_dev, about.st_ino
    if writer in _writers:
        os.close(handle)
        raise LockedError(
            "path: expected one save at a time, got one in the middle of another of this thread, as a signal's handler "
            "makes it; let the handler note that a save is due, and save when the other has ended"
        )
    return writer


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
