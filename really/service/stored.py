"""What a sharded buffer is beside its rows: its folders, moments for checkpoints, copies in files, its end."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from really._ray.nodes import own_node
from really._utils.checks import checked_path
from really.data.schema import Spec
from really.errors import ClosedError, ReadOnlyError, RunnerError
from really.replay import engine
from really.replay._ring import Ring
from really.replay.arguments import Seed
from really.replay.io import saving
from really.replay.n_step import END
from really.replay.removed_rows import from_text, to_text
from really.replay.samplers import VALUE
from really.replay.snapshot import Description
from really.replay.units import Batch
from really.service.distribution import Distribution
from really.service.history import History
from really.service.lock import BufferLock
from really.service.moments import ShardedMoments
from really.service.opened import OpenedShards
from really.service.publishing import Edition, Publisher
from really.service.shard import piece_of
from really.service.shards import PATIENCE, TIME_OUT, Shards, ask_one
from really.service.snapshot import Piece, ShardedSnapshot, WholeReader, missing_in, pieces_of
from really.service.verbs import ShardedVerbs


class StoredShards(ShardedVerbs):
    """What `ShardedBuffer` inherits: how its rows outlive it, and its end."""

    _shards: Shards
    _rows: Distribution
    _history: History
    _lock: BufferLock
    _spec: Spec | None
    _folder: Path | None
    _arguments: Mapping[str, Any]
    _closed: bool
    _publisher: Publisher | None

    def __init__(self, capacity: Any, **options: Any) -> None:
        raise NotImplementedError

    @property
    def path(self) -> Path | None:
        """The folder, on each node, that the rows live in; None if they live in memory."""
        return self._folder

    @property
    def shard_names(self) -> tuple[str, ...]:
        """What each shard is called in messages."""
        return tuple(self._shards.names)

    @property
    def moments(self) -> ShardedMoments | None:
        """How a checkpoint keeps a buffer on disk and returns to it; None for a buffer in memory."""
        if self._folder is None:
            return None
        self.check_writable("checkpoint")
        return ShardedMoments(self._folder, self._shards, self._rows, self._history, self._lock)

    def snapshot(self, what: str = "snapshot") -> ShardedSnapshot:
        """The rows of this moment and how to make the buffer again; puts that would drop a row of them wait.

        Close it, or use it in a `with`. Rows that are lost or away are marked as removed. Raises ClosedError, naming
        `what`, if the buffer is closed.
        """
        self.check_open(what)
        numbering, options = self._rows.numbering, self.options
        if self._spec is None:
            return ShardedSnapshot(options, self.state_dict())
        with numbering.without_puts():  # priorities may ask shards, and so come before the lock
            kept = numbering.keep()
            first, end = kept.next_row, kept.end_row
            priorities = numbering.priorities(first, end)
        with self._lock:
            self._rows.settle(self._history)
            pieces = pieces_of(self._rows.ledger, first, end)
            sharings = options.plan(self._spec)
            nbytes = engine.needed("a row", 1, self._spec, sharings)
            reader = WholeReader(self, kept, pieces, sharings, self._read_piece)
            removed, lost = (to_text(found) for found in missing_in(pieces, self._rows.ledger, first))
            made = (options, self.state_dict(), self._spec, first, priorities, removed, lost)
            return ShardedSnapshot(*made, sharings=sharings, row_nbytes=nbytes, opened=reader)

    @property
    def known_ring(self) -> Ring:
        """What answers as a ring of all rows does; the schema is known."""
        raise NotImplementedError

    def numbered_rows(self) -> tuple[int, int]:
        """Numbers of the oldest row and of the next row; a row's number is how many rows were put before it."""
        return self._rows.numbering.held()

    def read_numbers(self, first: int, end: int) -> list[Batch] | None:
        """The rows with numbers from `first` to before `end` that shards hold, in order, as they were put.

        Returns None if newer rows have displaced one of them.
        """
        before = None
        with self._lock:
            self._rows.settle(self._history)
            if first < self._rows.numbering.held()[0]:
                return None
            while (pieces := self._rows.ledger.pieces(first, end)) != before:
                parts = [ask_one(self._shards, shard, "read_at", place, num) for shard, place, num in pieces]
                found = [part for part in parts if part is not None]
                if len(found) == len(parts):
                    return found
                before = pieces
                self._rows.settle(self._history)  # a shard that did not answer is lost or away now
        return None

    def loaded(self, path: str | os.PathLike[str]) -> Self:
        """A new buffer in memory, in shards as this one's are, of what `save` wrote."""
        return saving.load(self.restore, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, shards: int | str | Sequence[str], time_out: float = TIME_OUT
    ) -> Self:
        """A buffer in memory, in these shards, of what `save` of a buffer of any kind wrote, as `ReplayBuffer.load`."""
        arguments = {"shards": shards, "time_out": time_out}
        return saving.load(lambda description, parts: cls._restored(description, parts, arguments), path)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, seed: Seed = None) -> Self:
        """The rows that shards in a folder of this machine hold now, open for reading; another process may put.

        Indices and streams have them in the order of puts, over all shards. Batches are drawn uniformly. Shards on
        other hosts are not part of it, and a warning says how many of the newest rows they have.

        Raises:
            InvalidValueError: the folder has no shards.
            InvalidFileError: its shards are of different buffers, or damaged.
        """
        folder = checked_path("path", path)
        opened = OpenedShards(folder)
        options = opened.options
        made: dict[str, Any] = options.to_dict() | {"keys": options.keys, "shards": opened, "path": folder}
        return cls(seed=seed, **made)

    def restore(self, description: Description, parts: Iterable[dict[str, Any]]) -> Self:
        """A new buffer in memory that a snapshot describes, with the rows of `parts`, in shards as this one's are."""
        return self._restored(description, parts, self._arguments)

    @classmethod
    def _restored(cls, description: Description, parts: Iterable[dict[str, Any]], arguments: Mapping[str, Any]) -> Self:
        options = description.options.to_dict() | {"keys": description.options.keys}
        buffer = cls(**options, spec=description.spec, **arguments)
        try:
            if description.spec is not None:
                buffer._fill(description, parts)
            buffer.load_state_dict(description.generator)
        except BaseException:
            buffer.close()
            raise
        return buffer

    def _publish_as(self, name: str) -> None:
        """Publishes the ledger under this name."""
        self._shards.opened()
        last: list[Any] = [None]

        def edition(number: int) -> Edition | None:
            with self._lock:
                self._rows.settle(self._history)
                shards, ledger = self._shards.opened(), self._rows.ledger
                found = (self._spec, shards, ledger.runs, ledger.away, *self._rows.numbering.held())
            seen = pickle.dumps((found[0], [(shard.name, repr(shard.actor)) for shard in shards], *found[2:]))
            if seen == last[0]:
                return None
            last[0] = seen
            return Edition(number, self.options, *found)

        self._publisher = Publisher(name, own_node(), edition)

    def flush(self) -> None:
        """Returns when the rows put so far are on the disks of their nodes, if they live in folders.

        Raises RunnerError if a shard does not answer; the rows of the others are on the disks then.
        """
        self.check_open("flush")
        if self._folder is None:
            return
        names = list(self._shards.names)  # those of now: a node may join meanwhile
        done = self._shards.each("make_durable", [()] * len(names), PATIENCE)
        silent = [name for name, one in zip(names, done, strict=True) if one is None]
        if silent and self._spec is not None:
            raise RunnerError(f"flush: expected all shards to answer, got no answer of {', '.join(silent)}")

    def close(self) -> None:
        """Ends the shards, and their rows with them unless they live in folders; batches stay.

        A second call does nothing.
        """
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._shards.close()

    def check_open(self, what: str) -> None:
        """Raises ClosedError, naming `what`, if the buffer is closed."""
        if self._closed:
            raise ClosedError(f"{what}: expected an open buffer, got one that was closed")

    def check_writable(self, what: str) -> None:
        """Raises ReadOnlyError or ClosedError, naming `what`, if rows cannot be put, changed or removed."""
        self.check_open(what)
        if not self._shards.writable:
            raise ReadOnlyError(
                f"{what}: {self._folder}: expected a buffer opened for writing, got one that `open` reads; "
                f"ShardedBuffer(capacity, shards=..., path=...) continues it"
            )

    def _read_piece(self, piece: Piece) -> dict[str, Any] | None:
        """The rows of a piece that a shard holds."""
        assert piece.shard is not None
        with self._lock:
            num = piece.end - piece.number
            rows: dict[str, Any] | None = ask_one(self._shards, piece.shard, "read_shared_at", piece.place, num)
            return rows

    def _fill(self, description: Description, parts: Iterable[dict[str, Any]]) -> None:
        """Puts the rows of a snapshot into this buffer, which is empty, with their numbers and priorities."""
        rows, first, values = self._rows, description.first_number, [np.zeros(0)]
        rows.numbering.begin(first, first)
        removed, lost = (from_text(text, self.capacity) for text in (description.removed, description.lost))
        done = 0
        for part in parts:
            values.append(part.pop(VALUE, values[0]))
            num = len(next(iter(part.values())))
            # Rows that were lost would end the episodes that go on in a shard; those of single steps are put.
            is_put = ~np.isin(np.arange(done, done + num), lost) | (self.options.n_step == 1)
            for start, end in _stretches(is_put, part):
                if is_put[start]:
                    rows.put(piece_of(part, start, end))
                else:
                    rows.use_up(end - start)
            done += num
        with self._lock:
            rows.remove(removed + first)
            rows.numbering.mark_missing(rows.ledger)
        if description.priorities is not None:
            rows.numbering.sampler.load_priorities({"values": np.concatenate(values)} | description.priorities)


def _stretches(is_put: Any, part: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Rows that all are put, or all are not; and the rows up to the last end of an episode apart from others."""
    cuts = (np.flatnonzero(np.diff(is_put)) + 1).tolist()
    ends = np.flatnonzero(np.asarray(part[END])) if END in part else np.zeros(0, np.int64)
    bounds: Sequence[int] = sorted({0, *cuts, *(ends[-1:] + 1).tolist(), len(is_put)})
    return list(itertools.pairwise(bounds))
