"""ReplayBuffer: the newest `capacity` rows of named columns, and batches of them.

It is a storage (where rows live), a sampler (which rows a batch has) and a sample unit (what a row becomes in a batch)
around the compiled ring.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Self, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from really._utils.names import OF_BUFFERS, VERBS_OF_BUFFERS, tells_names, tells_verbs
from really._utils.notebook import Shown
from really._utils.published import PublishedBuffer
from really.data import frames
from really.data.schema import Spec
from really.errors import EmptyBufferError, InvalidValueError
from really.replay import arguments, columns, engine
from really.replay._ring import Ring, RingError, WindowDraws
from really.replay.appending import append
from really.replay.changes import ChangedRows
from really.replay.columns import spec_of
from really.replay.disk.folder import Folder
from really.replay.draws import Draws, held
from really.replay.generator import BufferGenerator
from really.replay.options import BufferOptions
from really.replay.readers import Reader, Readers
from really.replay.removed_rows import from_text, removed_rows, to_text
from really.replay.samplers import VALUE, PrioritizedSampler, Sampler
from really.replay.snapshot import Description, Snapshot
from really.replay.storages import make_storage
from really.replay.twins import TWINS
from really.replay.units import Batch, SampleUnit


@tells_names(OF_BUFFERS)
@tells_verbs(VERBS_OF_BUFFERS)
class ReplayBuffer(ChangedRows, PublishedBuffer, Shown):
    """Rows first in, first out, in one block of memory. Any number of threads may put and sample.

    The schema (dtype and shape of a row per key) is `spec`, or that of the first put: arrays keep their dtype, Python
    floats become float32, ints int64, bools bool. Address space for all `capacity` rows is reserved once the schema is
    known. Memory is taken as rows arrive, and never exceeds `nbytes`, unless rows that could share frames share none
    (then up to `max_bytes` for their frames). A forked process continues with a copy of its own, generator included.

    Args:
        capacity: how many rows are kept.
        keys: which keys of the data are kept; None keeps those of `spec`, else all of the first put.
        spec: key -> (dtype, shape of one row), or key -> dtype.
        seed: what batches are drawn from; a generator is not used itself, a child of its seed is.
        overcommit: True reserves even what does not fit in the memory, or on the disk, that is left.
        dedup: True stores each observation once: if a row of 1 kB or more continues an earlier one (the next state of
            one is the state of another, stacks of frames have frames in common), its record keeps numbers of frames
            in place of their bytes. So does a row that repeats a recurrent state, with a key `has_recurrent_state`.
            Batches have exactly what was put. False stores every row whole.
        stack: (number of frames, axis) of those rows, or a mapping from key to that; by default the first axis, if it
            is at most 16 long and others follow.
        max_bytes: how much the frames may take; by default 80 % of the memory that is left at construction, or with
            `path` what the disk has.
        alpha: makes the buffer prioritized (Schaul et al. 2016): rows are drawn in proportion to
            (priority + eps)^alpha, and batches have `index` and `weight` besides. None draws uniformly.
        eps: added to every priority, by default 1e-6.
        n_step: makes each row of a batch up to so many steps (`NSteps`): `reward` is their discounted sum,
            `state_new` and `terminal` are those of the last step, and `discount`, float32, is gamma^k (1 - terminal).
            It needs `episode_end`, and each agent's rows one after the other.
        gamma: the discount factor of `n_step`.
        sampler: which rows a batch has, in place of `alpha`: a name of `really.replay.SAMPLERS`, or a sampler.
        unit: what a row becomes in a batch, in place of `n_step`: a name of `really.replay.UNITS`, or a sample unit.
        path: a folder for the rows to live in, which outlives the process; it is made if it is not there. If it has a
            buffer of this capacity, keys and schema, the buffer continues that one, generator included.
        spare: rows beyond `capacity` that the files have room for: a put is committed in pieces of that many, and
            after a checkpoint so many rows may be put before the buffer can no longer return to it; by default
            max(8192, capacity / 64).
        checksums: whether rows on disk get checksums, which `verify` compares; by default True. `flush`, `close` and
            checkpoints make them, and read the rows put since for that (about half a second for 1 GB); a put does not.

    Raises:
        InvalidValueError, InvalidTypeError: an argument cannot be used; `path` holds something else or another buffer.
        NotEnoughMemoryError: the full buffer would not fit in what machine, container and process limit leave.
        FileError: the full buffer would not fit on the disk (DiskFullError), or files cannot be made or mapped there.
        LockedError: another process has the folder open for writing.
    """

    def __init__(
        self,
        capacity: SupportsIndex,
        keys: Iterable[str] | None = None,
        *,
        spec: Mapping[str, Any] | None = None,
        seed: arguments.Seed = None,
        overcommit: bool = False,
        dedup: bool = True,
        stack: frames.Stack | Mapping[str, frames.Stack] | None = None,
        max_bytes: SupportsIndex | None = None,
        alpha: float | None = None,
        eps: float | None = None,
        n_step: SupportsIndex = 1,
        gamma: float | None = None,
        sampler: str | Sampler | tuple[str, Mapping[str, Any]] | None = None,
        unit: str | SampleUnit | tuple[str, Mapping[str, Any]] | None = None,
        path: str | os.PathLike[str] | Folder | None = None,
        spare: SupportsIndex | None = None,
        checksums: bool | None = None,
    ) -> None:
        options = BufferOptions.checked(
            capacity,
            keys,
            overcommit=overcommit,
            dedup=dedup,
            stack=stack,
            max_bytes=max_bytes,
            alpha=alpha,
            eps=eps,
            n_step=n_step,
            gamma=gamma,
            sampler=sampler,
            unit=unit,
        )
        self._generator = BufferGenerator(seed)
        self._draws = Draws(options.make_sampler(), options.make_unit())
        self._draws_in_ring = self._draws.in_ring
        self._window_draws: WindowDraws | None = None
        self.sampler.start(options.capacity, self._generator.bit_generator, options.overcommit)
        self._readers = Readers()
        self._ring: Ring | None = None
        wanted = None if spec is None else arguments.checked_spec(spec, options.keys)
        self._storage = make_storage(path, options, wanted, spare, checksums, self.sampler)
        try:
            known = self._storage.spec or wanted
            self._ring = None if known is None else self._new_ring(known)
        except BaseException:
            self._storage.abandon()
            raise
        this = weakref.ref(self)
        self._draws.when_twin = lambda: None if (buffer := this()) is None else buffer._draw_slowly()
        TWINS.add(self._draws)

    @property
    def options(self) -> BufferOptions:
        """What the buffer was made with: all that is needed to make it again, apart from seed, place and rows."""
        return self._storage.options

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keys in the order of a batch; None until the caller or the first put has named them."""
        return self.options.keys if self._ring is None else tuple(self._ring.names)

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row); None before the first put."""
        return None if self._ring is None else spec_of(self._ring)

    @property
    def batch_spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row) of a batch, columns that sampler and unit add included."""
        return None if self._ring is None else self._draws.batch_spec(spec_of(self._ring))

    @property
    def sampler(self) -> Sampler:
        """What picks the rows of a batch."""
        return self._draws.sampler

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take when the buffer is full, padding included; 0 without a schema.

        For rows that share frames this counts one frame a row, and 5 % for those that trajectories begin with; with
        `alpha`, the priorities too.
        """
        return 0 if self._ring is None else engine.nbytes(self._ring, self.capacity) + self.sampler.nbytes

    def memory(self) -> dict[str, float]:
        """`held`: bytes that the rows take now; `naive`: bytes of all rows stored whole; `ratio`: naive / held."""
        return engine.memory(self._ring)

    def __len__(self) -> int:
        return 0 if self._ring is None else len(self._ring)

    def __repr__(self) -> str:
        where = "" if self.path is None else f", path={str(self.path)!r}"
        return f"ReplayBuffer({len(self)} of {self.capacity} rows, keys={self.keys}, nbytes={self.nbytes}{where})"

    def _shown(self) -> Mapping[str, Any]:
        columns = {key: f"{dtype} {list(shape)}" for key, (dtype, shape) in (self.spec or {}).items()}
        memory = self.memory()
        held, ratio = f"{memory['held']:,} bytes", memory["ratio"]
        held += f", {ratio:.1f} times less than whole rows" if ratio > 1 else ""
        where = {} if self.path is None else {"path": self.path}
        return {"rows": f"{len(self):,} of {self.capacity:,}", "memory": held, **where, **columns}

    @engine.puts_in_ring
    def put(self, data: Any) -> None:
        """Appends rows. The oldest drop out; of more rows than fit, the newest are kept. All or nothing.

        An interrupt (Ctrl-C) leaves all rows of a call in the buffer, or none of them. It leaves whole pieces of
        another buffer, of an Arrow table of several chunks, and of rows on disk that share frames and are more than
        `spare`.

        Args:
            data: mapping from key to rows [n, ...] (lists, arrays, tensors), an Arrow RecordBatch or Table, a frame of
                pandas or Polars, another buffer (whose rows go in piece by piece, oldest first), or one transition:
                a mapping whose values all lack the row axis (of a first put without `spec`, one of them has to be a
                number: arrays alone are taken for rows). Keys that the buffer does not have are ignored; `new_state`
                is `state_new`; of `terminal` and `not_done` one gives the other as 1 - x.

        Raises:
            InvalidValueError: a key is missing; rows are ragged, of another shape, unequal in number; values are
                null or do not fit the dtype.
            InvalidTypeError: the data or a dtype cannot be used (casts are those that NumPy calls same_kind).
            NotEnoughMemoryError: `capacity` rows of the first put's length are too much; or the rows share so few
                frames that those would take more than `max_bytes`. None of them is in; but of an Arrow table of
                several chunks those before may be, and the message says how many rows.
            DiskFullError: the buffer is on disk, which has no room for the rows. None of them is in; but of rows that
                share frames and are more than `spare` whole pieces may be, and the message says how many.
            ReadOnlyError, ClosedError: the buffer is on disk and not open for writing here.
        """
        self._put_converted(data)

    @engine.draws_in_ring
    def sample(
        self,
        n: arguments.Size,
        *,
        replace: bool = True,
        out: Batch | None = None,
        beta: float | None = None,
        as_: None = None,
    ) -> Batch:
        """A batch of rows, key -> [n, ...]: 64-byte-aligned arrays, the caller's to keep.

        Rows are drawn uniformly from all that are held, or as the buffer's sampler draws. With `alpha` they are drawn
        by priority, and the batch has two more columns: `index`, int64 numbers of the rows for
        `update_priorities`, and `weight`, float32 importance weights.

        Args:
            n: how many rows (with replacement more than are held, if wanted), or (k, n) for k batches, [k, n, ...].
            replace: False draws no row twice within a batch.
            out: C-contiguous arrays of the right shape and dtype for every key to write to; returned.
            beta: importance-sampling exponent of the weights, 0 to 1; by default 0.4. Only with `alpha`.
            as_: None; tensors are what `batches(n, as_=...)` gives.

        Raises:
            EmptyBufferError: no rows are held.
            InvalidValueError, InvalidTypeError: an argument cannot be used.
            NotEnoughMemoryError: the batch would not fit in the memory that is left.
        """
        if as_ is not None:
            arguments.refuse_library(as_)
        if self._ring is None:
            self.check_open("sample")
        return self._draws.sample(self._ring, n, replace, out, beta)

    def update_priorities(self, index: Any, priorities: Any) -> int:
        """Sets priorities, such as absolute TD errors, of the rows with these numbers.

        Returns how many of the rows are still held; priorities of others are ignored. A buffer that is open for reading
        takes them for itself alone.
        """
        sampler, ring = self._draws.sampler, self._ring
        if not isinstance(sampler, PrioritizedSampler):
            raise InvalidValueError(
                "update_priorities: expected a buffer made with alpha=, got one that draws uniformly"
            )
        if ring is None:
            self.check_open("update_priorities")
        return sampler.update(held("update_priorities", ring, 0), index, priorities)

    def sample_indices(self, n: arguments.Size, *, replace: bool = True) -> NDArray[np.int64]:
        """The indices by age, [n] or [k, n] int64, whose `take` is what `sample` would have given."""
        self.check_open("sample_indices")
        return self._draws.indices(self._ring, n, replace)

    def _warn_of_twin(self, what: str) -> None:
        """Warns once in a forked process that draws the same rows as another one; `what` draws them."""
        self._draws.warn_of_twin(what)

    def take(self, indices: Any, *, out: Batch | None = None) -> Batch:
        """The rows of these indices by age, [n] or [k, n] integers: 0 is the oldest, `len(buffer) - 1` the newest.

        Raises:
            EmptyBufferError: no rows are held.
            InvalidValueError, InvalidTypeError: an index has no row, or they are no integers; `out` cannot be used.
            NotEnoughMemoryError: the batch would not fit in the memory that is left.
        """
        self.check_open("take")
        return self._draws.take(self._ring, indices, out)

    def clear(self) -> None:
        """Drops all rows; schema and generator stay."""
        self._storage.check_writable("clear")
        if self._ring is not None:
            self._readers.clear(self._ring)

    def open_reader(self, *, keeps: bool = False) -> Reader:
        """Reads the rows that are held now, oldest first, in pieces; close it, or use it in a `with`.

        With `keeps`, a put that would drop a row that the reader has yet to read waits; without, the reader then
        raises OvertakenError. Raises EmptyBufferError if there is no schema yet.
        """
        if self._ring is None:
            self.check_open("open_reader")
            raise EmptyBufferError("open_reader: expected a buffer whose schema is known, got one without")
        return self._readers.open(self._ring, keeps)

    def snapshot(self, what: str = "snapshot") -> Snapshot:
        """The rows of this moment and how to make the buffer again; puts that would drop a row of them wait.

        Close it, or use it in a `with`. Raises ClosedError, naming `what`, if the buffer is closed.
        """
        self.check_open(what)
        if self._ring is None:
            return Snapshot(self.options, self.state_dict())
        reader = self._readers.open(self._ring, keeps=True, with_removed=True)
        first, end = reader.next_row, reader.end_row
        priorities = self.sampler.priorities_of(self._ring, first, end)
        nbytes = self.nbytes // self.capacity
        spec, sharings = engine.layout_of(self._ring)
        removed = to_text(removed_rows(self._ring) - first)
        made = (self.options, self.state_dict(), spec, first, priorities, removed)
        return Snapshot(*made, sharings=sharings, row_nbytes=nbytes, opened=reader)

    @classmethod
    def restore(cls, description: Description, parts: Iterable[dict[str, Any]]) -> Self:
        """The buffer that a snapshot describes, with the rows of `parts`, oldest first.

        A part may have the column `really.priority`: values (priority + eps)^alpha of its rows. Then the description's
        `priorities` need no `values`.
        """
        buffer = cls(**description.options.to_dict(), spec=description.spec)
        if description.first_number and buffer._ring is not None:
            buffer._ring.set_first_number(description.first_number)
        values = [np.zeros(0)]
        for part in parts:
            values.append(part.pop(VALUE, values[0]))
            buffer.put(part)
        buffer.load_state_dict(description.generator)
        if description.removed and buffer._ring is not None:
            buffer._ring.set_removed(from_text(description.removed, buffer.capacity) + buffer._ring.oldest_row)
        if description.priorities is not None:
            buffer.sampler.load_priorities({"values": np.concatenate(values)} | description.priorities)
        return buffer

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator that batches are drawn from: numbers, strings and arrays.

        With `alpha` its `priorities` are the state of the generator that draws by priority.
        """
        return self._generator.state_with(self.sampler, self._ring)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Sets the generators to what `state_dict` gave; raises InvalidValueError for anything else."""
        self._generator.set_state_with(self.sampler, self._ring, state)

    def _draw_slowly(self) -> None:
        self._draws_in_ring, self._window_draws = False, None

    def _put_converted(self, data: Any) -> None:
        self._storage.check_writable("put")
        if isinstance(data, ReplayBuffer):
            append(self, data)
            return
        parts = [columns.select(part, self.keys) for part in columns.chunks(data)]
        if self._ring is not None or not self._put_first(parts):
            ring = cast(Ring, self._ring)
            self._put_fitted(ring, columns.fit_all(parts, *engine.layout_of(ring)))

    def _put_first(self, parts: list[dict[str, columns.Value]]) -> bool:
        """Puts rows that fix the schema, in memory only if all are in; returns False if another thread was first."""
        with self._readers.lock:
            if self._ring is not None:
                return False
            spec = columns.infer_spec(parts[0])
            fitted = columns.fit_all(parts, spec, self.options.plan(spec))
            ring = self._new_ring(spec)
            try:
                self._put_fitted(ring, fitted)
            except BaseException:
                # Its files are made, or chunks before the one that is refused are in.
                self._ring = ring if self.path is not None or len(ring) > 0 else None
                raise
            self._ring = ring
            return True

    def _put_fitted(self, ring: Ring, parts: list[dict[str, Any]]) -> None:
        try:
            self._readers.put(ring, parts)
        except RingError as error:
            raise engine.translated(ring, error) from None

    def _new_ring(self, spec: Spec) -> Ring:
        """The storage's ring, as this buffer uses it."""
        self._draws.check_spec(spec)
        ring = self._storage.ring(spec, self._generator.bit_generator)
        self._draws.prepare(ring, spec)
        self._window_draws = self._draws.window_draws
        if self.options.max_bytes is not None:
            ring.max_bytes = self.options.max_bytes
        engine.track(ring)
        return ring
