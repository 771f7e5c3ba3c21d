"""The shards in a folder of this machine, open for reading: another process may put meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from really.data.schema import Spec
from really.errors import InvalidValueError, ReadOnlyError
from really.replay.buffer import ReplayBuffer
from really.replay.disk.folder import Folder
from really.replay.disk.schema import SCHEMA
from really.replay.options import BufferOptions
from really.replay.removed_rows import removed_rows
from really.service.places import Places
from really.service.shard import PLACES, ROWS, Shard
from really.service.shards import Found, LocalShards


def homes(path: Path) -> list[Path]:
    """The folders of the shards in the folder of a buffer, by name; none in another folder."""
    return sorted(mark.parent.parent for mark in path.glob(f"shard-*/{ROWS}/{SCHEMA}"))


class OpenedShard(Shard):
    """A shard's folder, open for reading, with the rows of the moment of opening, as long as they are held.

    Args:
        path: its rows.
        **options: of `ReplayBuffer`.
    """

    def __init__(self, *, path: Folder, **options: Any) -> None:
        ReplayBuffer.__init__(self, path=path, **options)
        self._home = path.path.parent
        # The places of rows that come after this look are not read: they are written before their rows.
        self._newest = self._num_put
        file = self._home / PLACES
        self._places = Places.of_file(file) if self._newest else Places()

    @property
    def runs(self) -> NDArray[np.int64]:
        """As of `Shard`, of the rows of the moment of opening."""
        oldest = self._newest if self._ring is None else self._ring.held_rows()[0]
        return self._places.runs(oldest, self._newest)

    @property
    def removed(self) -> NDArray[np.int64]:
        """As of `Shard`, of the rows of the moment of opening."""
        rows = np.zeros(0, np.int64) if self._ring is None else removed_rows(self._ring)
        return self._places.of(rows[rows < self._newest])


class OpenedShards(LocalShards):
    """Shards of a folder that cannot be written to.

    Args:
        path: the folder of a buffer in shards.

    Raises:
        InvalidValueError: it has no shards.
    """

    writable = False

    def __init__(self, path: Path) -> None:
        self._shards: list[Shard] = []
        folders = homes(path)
        if not folders:
            raise InvalidValueError(
                f"{path}: expected the folder of a buffer in shards, got one without shards; "
                f"ReplayBuffer.open() reads that of a buffer in one process"
            )
        try:
            for home in folders:
                self._shards.append(OpenedShard.open(home / ROWS))
        except BaseException:
            self.close()
            raise
        self.names, self.nodes = [home.name for home in folders], list[str]()
        self._rooms = np.array([shard.capacity for shard in self._shards])
        self._found = [Found.of(shard) for shard in self._shards]

    @property
    def options(self) -> BufferOptions:
        """Those of the whole buffer, which draws uniformly: no shard knows its sampler."""
        known = max(one.owner.capacity if one.owner is not None else 0 for one in self._found)
        runs = np.concatenate([one.runs for one in self._found])
        held = int((runs[:, 0] + runs[:, 2]).max() - runs[:, 0].min()) if len(runs) else 1
        return replace(self._shards[0].options, capacity=known or held, max_bytes=None)

    def start(self, spec: Spec | None) -> list[Found]:
        """What the folders have."""
        return self._found

    def put(self, shard: int, place: int, number: int, rows: Mapping[str, Any] | Any) -> NoReturn:
        """Raises ReadOnlyError."""
        raise ReadOnlyError("put: expected a buffer opened for writing, got one that `open` reads")
