"""ShardedBuffer: a replay buffer whose rows are in several shards, and whose batches are those of one `ReplayBuffer`.

The learner's process decides everything: which shard takes the rows of a put, and which rows a batch has. Shards only
put and take by places, each in the order of the learner's calls. So no count is ever stale.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from really._ray.remote_rows import RemoteRows
from really._utils.checks import checked_bool, checked_number, checked_path
from really._utils.names import OF_BUFFERS, VERBS_OF_BUFFERS, tells_names, tells_verbs
from really.data.schema import Spec
from really.errors import EmptyBufferError, InvalidValueError, OvertakenError
from really.replay import arguments, columns, engine
from really.replay._ring import Ring
from really.replay.arguments import Size
from really.replay.disk.schema import FolderOptions
from really.replay.draws import TRIES, Draws, held
from really.replay.options import BufferOptions
from really.replay.samplers import PrioritizedSampler, Sampler, Shape, checked_shape
from really.replay.units import Batch
from really.service.arguments import check_name, check_names_of_options, checked_options, looks_at_columns
from really.service.assembly import BatchMemory, Part, asked, assembled
from really.service.changes import ChangedShards
from really.service.connected import ConnectedBuffer
from really.service.distribution import Distribution
from really.service.history import History
from really.service.learner_rows import LearnerRows
from really.service.lock import BufferLock
from really.service.making import make_shards
from really.service.numbering import Numbering
from really.service.reader import ShardedReader
from really.service.shard import num_rows_of
from really.service.shards import TIME_OUT

Asked = tuple[list[Part], dict[str, Any]]
"""The rows of a batch that shards were asked for, and the columns that the sampler adds."""
Ask = Callable[[], Asked]


@tells_names(OF_BUFFERS)
@tells_verbs(VERBS_OF_BUFFERS)
class ShardedBuffer(ChangedShards):
    """The newest `capacity` rows in several shards. Any number of threads may put and sample.

    A batch is, bit for bit, what a `ReplayBuffer` of the same capacity, options and seed gives after the same puts,
    whatever the number of shards. Rows are first in, first out over all shards. Each shard has room for 1.5 times its
    share; one that is full leaves its rows to the emptiest.

    Args:
        capacity: how many rows are kept in all.
        keys: which keys of the data are kept, as of `ReplayBuffer`.
        shards: how many shards, in this process; or "nodes" for one on each node of the Ray cluster; or the ids, host
            names or addresses of nodes. The shard of this process's own node is in this process.
        time_out: seconds after which a shard on another node that does not answer is away. Its rows are left out until
            it answers again.
        spec: key -> (dtype, shape of one row), as of `ReplayBuffer`.
        seed: what batches are drawn from.
        path: a folder, on each node, for the rows to live in. It outlives the processes: a shard that dies starts again
            with its rows, and a buffer of the same options continues the one there. Batches start from `seed` then,
            and all rows have the highest priority; a checkpoint has both.
        spare, checksums: of each shard's folder, as of `ReplayBuffer`.
        name: publishes the buffer under this name in the Ray cluster, for `connect`. It needs shards on nodes and
            `path`.
        **options: `overcommit`, `dedup`, `stack`, `max_bytes`, `alpha`, `eps`, `n_step`, `gamma`, `sampler` and `unit`,
            as of `ReplayBuffer`. Only `compact` batches are refused.

    Raises:
        InvalidValueError, InvalidTypeError: an argument cannot be used.
        NotEnoughMemoryError: the full buffer would not fit in memory, or that of a node would not.
        RunnerError: a host lacks this package, or has another version of it.
        InvalidFileError: the shards of `path` are of different buffers, or have too little room for `capacity` rows.
        LockedError: another process writes to a shard of `path`.
    """

    def __init__(
        self,
        capacity: SupportsIndex,
        keys: Iterable[str] | None = None,
        *,
        shards: int | str | Sequence[str],
        time_out: float = TIME_OUT,
        path: str | os.PathLike[str] | None = None,
        spec: Mapping[str, Any] | None = None,
        seed: arguments.Seed = None,
        spare: SupportsIndex | None = None,
        checksums: bool | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        check_names_of_options(options, type(self))
        self._options = checked_options(BufferOptions.checked(capacity, keys, **options))
        given = FolderOptions.checked(spare, checksums)
        if name is not None:
            check_name(name, self._options)
        wanted = None if spec is None else arguments.checked_spec(spec, self._options.keys)
        limit = checked_number("time_out", time_out, 0, math.inf)
        self._folder = folder = None if path is None else checked_path("path", path)
        self._shards = make_shards(shards, self._options, limit, folder, given)
        self._arguments = {"shards": shards if self._shards.writable else len(self._shards.names), "time_out": limit}
        self._lock, self._memory_of_batches = BufferLock(), BatchMemory()
        self._unit = self._options.make_unit()
        self._rows = Distribution(self._shards, self._options, Numbering(self._options, seed))
        self._draws = Draws(self.sampler, self._unit)
        self._looks = looks_at_columns(self._options)
        self._ring = None
        self._closed = False
        self._publisher = None
        self._history = History(self._shards.names)
        self._spec: Spec | None = None
        self._unchecked_rows = 0
        try:
            if wanted is not None or folder is not None:
                self._start(wanted)
            if name is not None:
                self._publish_as(name)
        except BaseException:
            self._shards.close()
            raise

    @classmethod
    def connect(cls, name: str, *, seed: arguments.Seed = None, time_out: float = TIME_OUT) -> ConnectedBuffer:
        """The buffer of this name in the Ray cluster, open for reading (`ConnectedBuffer`)."""
        check_name(name)
        return ConnectedBuffer(name, seed=seed, time_out=checked_number("time_out", time_out, 0, math.inf))

    @property
    def options(self) -> BufferOptions:
        """The options of the whole buffer."""
        return self._options

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row); None before the first put."""
        return self._spec

    @property
    def batch_spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row) of a batch, columns that sampler and unit add included."""
        return None if self._spec is None else self.sampler.batch_spec(self._unit.batch_spec(self._spec))

    @property
    def sampler(self) -> Sampler:
        """What picks the rows of a batch."""
        return self._rows.numbering.sampler

    @property
    def nbytes(self) -> int:
        """Bytes that full shards take, and the learner's priorities; 0 without a schema."""
        if self._spec is None:
            return 0
        rows = int(self._shards.rooms.sum())
        return engine.needed("a buffer", rows, self._spec, self._options.plan(self._spec)) + self.sampler.nbytes

    def __len__(self) -> int:
        return self._rows.ledger.num_rows

    def put(self, data: Any) -> None:
        """Appends rows, as `ReplayBuffer.put` does. The oldest of all shards drop out.

        Raises:
            InvalidValueError, InvalidTypeError: the data cannot be used.
            NotEnoughMemoryError: a shard has no room for the rows' frames. None of the rows is in.
            ClosedError: the buffer is closed.
        """
        self.check_writable("put")
        if isinstance(data, RemoteRows):
            return self._put_remote(data)
        parts = [columns.select(part, self.keys) for part in columns.chunks(data)]
        spec = self._spec or columns.infer_spec(parts[0])
        fitted = columns.fit_all(parts, spec, self._options.plan(spec))
        with self._rows.numbering.room_for(sum(map(num_rows_of, fitted))), self._lock:
            self._rows.settle(self._history)
            self._history.raise_refusal()
            if self._spec is None:
                self._start(spec)
            elif self._spec != spec:  # another thread was first
                fitted = columns.fit_all(parts, self._spec, self._options.plan(self._spec))
            for rows in fitted:
                self._rows.put(rows)
        return None

    def sample(
        self, n: Size, *, replace: bool = True, out: Batch | None = None, beta: float | None = None, as_: None = None
    ) -> Batch:
        """A batch of rows, key -> [n, ...] or [k, n, ...]; arguments and errors are those of `ReplayBuffer.sample`."""
        if as_ is not None:
            arguments.refuse_library(as_)
        self.check_open("sample")
        if self._looks:
            return self._draws.sample(self._ring, n, replace, out, beta)
        if replace is not True or beta is not None:
            self.sampler.check(replace, beta)
        shape = checked_shape(n)
        few = math.prod(shape) <= self._unchecked_rows
        if self._shards.sole is not None and out is None and few and self.sampler.in_ring:
            batch = self._sampled_in_one(shape, not replace)
            if batch is not None:
                return batch
        spec = self._held_spec("sample")
        self._check_batch("a batch", shape, spec)
        outputs = self._outputs(out, shape)
        return self._assembled(self._asker(shape, replace, beta), shape, outputs)

    def _assembled(self, ask: Ask, shape: Shape, outputs: Batch | None, drawn: Asked | None = None) -> Batch:
        """The batch `drawn`, or one of `ask`, which is drawn again if a shard has not all of its rows."""
        for _ in range(TRIES):
            parts, added = drawn or ask()
            batch = assembled(parts, shape, outputs, self._memory_of_batches)
            if batch is not None:
                return batch | added if added else batch
            drawn = None
            self._history.note_redraw()
        raise EmptyBufferError(
            "sample: expected rows that stay while a batch is copied, but puts dropped some each time"
        )

    def ask_sample(self, n: Size, *, replace: bool = True, beta: float | None = None) -> Callable[[], Batch]:
        """Draws what `sample` would, and returns what waits for its rows: several batches can be on their way.

        Rows that shards are asked for before they are lost are drawn again.
        """
        if self._looks or self._spec is None:
            batch = self.sample(n, replace=replace, beta=beta)
            return lambda: batch
        self.check_open("sample")
        self.sampler.check(replace, beta)
        shape = checked_shape(n)
        self._check_batch("a batch", shape, self._held_spec("sample"))
        ask = self._asker(shape, replace, beta)
        drawn = ask()
        return lambda: self._assembled(ask, shape, None, drawn)

    def _sampled_in_one(self, shape: Shape, distinct: bool) -> Batch | None:
        """A batch, drawn and copied in one call, if one shard in this process has all rows; None otherwise."""
        with self._lock:
            self._rows.settle(self._history)
            shard = self._shards.sole
            return None if shard is None else shard.sample_of(self._rows.numbering.ring, shape, distinct)

    def _asker(self, shape: Shape, replace: bool, beta: float | None) -> Ask:
        """What draws a batch, as often as it is called, and asks shards for its rows."""
        sampler = self.sampler.of_batch()

        def ask() -> Asked:
            with self._lock:
                self._rows.settle(self._history)
                numbers, added = self._rows.numbering.draw(shape, replace, beta, self._rows.ledger, sampler)
                return asked(self._shards, *self._rows.ledger.find(numbers)), added

        return ask

    def sample_indices(self, n: Size, *, replace: bool = True) -> NDArray[np.int64]:
        """The indices by age, [n] or [k, n] int64, whose `take` is what `sample` would have given."""
        self.check_open("sample_indices")
        if self._looks:
            return self._draws.indices(self._ring, n, replace)
        shape = checked_shape(n)
        if not self.sampler.in_ring:
            raise InvalidValueError(
                f"sample_indices: expected a buffer that draws uniformly or by age, got one made with "
                f"{'alpha=' if self.is_prioritized else self.sampler}"
            )
        self.sampler.check(replace, None)
        with self._lock:
            self._rows.settle(self._history)
            held("sample_indices", self._rows.numbering.ring)
            numbers, _ = self._rows.numbering.draw(shape, replace, None, self._rows.ledger)
            return self._rows.ledger.ages_of(numbers)

    def take(self, indices: Any, *, out: Batch | None = None) -> Batch:
        """The rows of these indices by age, [n] or [k, n] integers; errors are those of `ReplayBuffer.take`."""
        self.check_open("take")
        if not self._unit.in_ring:
            return self._draws.take(self._ring, indices, out)
        ages, spec = arguments.checked_indices(indices), self._held_spec("take")
        self._check_batch("take: a batch", ages.shape, spec)
        outputs = self._outputs(out, ages.shape)
        for _ in range(TRIES):
            with self._lock:
                self._rows.settle(self._history)
                if ages.size and not 0 <= int(ages.min()) <= int(ages.max()) < len(self):
                    raise InvalidValueError(
                        f"take: expected indices from 0 to {len(self) - 1}, got {arguments.outsiders(ages, len(self))}"
                    )
                parts = asked(self._shards, *self._rows.ledger.find(self._rows.ledger.numbers_at(ages)))
            batch = assembled(parts, ages.shape, outputs, self._memory_of_batches)
            if batch is not None:
                return batch
        raise OvertakenError("take: expected rows that stay while they are copied, but puts dropped some each time")

    def update_priorities(self, index: Any, priorities: Any) -> int:
        """Sets priorities of the rows with these numbers, as `ReplayBuffer.update_priorities` does; no shard is asked.

        Returns how many of the rows are still held.
        """
        self.check_open("update_priorities")
        if not isinstance(self.sampler, PrioritizedSampler):
            raise InvalidValueError(
                "update_priorities: expected a buffer made with alpha=, got one that draws uniformly"
            )
        return self.sampler.update(held("update_priorities", self._rows.numbering.rows, 0), index, priorities)

    def clear(self) -> None:
        """Drops all rows; schema and generators stay."""
        self.check_writable("clear")
        with self._rows.numbering.room_for(self.capacity), self._lock:
            self._rows.settle(self._history)
            self._rows.clear()

    def open_reader(self, *, keeps: bool = False) -> ShardedReader:
        """Reads the rows that are held, oldest first; with `keeps`, a put that would drop one not yet read waits."""
        self.check_open("open_reader")
        self._known_spec("open_reader")
        return ShardedReader(self, self._rows.numbering.keep() if checked_bool("keeps", keeps) else None)

    def state_dict(self) -> dict[str, Any]:
        """The state of the generators, as of `ReplayBuffer.state_dict`."""
        return self._rows.numbering.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Sets the generators to what `state_dict` gave; raises InvalidValueError for anything else."""
        self._rows.numbering.load_state_dict(state)

    @property
    def takes_remote_rows(self) -> bool:
        """Whether `put` takes rows that are still on another node of the cluster."""
        return bool(self._shards.nodes)

    def _put_remote(self, rows: RemoteRows) -> None:
        """Puts rows of a runner into the shard of its node; the first ones, which fix the schema, come here."""
        if self._spec is None:
            return self.put(rows.fetch())
        with self._rows.numbering.room_for(rows.num_rows), self._lock:
            self._rows.settle(self._history)
            self._history.raise_refusal()
            self._rows.put(rows)
        return None

    def _start(self, spec: Spec | None) -> None:
        """Makes the shards ready for rows of this schema, or opens what they have on disk."""
        if spec is not None:
            self._unit.check_spec(spec)
            self.sampler.check_spec(spec)
        found = self._shards.start(spec)
        stored = next((one.spec for one in found if one.spec is not None), None)
        if stored is not None and spec is None:
            return self._start(stored)
        self._spec = spec
        if spec is not None:
            self._unchecked_rows = arguments.unchecked_rows(spec)
            self._ring = self._make_ring(spec)
        self._rows.resume(found)
        return None

    def _make_ring(self, spec: Spec) -> Ring:
        """All rows as a ring, for which sampler and unit get ready if they look at columns."""
        rows = LearnerRows(spec, self._options.plan(spec), self._rows, self._history, self._lock, self._unchecked_rows)
        ring = cast(Ring, rows)
        if self._looks:
            self._rows.numbering.rows = ring
        if not self._unit.in_ring:
            self._unit.prepare(ring)
            self.sampler.restrict(self._unit.starts)
        return ring

    def _known_spec(self, what: str) -> Spec:
        if self._spec is None:
            raise EmptyBufferError(f"{what}: expected a buffer whose schema is known, got one without")
        return self._spec

    def _held_spec(self, what: str) -> Spec:
        held(what, None if self._spec is None else self._rows.numbering.ring)
        return self._known_spec(what)

    def _check_batch(self, what: str, shape: tuple[int, ...], spec: Spec) -> None:
        """Raises NotEnoughMemoryError if memory has no room for a batch of this shape."""
        if math.prod(shape) <= self._unchecked_rows:
            return
        arguments.refuse_big_batch(what, math.prod(shape), spec)

    def _outputs(self, out: Batch | None, shape: tuple[int, ...]) -> Batch | None:
        """The caller's arrays, checked."""
        spec = self._known_spec("out")
        if out is None:
            return None
        if self.batch_spec != spec:
            raise InvalidValueError(
                f"out: expected none for a buffer whose batches have more columns than its rows, got {list(out)}"
            )
        return arguments.checked_out(out, spec, shape)
