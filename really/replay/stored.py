"""The verbs of a buffer that lives in a folder: it is opened, flushed, closed and pickled."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, SupportsIndex

from really.replay import arguments
from really.replay._ring import Ring
from really.replay.disk.folder import open_folder
from really.replay.disk.verification import Verification
from really.replay.moments import Moments
from really.replay.readers import Readers
from really.replay.storages import Storage
from really.replay.verbs import RowsInAndOut


class StoredRows(RowsInAndOut):
    """What `ReplayBuffer` inherits: its folder. A buffer in memory has none, and these verbs do nothing for it."""

    _storage: Storage
    _ring: Ring | None
    _readers: Readers

    @property
    def path(self) -> Path | None:
        """The folder that the rows live in; None if they live in memory."""
        return self._storage.path

    @property
    def moments(self) -> Moments | None:
        """How a checkpoint keeps a buffer on disk and returns to it; None for a buffer in memory."""
        return self._storage.moments(self._ring, self._readers)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        mode: str = "r",
        *,
        seed: arguments.Seed = None,
        n_step: SupportsIndex | None = None,
        gamma: float | None = None,
    ) -> Self:
        """The buffer on disk at `path`, whatever its schema, with the sampler and the unit that it was made with.

        Args:
            path: its folder.
            mode: "r" to sample what it holds while another process may write it, with a generator of its own; "r+" to
                continue it.
            seed: what batches are drawn from in mode "r".
            n_step, gamma: of this object's batches; by default those that the buffer was made with.

        Raises:
            InvalidValueError: no buffer is there, or one that is damaged or of another version; `n_step` or `gamma`
                cannot be used.
            LockedError: mode is "r+", and another process writes it.
        """
        folder = open_folder(path, mode)
        options = folder.options()
        if n_step is not None:
            options["n_step"] = n_step
        if gamma is not None or n_step == 1:
            options["gamma"] = gamma
        try:
            return cls(path=folder, seed=seed, **options)
        except BaseException:
            folder.close()
            raise

    def flush(self) -> None:
        """Returns when the rows put so far are on the disk, safe from a loss of power (`disk.folder.Folder.flush`).

        Priorities are too; only `flush`, `close` and a process's ordinary end write them.
        """
        self._storage.flush()

    def verify(self) -> Verification:
        """Reads all rows that are held and says which may be damaged on the disk; other threads may put and sample.

        `flush`, `close`, checkpoints and a process's ordinary end give checksums to the rows that were put since, if
        the buffer was not made with `checksums=False`. Rows without a checksum are `unchecked`, as all rows of a buffer
        in memory are. The rows that are not damaged can be taken into another buffer.

        Raises:
            InvalidFileError: the file of checksums is damaged.
            FileError: the system does not open the files.
            ClosedError: the buffer is closed.
        """
        self.check_open("verify")
        return self._storage.verify(self._ring)

    def close(self) -> None:
        """Closes a buffer on disk: rows, files and lock are released, as by dropping the buffer. Batches stay.

        A buffer in memory stays as it is.
        """
        if self._storage.close():
            self._ring = None

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if (storage := getattr(self, "_storage", None)) is not None and not is_finalizing():
            storage.drop()

    def check_open(self, what: str) -> None:
        """Raises ClosedError, naming `what`, if the buffer is on disk and closed."""
        self._storage.check_open(what)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Rows, oldest first, schema and generator.

        From protocol 5 on the rows are buffers over the ring itself: taking them out of band copies them, and no
        thread should put before that has happened. The copy of a buffer on disk is one in memory; that of a buffer
        that is open for reading only opens the same folder.
        """
        self.check_open("pickling")
        if not self._storage.writable:
            return type(self)._reopen, (self.path, self.state_dict(), self.options.n_step, self.options.gamma)
        return super().__reduce_ex__(protocol)

    @classmethod
    def _reopen(cls, path: Path, state: Mapping[str, Any], n_step: int, gamma: float | None) -> Self:
        """The buffer in a folder, open for reading; a pickle names this method."""
        buffer = cls.open(path, n_step=n_step, gamma=gamma)
        buffer.load_state_dict(state)
        return buffer
