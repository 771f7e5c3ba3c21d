"""The folder that a buffer on disk lives in: made, locked, opened, checked, grown, made durable.

    schema.json   what the buffer is; it is written last, under another name, and renamed: it makes a folder a buffer
    records       [slots, stride] the rows, mapped shared and sparse; row number r is in slot r % slots
    frames.N      blocks of the frames that columns share, and frames.N.table, which finds them (frame_files.py)
    priorities    of rows that are drawn by priority (priority_files.py)
    cursor        one page, mapped shared (csrc/rows/cursor_page.pxd): which rows are held, and the generator's state
    lock          locked (flock) by the one process that writes, and let go by the system when that one dies

Slots are `capacity` and a spare. New rows go to slots that hold no row, then one store of the cursor commits them; so a
process that is killed leaves all rows whose `put` returned, and none that is half there. What was stored to a shared
mapping outlives the process; to outlive the machine's power it takes `flush`.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import sys
import weakref
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import described, sync_folder
from really._utils.checks import check_path
from really._utils.mapped_files import MappedFile, existing, free_bytes
from really._utils.memory_limits import available_bytes
from really.data.frames import Sharing
from really.errors import (
    ClosedError,
    DiskFullError,
    FileError,
    InvalidValueError,
    LockedError,
    ReadOnlyError,
    ReallyError,
    one_of,
)
from really.replay._ring import Ring
from really.replay.arguments import MAX_BYTES
from really.replay.columns import Spec
from really.replay.disk import frame_files, priority_files
from really.replay.disk import schema as folder_schema
from really.replay.disk.frame_files import FrameFile
from really.replay.disk.schema import GENERATOR, PARTIAL, SCHEMA, VERSION, WHAT, About
from really.replay.samplers import PrioritizedRows

RECORDS, CURSOR, LOCK = "records", "cursor", "lock"
OWN_FILES = (RECORDS, CURSOR, LOCK, PARTIAL, priority_files.NAME, priority_files.PARTIAL, *frame_files.NAMES)
MAGIC = b"REALLYRB"
HEAD_PARTS = ("at its start", "as version", "as the buffer's identity")
PAGE = 4096
HEAD, NUMBERS, NUM_STATES, STATES = slice(0, 32), slice(64, 88), slice(128, 136), (slice(192, 232), slice(256, 296))
MODES = ("r", "r+")
ENDLESS = (1 << 63) - 1


class Storage:
    """A buffer's folder, open; `about` is None as long as no buffer has been made in it.

    Opened for writing it is locked until `close`, and made where it is not there.

    Raises:
        InvalidValueError: the path holds something else, or a buffer that is damaged or of another version.
        LockedError: somebody else writes it.
        FileError: the system does not make, open or map a file.
    """

    records: NDArray[np.uint8]
    page: NDArray[np.uint8]

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path, self.writable = path.absolute(), writable
        self.about: About | None = None
        self._refusal: ReallyError | None = None
        self._lock, self._made_folder, self._process = -1, False, os.getpid()
        self._files: list[MappedFile] = []
        self._frames: list[FrameFile] = []
        self._ring: weakref.ref[Ring] | None = None
        self._priorities: PrioritizedRows | None = None
        self._kept: dict[str, Any] | None = None
        _check_folder(self.path)
        try:
            if writable:
                self._claim()
            else:
                self._refusal = ReadOnlyError(f"{self.path}: expected a buffer opened for writing, got one of mode 'r'")
            self._names = folder_schema.read(self.path)
            if writable:
                priority_files.remove_left(self.path, all_of_it=self._names is None)
            if self._names is not None:
                self.about = About.from_json(self._names)
                self._kept = priority_files.read(self.path, expected=self.about.prioritized)
                self._map(self.about, new=False)
        except BaseException:
            self.close()
            raise
        _storages.add(self)

    def create(self, about: About, bit_generator: np.random.BitGenerator, overcommit: bool) -> Ring:
        """Makes the buffer in the folder that is still without one; its ring.

        Raises:
            DiskFullError: the full buffer would not fit on the disk, unless `overcommit`.
            FileError: no file can be so long.
        """
        if about.nbytes >= MAX_BYTES:
            raise FileError(errno.EFBIG, f"{self.path}: needs {about.nbytes:,} bytes, more than a file can have")
        if not overcommit:
            _refuse_if_too_big(self.path, about)
        self._map(about, new=True)
        self.page[HEAD] = np.frombuffer(_head(about), np.uint8)
        ring = self._new_ring(about, bit_generator, new=True)
        ring.store_generator()
        self._names = about.to_json(ring.offsets)
        folder_schema.write(self.path, self._names)
        self.about = about
        return ring

    def ring(self, bit_generator: np.random.BitGenerator) -> Ring:
        """The ring of the buffer that is there; where it can be written, the generator goes on as it was left."""
        assert self.about is not None
        self._check_page(self.about)
        if self.writable:
            bit_generator.state = self._generator_state()
        ring = self._new_ring(self.about, bit_generator, new=False)
        if self.about.to_json(ring.offsets) != self._names:
            raise InvalidValueError(f"{self.path / SCHEMA}: expected rows laid out as this version does, got others")
        if self.writable:
            used = min(ring.num_put, self.about.num_slots) * ring.stride
            self._files[0].check_allocated(used)
            ring.set_room(self._room(ring))
        return ring

    def drawn_by(self) -> dict[str, Any]:
        """Arguments of the buffer there that say what its batches are."""
        assert self.about is not None
        found = {"n_step": self.about.n_step, "gamma": self.about.gamma}
        return found if self._kept is None else found | {name: self._kept[name] for name in ("alpha", "eps")}

    def adopt(self, priorities: PrioritizedRows | None, num_put: int) -> None:
        """Writes these from now on; they go on from those that the folder had (`priority_files.go_on`)."""
        kept, self._kept = self._kept, None
        if kept is not None:
            priority_files.go_on(priorities, kept, self.path, num_put, with_generator=self.writable)
        self._priorities = priorities
        if kept is None:
            self.keep_priorities()

    def keep_priorities(self) -> None:
        """Writes the priorities, where there are any and the files are this buffer's to write."""
        if self._priorities is not None and self.writable and not sys.is_finalizing():
            priority_files.keep(self.path, self._priorities)

    def make_room(self, ring: Ring, num_rows: int) -> None:
        """Called by the ring before it writes rows for which the disk has not set blocks aside yet.

        Raises:
            DiskFullError: there is no room; the buffer is as before.
            ReadOnlyError, ClosedError: the files are not this buffer's to write.
        """
        self.check_writable("put")
        slots = min(ring.num_put + min(num_rows, ring.capacity), self._num_slots(ring))
        try:
            self._files[0].allocate(slots * ring.stride)
        except DiskFullError as error:
            raise DiskFullError(
                error.errno, f"put: {num_rows:,} rows do not fit, none is in: {error.strerror}"
            ) from error
        ring.set_room(self._room(ring))

    @property
    def capacity(self) -> int:
        """How many rows the buffer there keeps."""
        assert self.about is not None
        return self.about.capacity

    def check_open(self, what: str) -> None:
        """Raises if the buffer has been closed."""
        if isinstance(self._refusal, ClosedError):
            self.check_writable(what)

    def check_writable(self, what: str) -> None:
        """Raises why the files cannot be written, if so."""
        if self._refusal is not None:
            raise type(self._refusal)(f"{what}: {self._refusal}")

    def flush(self) -> None:
        """Returns when the rows put before, then the cursor, are on the disk: the machine's power may go.

        Rows are made durable before the cursor that says that they are there. A put that goes on meanwhile may be in
        the durable cursor without being durable: flush when nobody puts, if the power's loss is what you fear.
        """
        self.check_writable("flush")
        for frames in self._frames:
            frames.sync()
        for file in self._files:
            file.sync()
        self.keep_priorities()
        sync_folder(self.path)

    def refuse_frames(self, number: int, key: str, num_in: int) -> DiskFullError:
        """The error of a put for whose frames a file could not grow, of which the first rows are in."""
        left, reason = free_bytes(self.path), os.strerror(number)
        done = f"{num_in:,} rows are in" if num_in else "none is in"
        return DiskFullError(
            number, f"put: key {key!r}: {self.path}: no block more for frames, {done}: {reason}, available are {left:,}"
        )

    def close(self) -> None:
        """Ends writing and lets the folder go to whoever opens it next; mappings go with the last array over them."""
        try:
            self.keep_priorities()
        finally:
            self._leave(ClosedError(f"{self.path}: expected an open buffer, got one that has been closed"))

    def abandon(self) -> None:
        """Closes a folder in which no buffer could be made, and leaves nothing of it."""
        self._priorities = None
        if self.about is None and self._lock >= 0:
            for name in OWN_FILES:
                for file in self.path.glob(name):
                    file.unlink(missing_ok=True)
            if self._made_folder:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
        self.close()

    def leave_to_parent(self) -> None:
        """In a forked process: the files stay the other one's."""
        if self._refusal is None:
            reason = f"{self.path}: expected the process that opened it, got one forked from it; open it with mode='r'"
            self._leave(ReadOnlyError(reason))

    def __del__(self) -> None:
        self.close()

    def _promised(self, device: int) -> int:
        """Bytes of that file system that the buffer has yet to take."""
        if not self._files or not self.writable or os.stat(self.path).st_dev != device:
            return 0
        return self._files[0].nbytes - self._files[0].allocated

    def _leave(self, reason: ReallyError) -> None:
        self._refusal, self.writable = reason, False
        ring = None if self._ring is None else self._ring()
        if ring is not None:
            ring.leave()
        for file in self._files:
            file.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            if os.getpid() == self._process:
                fcntl.flock(lock, fcntl.LOCK_UN)  # a process forked a moment ago may have it, too
            os.close(lock)

    def _claim(self) -> None:
        """Makes the folder where it is not there, and locks it."""
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                self._made_folder = True
            self._lock = _locked_file(self.path / LOCK)
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        except BlockingIOError as error:
            owner = (self.path / LOCK).read_text() or "another one"
            raise LockedError(
                f"{self.path}: expected a buffer that nobody else writes, but process {owner} does; "
                f"open it with mode='r' to read it meanwhile"
            ) from error
        except OSError as error:
            raise FileError(error.errno, f"{self.path}: expected to write {WHAT}, but {error.strerror}") from error

    def _map(self, about: About, new: bool) -> None:
        mode = {"writable": self.writable, "new": new}
        rows = MappedFile(self.path / RECORDS, about.num_slots * about.stride, **mode)
        self._files = [rows]
        cursor = MappedFile(self.path / CURSOR, PAGE, **mode)
        self._files.append(cursor)
        if new:
            cursor.allocate(PAGE)
        self.records, self.page = rows.data, cursor.data

    def _new_ring(self, about: About, bit_generator: np.random.BitGenerator, new: bool) -> Ring:
        kinds = about.spec.values()
        names, dtypes, shapes = list(about.spec), [dtype for dtype, _ in kinds], [shape for _, shape in kinds]
        ring = Ring(about.capacity, names, dtypes, shapes, bit_generator, list(about.shared), storage=self)
        available = available_bytes()
        ring.asks_early = available is not None and about.nbytes > available
        mode = {"writable": self.writable, "new": new}
        self._frames = [FrameFile(self.path, at, ring, **mode) for at in range(len(about.shared))]
        # A huge page comes from the disk whole, which is too much for one row.
        self._files[0].advise("RANDOM" if ring.asks_early else "HUGEPAGE")
        if ring.generator_bytes() != _packed(bit_generator.state):
            raise ReallyError(f"{GENERATOR}: expected its state in memory as NumPy 2 has it, got another layout")
        self._ring = weakref.ref(ring)
        return ring

    def _room(self, ring: Ring) -> int:
        num_slots = self._files[0].allocated // ring.stride
        return ENDLESS if num_slots >= self._num_slots(ring) else num_slots

    def _num_slots(self, ring: Ring) -> int:
        return len(self.records) // ring.stride

    def _check_page(self, about: About) -> None:
        path = self.path / CURSOR
        for what, got, expected in zip(
            HEAD_PARTS, _parts(self.page[HEAD].tobytes()), _parts(_head(about)), strict=True
        ):
            if got != expected:
                raise InvalidValueError(
                    f"{path}: expected {what} {expected.hex()}, got {got.hex()}: damaged or another's"
                )
        num_put, first, num_begun = self.page[NUMBERS].view(np.int64).tolist()
        if not (0 <= first <= num_put < 1 << 60 and num_begun <= num_put + about.num_slots):
            raise InvalidValueError(
                f"{path}: expected 0 <= first row <= rows put, got {first} and {num_put} ({num_begun} begun): damaged"
            )

    def _generator_state(self) -> dict[str, Any]:
        num_states = int(self.page[NUM_STATES].view(np.int64)[0])
        words = self.page[STATES[num_states % 2]]
        has_half, half = words[32:40].view(np.uint32).tolist()
        state = {"state": words[:32].view(np.uint64).copy()}
        return {"bit_generator": GENERATOR, "state": state, "has_uint32": has_half, "uinteger": half}


def opened(
    path: str | os.PathLike[str] | Storage,
    capacity: int,
    keys: tuple[str, ...] | None,
    spec: Spec | None,
    spare: int | None,
    steps: tuple[int, float | None],
    plan: Callable[[Spec], list[Sharing]] | None = None,
) -> Storage:
    """The folder at `path` for writing, if it has no buffer yet or one of this capacity, keys, schema, spare and steps.

    With `plan`, its columns have to share frames as that says of its schema. `steps` are `n_step` and `gamma`.

    Raises InvalidValueError where it has another, saying what differs; else as `Storage` does.
    """
    if isinstance(path, Storage):
        return path
    storage = Storage(check_path("path", path), writable=True)
    try:
        if storage.about is not None:
            for what, expected, got in folder_schema.differences(storage.about, capacity, keys, spec, spare, steps):
                raise InvalidValueError(f"{what}: expected {expected}, as the buffer at {path} has, got {got}")
            if plan is not None and tuple(plan(storage.about.spec)) != storage.about.shared:
                raise InvalidValueError(
                    f"dedup, stack: expected {[*map(tuple, storage.about.shared)]}, as the buffer at {path} has, "
                    f"got {[*map(tuple, plan(storage.about.spec))]}"
                )
    except BaseException:
        storage.close()
        raise
    return storage


def open_folder(path: str | os.PathLike[str], mode: str) -> Storage:
    """The buffer at `path`, in mode "r" to read while others may write or "r+" to write as well."""
    if mode not in MODES:
        raise InvalidValueError(one_of("mode", mode, MODES))
    folder = check_path("path", path)
    if not (folder / SCHEMA).exists():
        raise InvalidValueError(f"{path}: expected {WHAT}, got {_contents(folder)}")
    return Storage(folder, writable=mode == "r+")


def _locked_file(path: Path) -> int:
    """A handle of the file, locked; BlockingIOError if another has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):  # else its last owner has removed it meanwhile
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _check_folder(path: Path) -> None:
    """Raises where `path` holds something that is no buffer's folder, not even one whose creation was cut."""
    if not path.exists():
        return
    if not path.is_dir():
        raise InvalidValueError(f"{path}: expected {WHAT}, or nothing, got {described(path)}")
    if not (path / SCHEMA).exists() and any(
        not any(fnmatch(entry.name, own) for own in OWN_FILES) for entry in path.iterdir()
    ):
        raise InvalidValueError(f"{path}: expected {WHAT}, an empty one, or nothing, got {_contents(path)}")


def _contents(path: Path) -> str:
    if not path.is_dir():
        return described(path)
    names = sorted(entry.name for entry in path.iterdir())
    return f"a folder without {SCHEMA}, with {', '.join(names[:5]) if names else 'nothing in it'}"


def _refuse_if_too_big(path: Path, about: About) -> None:
    needed = about.nbytes
    device = os.stat(existing(path)).st_dev
    promised = sum(storage._promised(device) for storage in _storages)
    left = max(0, free_bytes(path) - promised)
    if needed > left:
        raise DiskFullError(
            errno.ENOSPC,
            f"{path}: a buffer of {about.capacity:,} rows and {about.spare:,} spare ones needs {needed:,} bytes "
            f"of disk, available are {left:,} (overcommit=True goes on)",
        )


def _head(about: About) -> bytes:
    return MAGIC + VERSION.to_bytes(8, sys.byteorder) + bytes.fromhex(about.identity)


def _parts(head: bytes) -> tuple[bytes, bytes, bytes]:
    return head[:8], head[8:16], head[16:]


def _packed(state: Any) -> bytes:
    """The state of an SFC64 as its memory has it."""
    halves = np.array([state["has_uint32"], state["uinteger"]], np.uint32)
    return bytes(state["state"]["state"].astype(np.uint64).tobytes() + halves.tobytes())


def _after_fork() -> None:
    for storage in _storages:
        storage.leave_to_parent()


@atexit.register
def _at_exit() -> None:
    with contextlib.ExitStack() as all_of_them:
        for storage in _storages:
            all_of_them.callback(storage.keep_priorities)


_storages: weakref.WeakSet[Storage] = weakref.WeakSet()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
