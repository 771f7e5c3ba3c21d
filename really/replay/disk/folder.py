"""The folder of a buffer on disk: made, locked, opened, checked, grown, made durable.

    schema.json   what the buffer is (schema.py); it is written last and renamed, and makes the folder a buffer
    records       [slots, stride] the rows, mapped shared and sparse; row number r is in slot r % slots
    frames.N      blocks of the frames that columns share, and frames.N.table, which finds them (frame_files.py)
    priorities    of rows that are drawn by priority (priority_files.py)
    rollback      only while the buffer returns to a checkpoint (rollback.py)
    update        only while columns of rows are written (update_file.py)
    removed       rows that were removed before they dropped out (removed_file.py)
    cursor        which rows are held, and the generator's state (cursor_page.py)
    checksums     of rows, frames and cursor (checksum_file.py)
    lock          held by the one process that writes (lock.py)
    identity      of a buffer that was part of a checkpoint before its schema was known

There are `capacity` slots and spare ones. New rows go to slots that hold no row; then one store of the cursor commits
them. So a process that is killed leaves all rows whose `put` returned, and no row that is half there. The system keeps
what was stored to a shared mapping when the process dies; only `flush` makes it outlive a loss of power.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fnmatch
import functools
import logging
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import described, leftovers_of, sync_folder
from really._utils.checks import checked_path
from really._utils.forks import ForkGroup, Order
from really._utils.input_files import reading
from really._utils.mapped_files import MappedFile, existing, free_bytes
from really._utils.memory_limits import available_bytes
from really._utils.system import check_mapped_folders, reason_of
from really.data.frames import field_nbytes
from really.data.schema import Spec
from really.errors import (
    ClosedError,
    DiskFullError,
    FileError,
    InvalidFileError,
    InvalidValueError,
    LockedError,
    ReadOnlyError,
    ReallyError,
    one_of,
)
from really.replay import engine
from really.replay._ring import Ring
from really.replay.arguments import MAX_BYTES
from really.replay.disk import (
    checksum_file,
    frame_files,
    priority_files,
    removed_file,
    rollback,
    schema,
    update_file,
)
from really.replay.disk.changeable import ChangeableFolder
from really.replay.disk.cursor_page import CURSOR, CursorPage, check_generator
from really.replay.disk.folder_checksums import FolderChecksums
from really.replay.disk.frame_files import FrameFile
from really.replay.disk.lock import LOCK, FolderLock
from really.replay.disk.room import NO_END, RoomWatch
from really.replay.disk.runs import RECORDS
from really.replay.disk.schema import IDENTITY, PARTIAL, SCHEMA, WHAT, FolderOptions, FolderSchema
from really.replay.disk.verification import Verification
from really.replay.options import BufferOptions
from really.replay.samplers import PrioritizedSampler

log = logging.getLogger("really")

OWN_FILES = (
    *(RECORDS, CURSOR, LOCK, PARTIAL, IDENTITY, leftovers_of(IDENTITY), priority_files.NAME, priority_files.PARTIAL),
    *(*frame_files.NAMES, *rollback.NAMES, *removed_file.NAMES, *update_file.NAMES),
    *(checksum_file.NAME, checksum_file.PARTIAL),
)
LEFT = (
    *(leftovers_of(IDENTITY), priority_files.PARTIAL, checksum_file.PARTIAL),
    *(removed_file.NAMES[1], update_file.NAMES[1]),
)
"""What a kill may leave of files that were being written, apart from that of `rollback`."""
WITHOUT_ROWS = "a buffer's folder without rows: its first put writes the schema"
WHOLE = {SCHEMA, RECORDS, CURSOR, LOCK, checksum_file.NAME}
"""What no kill leaves to be removed."""
MODES = ("r", "r+")


class Folder(ChangeableFolder):
    """A buffer's folder, open. `schema` is None until a buffer has been made in it.

    A folder that is opened for writing is made if it is not there, and locked until `close`. The ring works in
    `records`, [slots * stride] uint8, and `page`, [4096] uint8, and calls `make_room`.

    Raises:
        InvalidValueError: the path holds something else, or a buffer that is damaged or of another version.
        LockedError: somebody else writes it.
        FileError: the system does not make, open or map a file.
    """

    records: NDArray[np.uint8]
    page: NDArray[np.uint8]

    def __init__(self, path: Path, *, writable: bool) -> None:
        super().__init__(path, writable=writable)
        self.schema: FolderSchema | None = None
        self._lock: FolderLock | None = None
        self._made_folder = False
        self._files: list[MappedFile] = []
        self._frames: list[FrameFile] = []
        self._ring: weakref.ref[Ring] | None = None
        self._checksums: FolderChecksums | None = None
        self._priorities: PrioritizedSampler | None = None
        self._kept: dict[str, Any] | None = None
        self._unfinished: rollback.Target | None = None
        self._changing, self._is_told, self._has_begun = threading.RLock(), False, False
        self._room_watch = RoomWatch(self.path)
        check_mapped_folders(str(self.path))
        _check_folder(self.path)
        try:
            if writable:
                self._claim()
            self._stored = schema.read(self.path)
            if writable:
                _remove_left(self.path, has_buffer=self._stored is not None)
            elif rollback.is_pending(self.path):
                raise LockedError(
                    f"{self.path}: expected a buffer to read, got one that is about to return to a checkpoint; if no "
                    f"process does that now, mode='r+' finishes it"
                )
            if self._stored is not None:
                with reading(self.path / SCHEMA, "what a buffer is"):
                    self.schema = FolderSchema.from_json(self._stored)
                    _check_size(self.schema)
                self._kept = priority_files.read(self.path, expected=self.schema.prioritized)
                with reading(self.path / SCHEMA, "what a buffer is"):
                    BufferOptions.checked(**self.options())
                self._map(self.schema, new=False)
        except BaseException:
            self.close()
            raise
        _folders.add(self)

    def create(
        self, options: BufferOptions, spec: Spec, given: FolderOptions, bit_generator: np.random.BitGenerator
    ) -> Ring:
        """Makes a buffer in a folder that has none; returns its ring.

        Raises:
            DiskFullError: the full buffer would not fit on the disk, unless `options.overcommit`.
            FileError: no file can be that long, or the folder is no longer at its path.
        """
        self.check_files()
        new = FolderSchema.new(options, spec, given, schema.identity_without_schema(self.path, keeps=False))
        if new.nbytes >= MAX_BYTES:
            raise FileError(errno.EFBIG, f"{self.path}: needs {new.nbytes:,} bytes, more than a file can have")
        if not options.overcommit:
            _refuse_if_too_big(self.path, new)
        self._map(new, new=True)
        self._page.write_head(new)
        ring = self._new_ring(new, bit_generator, new=True)
        assert self._checksums is not None
        self._checksums.start()
        self._begin(ring)
        ring.store_generator()
        self._stored = new.to_json(ring.offsets)
        schema.write(self.path, self._stored)
        self.schema = new
        (self.path / IDENTITY).unlink(missing_ok=True)
        return ring

    def ring(self, bit_generator: np.random.BitGenerator) -> Ring:
        """The ring of the buffer that is there. If it can be written, its generator continues where it was left."""
        assert self.schema is not None
        self._page.check(self.schema)
        if self.writable:
            bit_generator.state = self._page.generator_state()
        ring = self._new_ring(self.schema, bit_generator, new=False)
        if self.schema.to_json(ring.offsets) != self._stored:
            raise InvalidFileError(f"{self.path / SCHEMA}: expected rows laid out as this version does, got others")
        assert self._checksums is not None
        self._checksums.check(ring)
        if self.writable:
            self._checksums.start()
            removed_file.resume(self.path, self.identity, ring, writable=True)
            used = min(ring.num_put, self.schema.num_slots) * ring.stride
            self._files[0].check_allocated(used)
            self.resume_update(ring)
            self.watch_room(ring)
        else:
            self.read_removals(ring)
        return ring

    @property
    def identity(self) -> str:
        """What distinguishes the buffer from all others, wherever its folder is."""
        return self.schema.identity if self.schema else schema.identity_without_schema(self.path, keeps=True)

    @property
    def spare(self) -> int:
        """Rows beyond the capacity that the files have room for."""
        return 0 if self.schema is None else self.schema.spare

    def options(self) -> dict[str, Any]:
        """The arguments that make a buffer of the one that is there."""
        assert self.schema is not None
        return self.schema.options() | {name: self._kept[name] for name in ("alpha", "eps") if self._kept}

    def adopt(self, priorities: PrioritizedSampler | None, num_put: int) -> None:
        """Writes these priorities from now on; they continue those of the folder (`priority_files.resume`)."""
        kept, self._kept = self._kept, None
        if kept is not None:
            priority_files.resume(priorities, kept, self.path, num_put, with_generator=self.writable)
        self._priorities = priorities
        if kept is None and priorities is not None and self.writable:
            priority_files.keep(self.path, priorities)

    def keep_priorities(self) -> None:
        """Writes the priorities if there are any, of a buffer, and the files are this process's to write."""
        if self._priorities is not None and self._writes():
            self.check_files()
            self._keep_priorities()

    def make_room(self, ring: Ring, num_rows: int) -> None:
        """Allocates blocks of the disk; the ring calls it before it writes rows that have none yet.

        Raises:
            DiskFullError: there is no room; the buffer is as before.
            FileError: the first put of this process cannot remove the seal; the buffer is as before.
            ReadOnlyError, ClosedError: the files are not this process's to write.
        """
        self.check_writable("put")
        with self._changing:
            self._finish_rollback(ring)
            self._begin(ring)
            slots = min(ring.num_put + num_rows, self._num_slots(ring))
            try:
                self._files[0].allocate(slots * ring.stride)
            except DiskFullError as error:
                raise DiskFullError(
                    error.errno, f"put: {num_rows:,} rows do not fit, none is in: {error.strerror}"
                ) from error
            if self.schema is not None:
                self._room_watch.check(ring, self.schema, num_rows)
            ring.set_allocated_end(self._room(ring))

    def watch_room(self, ring: Ring) -> None:
        """Makes the ring call `make_room`, which warns, when little room is left to return to the last checkpoint."""
        assert self.schema is not None
        self._room_watch.start(ring, self.schema)
        ring.set_allocated_end(self._room(ring))

    def warn_of_frames_given_up(self) -> None:
        """Warns that the frames of a put took the room of frames that only a checkpoint needed."""
        self._room_watch.frames_given_up()

    def flush(self) -> None:
        """Returns when the rows put before, then the cursor, are on the disk, safe from a loss of power.

        Rows are made durable before the cursor that counts them. A put that runs at the same time may be counted by the
        durable cursor without being durable: flush while nobody puts to be safe from a loss of power.
        """
        self.check_writable("flush")
        self.check_files()
        for frames in self._frames:
            frames.sync()
        for file in self._files:
            file.sync()
        self.keep_priorities()
        self.keep_checksums()
        sync_folder(self.path)

    def keep_checksums(self) -> None:
        """Writes the checksums of rows that lack them if the files are this process's to write."""
        if self._writes():
            self.check_files()
            self._keep_checksums()

    def verify(self, ring: Ring) -> Verification:
        """Compares all rows that are held with their checksums."""
        assert self._checksums is not None
        self.check_files()
        return self._checksums.verify(ring)

    def close(self) -> None:
        """Ends writing and releases the lock; mappings are removed with the last array over them."""
        seals = False
        try:
            if self.schema is not None:
                self.check_files()
                if seals := self._writes():
                    self._keep_priorities()
                    self._keep_checksums()
        finally:
            reason = ClosedError(f"{self.path}: expected an open buffer, got one that has been closed")
            self._detach(reason, seals)

    def abandon(self) -> None:
        """Closes a folder in which no buffer could be made, and removes what was made."""
        self._priorities = None
        if self.schema is None and self._lock is not None:
            for name in OWN_FILES:
                for file in self.path.glob(name):
                    file.unlink(missing_ok=True)
            if self._made_folder:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
        self.close()

    def leave_to_parent(self) -> None:
        """In a forked process: the files stay the parent's."""
        if self._refusal is None:
            reason = f"{self.path}: expected the process that opened it, got one forked from it; open it with mode='r'"
            self._detach(ReadOnlyError(reason))

    def drop(self) -> None:
        """Makes the checksums of a buffer that is used no longer. A warning tells what cannot be written."""
        with self._errors_told():
            self.keep_checksums()

    def keep_at_exit(self) -> None:
        """Writes what the end of a process leaves, if it can be written; else a warning tells it."""
        for keep in (self.keep_priorities, self.keep_checksums):
            with self._errors_told():
                keep()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():
            with self._errors_told():
                self.close()

    def promised(self, device: int) -> int:
        """Bytes of that file system that the buffer has yet to take."""
        if not self._files or not self.writable or os.stat(self.path).st_dev != device:
            return 0
        return self._files[0].nbytes - self._files[0].allocated

    @contextlib.contextmanager
    def _errors_told(self) -> Iterator[None]:
        """Where no caller gets an error of the block, a warning tells the first one."""
        try:
            yield
        except ReallyError as error:
            if not self._is_told:
                self._is_told = True
                log.warning("%s", error)

    def _writes(self) -> bool:
        """Whether there are files of a buffer that are this process's to write."""
        return self.schema is not None and self.writable and not sys.is_finalizing()

    def _keep_checksums(self) -> None:
        ring = None if self._ring is None else self._ring()
        if ring is not None and self._checksums is not None:
            self._checksums.update(ring)

    def _detach(self, reason: ReallyError, seals: bool = False) -> None:
        self._refusal, self.writable = reason, False
        ring = None if self._ring is None else self._ring()
        if ring is not None:
            ring.detach()
        try:
            if seals and self._checksums is not None:
                self._checksums.seal()
        finally:
            for file in self._files:
                file.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def _claim(self) -> None:
        """Makes the folder if it is not there, and locks it."""
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                self._made_folder = True
            self._lock = FolderLock(self.path)
        except FileError:
            raise
        except OSError as error:
            raise FileError(
                error.errno, f"{self.path}: expected to write {WHAT}, but {reason_of(error, self.path)}"
            ) from error

    def _map(self, about: FolderSchema, new: bool) -> None:
        mode = {"writable": self.writable, "new": new}
        rows = MappedFile(self.path / RECORDS, about.num_slots * about.stride, **mode)
        self._files = [rows]
        self._page = CursorPage(self.path, **mode)
        self._files.append(self._page.file)
        self.records, self.page = rows.data, self._page.data

    def _new_ring(self, about: FolderSchema, bit_generator: np.random.BitGenerator, new: bool) -> Ring:
        ring = engine.make_ring(about.capacity, about.spec, bit_generator, about.shared, files=self)
        available = available_bytes()
        ring.prefetches_from_disk = available is not None and about.nbytes > available
        mode = {"writable": self.writable, "new": new}
        self._frames = [FrameFile(self.path, at, ring, **mode) for at in range(len(about.shared))]
        # A huge page comes from the disk whole, which is too much for one row.
        self._files[0].advise("RANDOM" if ring.prefetches_from_disk else "HUGEPAGE")
        check_generator(ring, bit_generator)
        self._ring = weakref.ref(ring)
        tables = [frames.table.data for frames in self._frames]
        self._checksums = FolderChecksums(self.path, about, self._page, tables)
        return ring

    def _room(self, ring: Ring) -> int:
        if self._unfinished is not None or not self._has_begun:
            return 0
        num_slots = self._files[0].allocated // ring.stride
        return min(self._room_watch.warn_at, NO_END if num_slots >= self._num_slots(ring) else num_slots)

    def _num_slots(self, ring: Ring) -> int:
        return len(self.records) // ring.stride


def opened(
    path: str | os.PathLike[str] | Folder, options: BufferOptions, spec: Spec | None, given: FolderOptions
) -> Folder:
    """The folder at `path`, open for writing; if it has a buffer, that is one of these options and this schema.

    Raises InvalidValueError if it has another, saying what differs; else as `Folder` does.
    """
    if isinstance(path, Folder):
        return path
    folder = Folder(checked_path("path", path), writable=True)
    try:
        if folder.schema is not None:
            for what, expected, got in schema.differences(folder.schema, options, spec, given):
                raise InvalidValueError(f"{what}: expected {expected}, as the buffer at {path} has, got {got}")
    except BaseException:
        folder.close()
        raise
    return folder


def open_folder(path: str | os.PathLike[str], mode: str) -> Folder:
    """The folder of the buffer at `path`: mode "r" reads while another process may write, "r+" writes as well."""
    if mode not in MODES:
        raise InvalidValueError(one_of("mode", mode, MODES))
    folder = checked_path("path", path)
    if not (folder / SCHEMA).exists():
        hint = "; ReplayBuffer.load() reads a file that save() wrote" if folder.is_file() else ""
        raise InvalidValueError(f"{path}: expected {WHAT}, got {_contents(folder)}{hint}")
    return Folder(folder, writable=mode == "r+")


def is_without_rows(path: Path) -> bool:
    """Whether a folder is that of a buffer into which nothing was put, or whose creation was cut short."""
    names = {entry.name for entry in path.iterdir()}
    return LOCK in names and SCHEMA not in names and all(map(_matching(OWN_FILES), names))


def _check_folder(path: Path) -> None:
    """Raises InvalidValueError if `path` is no buffer's folder, nor one whose creation was cut short."""
    if (path / SCHEMA).exists() or not path.exists():
        return
    if not path.is_dir():
        raise InvalidValueError(f"{path}: expected {WHAT}, or nothing, got {described(path)}")
    if any(not _matching(OWN_FILES)(entry.name) for entry in path.iterdir()):
        raise InvalidValueError(f"{path}: expected {WHAT}, an empty one, or nothing, got {_contents(path)}")


def _remove_left(path: Path, has_buffer: bool) -> None:
    """Removes what a kill has left of files that were being written."""
    names = set(os.listdir(path)) - WHOLE
    whole = () if has_buffer else (priority_files.NAME,)
    is_left = _matching((*LEFT, *rollback.names_left(names), *whole))
    for name in filter(is_left, names):
        (path / name).unlink(missing_ok=True)


@functools.cache
def _matching(patterns: tuple[str, ...]) -> Callable[[str], Any]:
    """What says whether a name matches one of the patterns."""
    return re.compile("|".join(map(fnmatch.translate, patterns))).match


def _contents(path: Path) -> str:
    if not path.is_dir():
        return described(path)
    if is_without_rows(path):
        return WITHOUT_ROWS
    names = sorted(entry.name for entry in path.iterdir())
    return f"a folder without {SCHEMA}, with {', '.join(names[:5]) if names else 'nothing in it'}"


def _check_size(about: FolderSchema) -> None:
    """Raises InvalidValueError if no files can be that long."""
    size = about.num_slots * max(1, sum(field_nbytes(about.spec, about.shared)))
    if size >= MAX_BYTES or about.nbytes >= MAX_BYTES:
        raise InvalidValueError(f"expected rows that files can hold, got {size:,} bytes of them")


def _refuse_if_too_big(path: Path, about: FolderSchema) -> None:
    needed = about.nbytes
    device = os.stat(existing(path)).st_dev
    promised = sum(folder.promised(device) for folder in _folders)
    left = max(0, free_bytes(path) - promised)
    if needed > left:
        raise DiskFullError(
            errno.ENOSPC,
            f"{path}: a buffer of {about.capacity:,} rows and {about.spare:,} spare ones needs {needed:,} bytes "
            f"of disk, available are {left:,} (overcommit=True goes on)",
        )


@atexit.register
def _at_exit() -> None:
    for folder in _folders:
        folder.keep_at_exit()


_folders = ForkGroup(Order.FOLDERS, in_child=Folder.leave_to_parent)
