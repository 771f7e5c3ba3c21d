"""What changes rows that a buffer's folder has already: a return to a checkpoint, a removal and an update of rows."""

from __future__ import annotations

import errno
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.mapped_files import MappedFile
from really.errors import FileError, InvalidFileError, InvalidStateError, InvalidValueError, LockedError
from really.replay._ring import Ring
from really.replay.disk import branches, priority_files, removed_file, rollback, update_file
from really.replay.disk.access import FolderAccess
from really.replay.disk.cursor_page import NO_ROW, CursorPage
from really.replay.disk.folder_checksums import FolderChecksums
from really.replay.disk.frame_files import FrameFile
from really.replay.disk.lock import FolderLock
from really.replay.samplers import PrioritizedSampler

log = logging.getLogger("really")

LONGEST_UPDATE = 5.0
"""Seconds for which a process that reads awaits the end of an update. It takes so long only after a kill."""


class ChangeableFolder(FolderAccess):
    """What `Folder` inherits: changes of rows that are in the files, each of which a kill leaves whole or undone."""

    _changing: threading.RLock
    _checksums: FolderChecksums | None
    _files: list[MappedFile]
    _frames: list[FrameFile]
    _has_begun: bool
    _lock: FolderLock | None
    _page: CursorPage
    _priorities: PrioritizedSampler | None
    _unfinished: rollback.Target | None

    @property
    def identity(self) -> str:
        """What distinguishes the buffer from all others, wherever its folder is."""
        raise NotImplementedError

    def watch_room(self, ring: Ring) -> None:
        """Makes the ring call `make_room`, which warns, when little room is left to return to the last checkpoint."""
        raise NotImplementedError

    def check_files(self) -> None:
        """Raises FileError if the files are not as this process has left them: elsewhere, or cut short.

        What would be written to the path of a folder that was moved might be another buffer's. From a file that was cut
        short, this process reads zeros from then on.
        """
        if self._files:
            is_elsewhere = self._files[0].is_elsewhere()
        else:
            is_elsewhere = self._lock is not None and not self._lock.is_at(self.path)
        if is_elsewhere:
            self.refuse_moved()
        cut = [file for file in (*self._files, *(frames.table for frames in self._frames)) if file.is_cut_short()]
        if cut:
            raise FileError(
                errno.EIO,
                f"{cut[0].path}: expected {cut[0].nbytes:,} bytes while the buffer is open, got fewer: another program "
                f"has cut it short; nothing more is written",
            )

    def remove(self, ring: Ring, numbers: NDArray[np.int64]) -> int:
        """Removes these rows, durably; returns how many of them were left. A kill leaves all of it or nothing."""
        with self._changing:
            self.check_writable("remove")
            self.check_files()
            self._finish_rollback(ring)
            return removed_file.remove(self.path, self.identity, ring, numbers)

    def read_removals(self, ring: Ring) -> None:
        """Takes in which rows another process has removed; the ring calls it."""
        removed_file.resume(self.path, self.identity, ring, writable=False)

    def update(self, ring: Ring, numbers: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> int:
        """Writes columns of these rows, durably; returns how many are written. A kill leaves all of it or nothing.

        Raises:
            InvalidValueError: a checkpoint needs rows as they are.
            FileError: the files cannot be written.
        """
        with self._changing:
            self.check_writable("update")
            self.check_files()
            self._finish_rollback(ring)
            if ring.kept_from != NO_ROW:
                raise InvalidValueError(
                    f"update: expected a buffer on disk that is in no checkpoint, got one at {self.path}, whose rows "
                    f"from {ring.kept_from} on a return to its checkpoint needs as they are"
                )
            oldest, num_put = ring.held_rows()
            is_left = (numbers >= oldest) & (numbers < num_put) & ~ring.are_removed(numbers)
            if not is_left.any() or self._checksums is None:
                return 0
            update = _last_of_each(numbers, columns, is_left)
            with self._checksums.changed(update.numbers):
                try:
                    update_file.write(self.path, self.identity, update)
                    num_lost = len(update.numbers) - ring.update(*update)
                except BaseException:
                    update_file.end(self.path)  # all rows are written, or none
                    raise
            self._files[0].sync()
            update_file.end(self.path)
            return int(is_left.sum()) - num_lost

    def resume_update(self, ring: Ring) -> None:
        """Finishes the update that a kill has cut short, in the process that writes."""
        update = update_file.read(self.path, self.identity, ring)
        if update is not None and self._checksums is not None:
            log.warning("%s: the update of rows that was cut short is finished", self.path)
            with self._checksums.changed(update.numbers):
                ring.update(*update)
            self._files[0].sync()
            update_file.end(self.path)
        elif ring.num_updates % 2:
            ring.update(np.zeros(0, np.int64), {})  # the power was lost after the file was removed

    def await_update(self, ring: Ring) -> None:
        """Waits while another process updates rows; the ring calls it.

        Raises LockedError if that process was killed meanwhile.
        """
        until = time.monotonic() + LONGEST_UPDATE
        while ring.is_updating:
            if time.monotonic() > until:
                raise LockedError(
                    f"{self.path}: expected a buffer to read, got one in the middle of an update of rows; if no "
                    f"process does that now, mode='r+' finishes it"
                )
            time.sleep(0.001)

    def roll_back(
        self,
        ring: Ring,
        target: rollback.Target,
        priorities: dict[str, Any] | None,
        removed: NDArray[np.int64] | None,
    ) -> None:
        """Returns to what a checkpoint kept, whose rows are complete. A kill leaves the old or the new state.

        Puts wait. `removed` are numbers of the rows that were removed; None if none ever was.

        Raises FileError, with nothing done, if the files cannot be written.
        """
        with self._changing:
            self.check_files()
            ring.set_allocated_end(0)
            try:
                if removed is not None:
                    removed_file.write(self.path / removed_file.RETURN, self.identity, removed)
                rollback.write(self.path, target, priorities)
                self._unfinished = target
                try:
                    self._finish_rollback(ring)
                except BaseException:
                    self._finish_rollback(ring)
                    raise
            finally:
                self.watch_room(ring)

    def resume_rollback(self, ring: Ring) -> None:
        """Finishes the return to a checkpoint that a kill has cut short."""
        if self.writable:
            self._unfinished = rollback.read(self.path, self.identity)
            if self._unfinished is not None:
                log.warning("%s: the return to a checkpoint that was cut short is finished", self.path)
            self._finish_rollback(ring)
            self.watch_room(ring)

    def _begin(self, ring: Ring) -> None:
        """Makes the folder ready for rows of this process; the first put needs it."""
        if not self._has_begun and self._checksums is not None:
            self.check_files()
            self._checksums.unseal()
            branches.begin(self._page.data, ring.num_put)
            self._has_begun = True

    def _keep_priorities(self) -> None:
        """Writes the priorities if there are any."""
        if self._priorities is not None:
            if self._checksums is not None:
                self._checksums.unseal()
            priority_files.keep(self.path, self._priorities)

    def _finish_rollback(self, ring: Ring) -> None:
        """Does what is left of a return to a checkpoint. All steps may be repeated."""
        target = self._unfinished
        if target is None or self._checksums is None:
            return
        _check_target(self.path, target, ring)
        with self._checksums.cut(ring, target):
            if not ring.roll_back(target.first, target.num_put, target.frame_numbers, target.generator_bytes):
                raise InvalidStateError(f"{self.path}: expected no reader that keeps rows, got one")
        branches.begin(self._page.data, target.num_put)
        rollback.place_files(self.path)
        removed_file.resume(self.path, self.identity, ring, writable=True)
        if self._priorities is not None:
            kept = priority_files.read_file(self.path / priority_files.NAME)
            priority_files.resume(self._priorities, kept, self.path, target.num_put, with_generator=True)
        for frames in self._frames:
            frames.table.sync()
        self._page.file.sync()
        rollback.end(self.path)
        self._unfinished = None


def _last_of_each(
    numbers: NDArray[np.int64], columns: dict[str, NDArray[Any]], is_left: NDArray[np.bool_]
) -> update_file.Update:
    """Those of the rows that are left, each once, with the last of its values."""
    at = np.flatnonzero(is_left)[::-1]
    own, first = np.unique(numbers[at], return_index=True)
    at = at[first]
    return update_file.Update(own, {key: np.ascontiguousarray(values[at]) for key, values in columns.items()})


def _check_target(path: Path, target: rollback.Target, ring: Ring) -> None:
    """Raises InvalidFileError unless the rows of the target are there."""
    first, end, num_put = target.first, target.num_put, ring.num_put
    rows_are_there = ring.oldest_complete <= first and end <= num_put
    frames_fit = len(target.frames) == len(ring.shared) and all(0 <= number < 1 << 60 for number in target.frames)
    if not (0 <= first <= end < 1 << 60 and (first == end or rows_are_there) and frames_fit):
        raise InvalidFileError(
            f"{path / rollback.NAME}: expected rows from {ring.oldest_complete} to before {num_put}, got those from "
            f"{first} to before {end}: damaged"
        )
