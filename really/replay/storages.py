"""Storages: where a buffer's rows live, in this process's memory or in the files of a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from really._utils.memory_limits import refuse_if_too_big
from really.data.frames import stacks_of
from really.data.schema import Spec
from really.errors import NotEnoughMemoryError
from really.replay import engine
from really.replay._ring import Ring
from really.replay.disk.folder import Folder, opened
from really.replay.disk.schema import FolderOptions
from really.replay.disk.verification import Verification, without_files
from really.replay.moments import Moments
from really.replay.options import BufferOptions
from really.replay.readers import Readers
from really.replay.samplers import PrioritizedSampler, Sampler

FRAMES_SHARE = 0.8
"""Of the memory that is left, the share that the frames of a buffer may take."""


class Storage(Protocol):
    """What a buffer asks of the place that its rows live in."""

    options: BufferOptions
    """Of the buffer; a folder that has one already says how its columns share frames."""

    @property
    def path(self) -> Path | None:
        """The folder, or None in memory."""

    @property
    def writable(self) -> bool:
        """Whether rows can be put."""

    @property
    def spec(self) -> Spec | None:
        """The schema of the buffer that the storage has already; None if it has none."""

    def ring(self, spec: Spec, bit_generator: np.random.BitGenerator) -> Ring:
        """The ring of rows of this schema: a new one, or the one that the storage has."""

    def check_open(self, what: str) -> None:
        """Raises ClosedError if the storage is closed."""

    def check_writable(self, what: str) -> None:
        """Raises ReadOnlyError or ClosedError if rows cannot be put."""

    def check_files(self) -> None:
        """Raises FileError if the files are not as this process has left them."""

    def moments(self, ring: Ring | None, readers: Readers) -> Moments | None:
        """What checkpoints ask of a buffer whose rows outlive the process; None in memory."""

    def remove(self, ring: Ring, numbers: NDArray[np.int64]) -> int:
        """Removes these rows, int64 [n]; returns how many of them were left."""

    def update(self, ring: Ring, numbers: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> int:
        """Writes columns [n, ...] of these rows, int64 [n]; returns how many of them are written."""

    def flush(self) -> None:
        """Returns when all rows are as durable as the storage makes them."""

    def verify(self, ring: Ring | None) -> Verification:
        """Compares the rows that are held with their checksums."""

    def drop(self) -> None:
        """The buffer is no longer used, but was not closed."""

    def close(self) -> bool:
        """Ends the use of the storage; returns whether its rows went with it."""

    def abandon(self) -> None:
        """Undoes a start that failed."""


class MemoryStorage:
    """Rows in this process's memory."""

    path, writable, spec = None, True, None

    def __init__(self, options: BufferOptions, sampler: Sampler) -> None:
        self.options = options
        self._sampler = sampler

    def ring(self, spec: Spec, bit_generator: np.random.BitGenerator) -> Ring:
        """A new ring; raises NotEnoughMemoryError if the full buffer would not fit, unless `overcommit`."""
        options, shared = self.options, self.options.plan(spec)
        what = f"a buffer of {options.capacity:,} rows"
        needed = engine.needed(what, options.capacity, spec, shared) + self._sampler.nbytes
        available = None
        if not options.overcommit:
            available = refuse_if_too_big(what, needed, engine.promised(), " (overcommit=True goes on)")
        most = engine.NO_LIMIT if available is None else int(FRAMES_SHARE * available)
        try:
            return engine.make_ring(options.capacity, spec, bit_generator, shared, most)
        except MemoryError as error:
            raise NotEnoughMemoryError(
                f"{what}: needs {needed:,} bytes, for which the system has no addresses left"
            ) from error

    def check_open(self, what: str) -> None:
        """Memory is always open."""

    def check_writable(self, what: str) -> None:
        """Memory is always writable."""

    def check_files(self) -> None:
        """There are no files."""

    def moments(self, ring: Ring | None, readers: Readers) -> None:
        """A checkpoint copies the rows."""

    def remove(self, ring: Ring, numbers: NDArray[np.int64]) -> int:
        """Removes these rows; returns how many of them were left."""
        return ring.remove(numbers)

    def update(self, ring: Ring, numbers: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> int:
        """Writes columns of these rows; returns how many of them are written."""
        return ring.update(numbers, columns)

    def flush(self) -> None:
        """Memory does not outlive the process: nothing to do."""

    def verify(self, ring: Ring | None) -> Verification:
        """Rows in memory have no checksums."""
        return without_files(0 if ring is None else len(ring))

    def drop(self) -> None:
        """Nothing to do."""

    def close(self) -> bool:
        """The rows stay as they are."""
        return False

    def abandon(self) -> None:
        """Nothing to undo."""


class FolderStorage:
    """Rows in the files of a folder, which outlive the process.

    Raises:
        InvalidValueError: the folder holds something else, or a buffer of other options.
        LockedError: another process writes it.
        FileError: the system does not make, open or map a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Folder,
        options: BufferOptions,
        spec: Spec | None,
        given: FolderOptions,
        sampler: Sampler,
    ) -> None:
        self._given = given
        self._priorities = sampler if isinstance(sampler, PrioritizedSampler) else None
        self._folder = opened(path, options, spec, given)
        self.options = options
        if self._folder.schema is None:
            try:
                self._folder.adopt(self._priorities, 0)
            except BaseException:
                self._folder.abandon()
                raise
        else:
            self.options = options.laid_out_as(stacks_of(self._folder.schema.spec, self._folder.schema.shared))

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def writable(self) -> bool:
        """Whether rows can be put."""
        return self._folder.writable

    @property
    def spec(self) -> Spec | None:
        """The schema of the buffer in the folder; None if it has none yet."""
        return None if self._folder.schema is None else self._folder.schema.spec

    def ring(self, spec: Spec, bit_generator: np.random.BitGenerator) -> Ring:
        """The ring of the buffer in the folder, which is made if there is none."""
        folder = self._folder
        if folder.schema is None:
            return folder.create(self.options, spec, self._given, bit_generator)
        ring = folder.ring(bit_generator)
        folder.adopt(self._priorities, ring.num_put)
        folder.resume_rollback(ring)
        return ring

    def check_open(self, what: str) -> None:
        """Raises ClosedError if the folder is closed."""
        self._folder.check_open(what)

    def check_writable(self, what: str) -> None:
        """Raises ReadOnlyError or ClosedError if this process does not write the folder."""
        self._folder.check_writable(what)

    def check_files(self) -> None:
        """Raises FileError if the files are elsewhere, or cut short."""
        self._folder.check_files()

    def moments(self, ring: Ring | None, readers: Readers) -> Moments:
        """What checkpoints ask of the buffer."""
        return Moments(self._folder, ring, self._priorities, readers)

    def remove(self, ring: Ring, numbers: NDArray[np.int64]) -> int:
        """Removes these rows, in the files first; returns how many of them were left."""
        return self._folder.remove(ring, numbers)

    def update(self, ring: Ring, numbers: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> int:
        """Writes columns of these rows, durably; returns how many of them are written."""
        return self._folder.update(ring, numbers, columns)

    def flush(self) -> None:
        """Returns when rows and priorities are on the disk, safe from a loss of power."""
        self._folder.flush()

    def verify(self, ring: Ring | None) -> Verification:
        """Compares the rows that are held, frames included, with their checksums."""
        return without_files(0) if ring is None else self._folder.verify(ring)

    def drop(self) -> None:
        """Writes the checksums while the ring is still there; the folder closes itself."""
        self._folder.drop()

    def close(self) -> bool:
        """Gives up mapping and lock, so that another process can open the folder."""
        self._folder.close()
        return True

    def abandon(self) -> None:
        """Closes the folder, and removes what was made in it if it has no buffer."""
        self._folder.abandon()


def make_storage(
    path: str | os.PathLike[str] | Folder | None,
    options: BufferOptions,
    spec: Spec | None,
    spare: SupportsIndex | None,
    checksums: bool | None,
    sampler: Sampler,
) -> Storage:
    """The storage at `path`, or memory if it is None."""
    given = FolderOptions.checked(spare, checksums)
    return MemoryStorage(options, sampler) if path is None else FolderStorage(path, options, spec, given, sampler)
