"""The checksums of a buffer on disk: made when rows become durable, compared when the buffer is opened or verified.

A put makes none, because a checksum costs about as much as the copy of a row. `flush`, `close`, checkpoints and the
ordinary end of a process read the rows that were put since, and write the file `checksums`. So rows that were put after
that have no checksum until the next time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from really._utils.input_files import as_file_error, crc32_of, reading
from really._utils.mapped_files import FULL
from really.errors import FileError, InvalidFileError, LockedError
from really.replay._ring import Ring
from really.replay.disk import checksum_file, frame_files, priority_files, runs
from really.replay.disk.checksum_file import Saved, Seal
from really.replay.disk.cursor_page import CURSOR, CursorPage
from really.replay.disk.rollback import Target
from really.replay.disk.schema import FolderSchema
from really.replay.disk.verification import Verification, verified

log = logging.getLogger("really")

NOT_KNOWN = -1
"""Number of the first row while a buffer returns to a checkpoint."""


class FolderChecksums:
    """Makes and compares the checksums of one folder, while its ring lives.

    Args:
        folder: of the buffer.
        schema: of the buffer. If it says that there are no checksums, the methods do nothing.
        page: the cursor.
        tables: of the files of frames, mapped.
    """

    def __init__(self, folder: Path, schema: FolderSchema, page: CursorPage, tables: list[NDArray[np.uint8]]) -> None:
        self._folder, self._schema, self._page, self._tables = folder, schema, page, tables
        self._saved: Saved | None = None
        self._writes = False
        self._changing, self._is_changing = threading.RLock(), False

    def check(self, ring: Ring) -> None:
        """Compares cursor, tables and priorities with what they were when the buffer was closed, or made durable.

        Raises InvalidFileError if one of them, or the file of checksums, is damaged.
        """
        before: tuple[int, int, Seal | None] | None = None
        while True:
            self._saved = saved = self._read(ring)
            if saved is None or (damaged := self._damaged(saved)) is None:
                return
            if before == (saved.first, saved.num_put, saved.seal):  # else another process has written meanwhile
                raise InvalidFileError(
                    f"{self._folder / damaged}: expected its content as it was when the buffer was written last, got "
                    "another: damaged, or older than the checksums after a loss of power (flush() makes rows safe from "
                    f"that; without the file {checksum_file.NAME!r}, a buffer opens and has no checksums)"
                )
            before = saved.first, saved.num_put, saved.seal

    def start(self) -> None:
        """Says that the cursor changes from now on; until then no checksum is made."""
        if self._saved is not None and self._saved.seal is not None:
            self._page.set_sealed(False)
        self._writes = self._schema.checksums

    def unseal(self) -> None:
        """Says, durably, that files other than the cursor change from now on.

        Raises FileError, with nothing changed, if it cannot.
        """
        with self._changing:
            if self._saved is not None and self._saved.seal is not None:
                checksum_file.unseal(self._folder, self._saved)

    def update(self, ring: Ring) -> None:
        """Makes the checksums of the rows put since, and writes all of them. Other threads may put meanwhile.

        Raises FileError if the files cannot be read or written; the file of checksums is then as before.
        """
        with self._one_change():
            if not self._writes or (self._saved is not None and self._is_complete(self._saved, ring)):
                return
            self.unseal()
            saved = self._updated(ring)
            if self._is_written(saved):
                self._saved = saved

    def seal(self) -> None:
        """Adds the checksums of cursor, tables and priorities, which no thread writes any more.

        Raises FileError if the file of checksums cannot be written.
        """
        with self._one_change():
            if self._writes and self._saved is not None:
                seal = dict(self._sealed(self._page.content()[0]))
                if seal == self._saved.seal or self._is_written(replace(self._saved, seal=seal)):
                    self._page.set_sealed(True)

    @contextlib.contextmanager
    def changed(self, numbers: NDArray[np.int64]) -> Iterator[None]:
        """Forgets the checksums of these rows, which the block changes; the next ones are made after it.

        Raises FileError, before the block, if the file of checksums cannot be written.
        """
        with self._one_change():
            self.unseal()
            if self._saved is not None:
                rows = runs.without(self._saved.runs[0], numbers)
                if len(rows) < len(self._saved.runs[0]):
                    self._saved = replace(self._saved, runs=[rows, *self._saved.runs[1:]])
                    if not self._is_written(self._saved):
                        (self._folder / checksum_file.NAME).unlink(missing_ok=True)
            yield

    @contextlib.contextmanager
    def cut(self, ring: Ring, target: Target) -> Iterator[None]:
        """Forgets the rows and frames after a checkpoint; the block drops them. Raises FileError as `update` does."""
        with self._one_change():
            self.unseal()
            if self._saved is not None:
                with self._items(ring) as items:
                    ends = (target.num_put, *target.frames)
                    cut = [runs.cut(of, at, end) for of, at, end in zip(self._saved.runs, items, ends, strict=True)]
                num_put = min(self._saved.num_put, target.num_put)
                self._saved = Saved(self._schema.identity, NOT_KNOWN, num_put, cut)
                if not self._is_written(self._saved):
                    (self._folder / checksum_file.NAME).unlink(missing_ok=True)
            yield

    def verify(self, ring: Ring) -> Verification:
        """Reads all rows that are held and compares them with their checksums."""
        while True:
            num_updates = ring.num_updates
            with self._one_change(), self._items(ring) as items:
                found = verified(ring, items, self._read(ring))
            if self._writes or ring.num_updates == num_updates:
                return found  # else another process has changed rows meanwhile

    @contextlib.contextmanager
    def _one_change(self) -> Iterator[None]:
        """Runs the block alone. Raises LockedError in a handler of a signal that interrupts such a block."""
        with self._changing:
            if self._is_changing:
                raise LockedError(
                    f"{self._folder}: expected one flush, verify or return to a checkpoint at a time, got one in the "
                    "middle of another of this thread, as a signal's handler makes it; let the handler note what is due"
                )
            self._is_changing = True
            try:
                yield
            finally:
                self._is_changing = False

    def _is_complete(self, saved: Saved, ring: Ring) -> bool:
        """Whether all rows held have checksums."""
        oldest, num_put = ring.held_rows()
        return saved.num_put == num_put and not runs.gaps(saved.runs[0], oldest, num_put)

    def _is_written(self, saved: Saved) -> bool:
        """Writes the file; returns False, with a warning, if the disk is full: a full buffer needs no more of it."""
        try:
            checksum_file.write(self._folder, saved)
        except FileError as error:
            if error.errno not in FULL:
                raise
            log.warning("%s: rows put since the last flush have no checksum: %s", self._folder, error.strerror)
            return False
        return True

    @contextlib.contextmanager
    def _items(self, ring: Ring) -> Iterator[list[runs.Items]]:
        try:
            with runs.opened(self._folder, self._schema, ring, self._tables) as items:
                yield items
        except OSError as error:
            raise as_file_error(self._folder, error) from error

    def _read(self, ring: Ring) -> Saved | None:
        saved = checksum_file.read(self._folder, self._schema.identity)
        if saved is not None:
            path = self._folder / checksum_file.NAME
            with reading(path, checksum_file.WHAT):
                for of, at in zip(saved.runs, runs.closed(self._folder, self._schema, ring, self._tables), strict=True):
                    runs.check(of, at.per_run)
        return saved

    def _updated(self, ring: Ring) -> Saved:
        old = [runs.none()] * (1 + len(self._tables)) if self._saved is None else self._saved.runs
        rows = old[0][old[0]["first"] >= ring.oldest_complete]
        (oldest, num_put, next_frames), ranges = ring.moment(), ring.frame_ranges
        first = self._page.first
        starts, ends = [oldest, *(found[2] for found in ranges)], [num_put, *next_frames]
        with self._items(ring) as items:
            whole = [runs.filled(rows, items[0], oldest), *old[1:]]
            new = [runs.extended(*of) for of in zip(whole, items, starts, ends, strict=True)]
        # Of rows that were overwritten meanwhile, or frames that were released, the bytes may be others'.
        kept_from = [ring.oldest_complete, *(found[2] for found in ring.frame_ranges)]
        left = [of[of["first"] >= number] for of, number in zip(new, kept_from, strict=True)]
        return Saved(self._schema.identity, first, num_put, left)

    def _damaged(self, saved: Saved) -> str | None:
        """The name of a file that is not as it was; None if there is none."""
        first, num_put = self._page.first, self._page.num_put
        if num_put < saved.num_put or (saved.first not in (first, NOT_KNOWN) and first < saved.num_put):
            return CURSOR
        cursor, is_sealed = self._page.content()
        if saved.seal is None or not is_sealed:
            return None
        return next((name for name, crc32 in self._sealed(cursor) if saved.seal.get(name, crc32) != crc32), None)

    def _sealed(self, cursor: bytes) -> Iterator[tuple[str, int]]:
        """Yields the names of the files of a seal, and their CRC-32."""
        yield CURSOR, zlib.crc32(cursor)
        for at, table in enumerate(self._tables):
            yield frame_files.names(at)[1], zlib.crc32(table.data)
        if self._schema.prioritized:
            path = self._folder / priority_files.NAME
            try:
                yield path.name, crc32_of(path)
            except OSError as error:
                raise as_file_error(path, error) from error
