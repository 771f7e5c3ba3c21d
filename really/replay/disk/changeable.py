"""What changes rows that a buffer's folder has already: a return to a checkpoint, and the removal of rows."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.errors import InvalidFileError, ReallyError
from really.replay._ring import Ring
from really.replay.disk import priority_files, removed_file, rollback
from really.replay.disk.access import FolderAccess
from really.replay.disk.cursor_page import CursorPage
from really.replay.disk.folder_checksums import FolderChecksums
from really.replay.disk.frame_files import FrameFile
from really.replay.samplers import PrioritizedSampler

log = logging.getLogger("really")


class ChangeableFolder(FolderAccess):
    """What `Folder` inherits: changes of rows that are in the files, each of which a kill leaves whole or undone."""

    _changing: threading.RLock
    _checksums: FolderChecksums | None
    _frames: list[FrameFile]
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

    def remove(self, ring: Ring, numbers: NDArray[np.int64]) -> int:
        """Removes these rows, durably; returns how many of them were left. A kill leaves all of it or nothing."""
        with self._changing:
            self.check_writable("remove")
            self._finish_rollback(ring)
            return removed_file.remove(self.path, self.identity, ring, numbers)

    def read_removals(self, ring: Ring) -> None:
        """Takes in which rows another process has removed; the ring calls it."""
        removed_file.resume(self.path, self.identity, ring, writable=False)

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

    def _finish_rollback(self, ring: Ring) -> None:
        """Does what is left of a return to a checkpoint. All steps may be repeated."""
        target = self._unfinished
        if target is None or self._checksums is None:
            return
        _check_target(self.path, target, ring)
        with self._checksums.cut(ring, target):
            if not ring.roll_back(target.first, target.num_put, target.frame_numbers, target.generator_bytes):
                raise ReallyError(f"{self.path}: expected no reader that keeps rows, got one")
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
