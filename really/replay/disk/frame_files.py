"""Files of the frames of a buffer on disk: blocks that the ring maps, and the table that finds them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from really._utils.input_files import open_regular
from really._utils.mapped_files import MappedFile
from really.errors import FileError, InvalidFileError
from really.replay._ring import Ring

NAME, TABLE = "frames.{}", "frames.{}.table"
NAMES = ("frames.[0-9]*", "frames.[0-9]*.table")
TABLE_HEAD = 64
"""Bytes before the block numbers; they hold the number of the next frame (csrc/frames/frame_store.pxd)."""


def names(at: int) -> tuple[str, str]:
    """Names of the two files of sharing number `at`."""
    return NAME.format(at), TABLE.format(at)


class FrameFile:
    """The file of blocks of one sharing, and its table. The file only grows, by blocks allocated on the disk.

    Raises:
        InvalidFileError: a file has the wrong length, or the table names blocks that are not there.
        FileError: the system does not make, open or map a file.
    """

    def __init__(self, folder: Path, at: int, ring: Ring, *, writable: bool, new: bool) -> None:
        self.path = folder / names(at)[0]
        self._block_nbytes, num_blocks = ring.frame_tables[at]
        self._handle = -1
        nbytes = TABLE_HEAD + 4 * num_blocks
        self.table = MappedFile(folder / names(at)[1], nbytes, writable=writable, new=new)
        if new:
            self.table.allocate(nbytes)
        self._check_head(self.table.data)
        self._handle = self._opened(writable, new)
        if not ring.attach_frames(at, self._handle, self.table.data, self._num_blocks()):
            raise InvalidFileError(f"{self.table.path}: expected blocks that {self.path} has, got others: damaged")

        if writable and not new and (age := ring.first_damaged(at)) >= 0:
            raise InvalidFileError(
                f"{folder / 'records'}: expected numbers of frames that {self.path} has, got others in the row of "
                f"index {age:,}: damaged"
            )

    def sync(self) -> None:
        """Returns when the frames, then their table, are on the disk."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise FileError(error.errno, f"{self.path}: expected to make it durable, but {error.strerror}") from error
        self.table.sync()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Not before: the ring, and a forked process, still map blocks.
        if getattr(self, "_handle", -1) >= 0 and not is_finalizing():
            os.close(self._handle)

    def _opened(self, writable: bool, new: bool) -> int:
        flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_CREAT | os.O_TRUNC if new else 0)
        try:
            return open_regular(self.path, flags)
        except FileError:
            raise
        except OSError as error:
            raise FileError(error.errno, f"{self.path}: expected to open it, but {error.strerror}") from error

    def _num_blocks(self) -> int:
        length = os.fstat(self._handle).st_size
        # A kill while the file grows leaves a part of a block, which nothing refers to.
        return length // self._block_nbytes

    def _check_head(self, table: NDArray[np.uint8]) -> None:
        next_frame = int(table[:8].view(np.int64)[0])
        if not 0 <= next_frame < 1 << 60:
            raise InvalidFileError(f"{self.table.path}: expected a number of frames, got {next_frame}: damaged")
