"""ReplayBuffer: the newest `capacity` rows of named columns, and uniform batches of them; the one door to `_ring`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from really._utils.memory_limits import available_bytes, refuse_if_too_big
from really.data import frames
from really.errors import EmptyBufferError, InvalidValueError, NotEnoughMemoryError
from really.replay import arguments, columns
from really.replay import engine as living_rings
from really.replay import n_step as n_steps
from really.replay._ring import FrameDiskError, FramesTooManyError, Ring
from really.replay.columns import Spec, spec_of
from really.replay.readers import Gate, Reader
from really.replay.refusals import no_room
from really.replay.samplers import PrioritizedRows, check_keys, refuse_beta, set_generator_of, with_generator_of

if TYPE_CHECKING:
    import pyarrow as pa

    from really.replay.batches import Batches
    from really.replay.disk.folder import Storage

Batch = dict[str, NDArray[Any]]
"""Key -> [n, ...] of the key's dtype."""

FRAMES_SHARE = 0.8
"""Of the memory that is left, what the frames of a buffer may take."""
NO_LIMIT = int(np.iinfo(np.int64).max)


class ReplayBuffer:
    """Rows first in, first out, in one block of memory; any number of threads may put and sample.

    The schema (dtype and shape of a row per key) is `spec`, or what the first put brings: arrays keep their dtype,
    Python floats become float32, ints int64, bools bool. Address space for all `capacity` rows is reserved when
    the schema is known; memory is taken as rows arrive, and never more than `nbytes`, unless rows that could share
    frames do not (then up to `max_bytes` for those). A forked process goes on with a copy of its own, generator
    included.

    Args:
        capacity: how many rows are kept.
        keys: which keys of the data are kept; None: those of `spec`, else all of the first put.
        spec: key -> (dtype, shape of one row), or key -> dtype.
        seed: what batches are drawn from; a generator is not used itself, a child of its seed is.
        overcommit: True to reserve even what does not fit in the memory, or on the disk, that is left.
        path: a folder for the rows to live in, instead of memory, and to outlive the process; made if it is not there.
            On one that has a buffer of this capacity, keys and schema the buffer goes on with it, generator included.
        spare: rows beyond `capacity` that the files have room for: a put is committed in pieces of that many; by
            default max(8192, capacity / 64).
        dedup: store each observation once: where rows of 1 kB and more turn out to go on from earlier ones (the next
            state of one is the state of another, stacks of frames have frames in common) a record keeps numbers of
            frames in place of their bytes. What comes out is exactly what was put. False stores every row whole.
        stack: (number of frames, axis) of those rows, or a mapping from key to that; by default the first axis of
            up to 16 where others follow (`frames.plan`).
        max_bytes: how much the frames may take; by default 80 % of the memory that is left at construction, with `path`
            what the disk has.
        alpha: makes it a prioritized buffer (Schaul et al. 2016): rows are drawn in proportion to
            (priority + eps)^alpha, and batches have `index` and `weight` as well. None draws uniformly.
        eps: added to every priority of such a buffer, by default 1e-6.
        n_step: makes each row of a batch up to so many steps (`csrc/rows/n_step.pxd`): `reward` is their discounted
            sum, `state_new`, `terminal` and what else tells of the end are those of the last one, and `discount`,
            float32, is gamma^k (1 - terminal). Needs `episode_end`, and each agent's rows one after the other.
        gamma: the discount factor of such a buffer.

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
        path: str | os.PathLike[str] | Storage | None = None,
        spare: SupportsIndex | None = None,
    ) -> None:
        self._capacity = arguments.whole("capacity", capacity)
        self._keys = None if keys is None else arguments.checked_keys(keys)
        self._overcommit = bool(overcommit)
        self._dedup = bool(dedup)
        self._stack = stack
        self._max_bytes = None if max_bytes is None else arguments.whole("max_bytes", max_bytes, arguments.MAX_BYTES)
        self._bit_generator = arguments.bit_generator(seed)
        self.n_step, self.gamma = n_steps.checked(n_step, gamma, self._keys)
        self._alpha, self._eps = alpha, eps
        self._prioritized: PrioritizedRows | None = None
        if alpha is not None:
            self._prioritized = PrioritizedRows(self._capacity, alpha, eps, self._bit_generator, self._overcommit)
            self._eps = self._prioritized.priorities.eps
        elif eps is not None:
            raise InvalidValueError(f"eps: expected none without alpha, which alone would use it, got {eps!r}")
        self._ring: Ring | None = None
        self._gate = Gate()
        self._storage: Storage | None = None
        self._spare = None if spare is None else arguments.whole("spare", spare)
        wanted = None if spec is None else arguments.checked_spec(spec, self._keys)
        if path is not None:
            self._open_storage(path, wanted)
        elif wanted is not None:
            self._ring = self._new_ring(wanted)

    @property
    def capacity(self) -> int:
        """How many rows are kept."""
        return self._capacity

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keys in the order of a batch; None as long as neither caller nor data have said them."""
        return self._keys if self._ring is None else tuple(self._ring.names)

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row); None before the first put."""
        return None if self._ring is None else spec_of(self._ring)

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take when the buffer is full, padding included; 0 without a schema.

        For rows that share frames this counts one frame a row, and 5 % for those that trajectories begin with; with
        `alpha`, the priorities too.
        """
        priorities = 0 if self._prioritized is None else self._prioritized.priorities.nbytes
        return 0 if self._ring is None else living_rings.nbytes(self._ring, self._capacity) + priorities

    def memory(self) -> dict[str, float]:
        """What the rows take now: `held` bytes, the `naive` bytes of all rows stored whole, and how many times more."""
        ring = self._ring
        if ring is None:
            return {"held": 0, "naive": 0, "ratio": 1.0}
        naive = len(ring) * arguments.row_nbytes(spec_of(ring))
        held = min(ring.num_put, ring.capacity) * ring.stride + ring.frames_nbytes
        return {"held": held, "naive": naive, "ratio": naive / held if held else 1.0}

    @property
    def path(self) -> Path | None:
        """The folder that the rows live in; None where they live in memory."""
        return None if self._storage is None else self._storage.path

    def __len__(self) -> int:
        return 0 if self._ring is None else len(self._ring)

    def __repr__(self) -> str:
        where = "" if self.path is None else f", path={str(self.path)!r}"
        return f"ReplayBuffer({len(self)} of {self._capacity} rows, keys={self.keys}, nbytes={self.nbytes}{where})"

    def put(self, data: Any) -> None:
        """Appends rows; the oldest fall out, and of more rows than fit the newest are kept. All or nothing.

        Args:
            data: mapping from key to rows [n, ...] (lists, arrays, tensors), an Arrow RecordBatch or Table, or
                one transition: a mapping whose values all lack the row axis (of a first put without `spec`, one of
                them has to be a number: arrays alone are taken for rows). Keys that the buffer does not have are
                ignored; `new_state` is `state_new`; of `terminal` and `not_done` one gives the other as 1 - x.

        Raises:
            InvalidValueError: a key is missing; rows are ragged, of another shape, unequal in number; values are
                null or do not fit the dtype.
            InvalidTypeError: the data or a dtype cannot be used (casts are those that NumPy calls same_kind).
            NotEnoughMemoryError: the first put says how long a row is, and `capacity` of them are too much; or the
                rows share so few frames that those would take more than `max_bytes`. None of them is in; but of an
                Arrow table of several chunks those before may be, and the message says how many rows.
            DiskFullError: the buffer is on disk, which has no room for the rows. None of them is in; but of rows that
                share frames and are more than `spare` whole pieces may be, and the message says how many.
            ReadOnlyError, ClosedError: the buffer is on disk and not open for writing here.
        """
        ring = self._ring
        if ring is not None and type(data) is dict:
            try:
                if ring.put(data):
                    return
            except (FramesTooManyError, FrameDiskError) as error:
                raise no_room(ring, error) from None
        self._put_converted(data)

    def sample(
        self, n: arguments.Size, *, replace: bool = True, out: Batch | None = None, beta: float | None = None
    ) -> Batch:
        """Rows drawn uniformly from all held, key -> [n, ...]: 64-byte-aligned arrays, the caller's to keep.

        With `alpha` they are drawn by priority (`Priorities.sample`); the batch then also has `index`, int64 numbers of
        the rows for `update_priorities`, and `weight`, float32 importance weights.

        Args:
            n: how many rows (with replacement more than are held, if wanted), or (k, n) for k batches, [k, n, ...].
            replace: False to draw no row twice within a batch.
            out: C-contiguous arrays of the right shape and dtype for every key to write to; returned.
            beta: how much the weights make good for drawing by priority, 0 to 1; by default 0.4. Only with `alpha`.

        Raises:
            EmptyBufferError: no rows are held.
            InvalidValueError, InvalidTypeError: an argument cannot be used.
            NotEnoughMemoryError: the batch would not fit in the memory that is left.
        """
        ring = self._ring
        if (
            type(n) is int and ring is not None and 0 < n <= ring.quick_rows and replace is True and out is None
            and beta is None and self._prioritized is None
        ):  # fmt: skip
            batch = ring.sample(n)
            if batch is not None:
                return batch
        if self._prioritized is not None or beta is not None:
            return self._sample_prioritized(n, replace, out, beta)
        return self._sample_checked(n, replace, out)

    @property
    def is_prioritized(self) -> bool:
        """Whether rows are drawn by priority."""
        return self._prioritized is not None

    def update_priorities(self, index: Any, priorities: Any) -> int:
        """Sets priorities, such as absolute TD errors, of the rows with these numbers (`Priorities.update`).

        Returns how many are still held: those of rows that have fallen out meanwhile are ignored. A buffer that is open
        for reading takes them for itself alone.
        """
        if self._prioritized is None:
            raise InvalidValueError(
                "update_priorities: expected a buffer made with alpha=, got one that draws uniformly"
            )
        return self._prioritized.update(self._filled("update_priorities", 0), index, priorities)

    def batches(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Batches:
        """An endless iterator over what `sample(n)` gives, drawn up to `prefetch` batches ahead (`batches.Batches`).

        Options: `as_`, `replace`, and `beta` of prioritized replay.
        """
        from really.replay.batches import Batches

        return Batches(self, n, prefetch, **options)

    def dataset(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Any:
        """An endless `tf.data.Dataset` of what `sample(n)` gives (`datasets.sampled_dataset`).

        Options: `replace`, `batches_per_call`, and `beta` of prioritized replay.
        """
        from really.replay.tf_datasets import sampled_dataset

        return sampled_dataset(self, n, prefetch, **options)

    def sample_indices(self, n: arguments.Size, *, replace: bool = True) -> NDArray[np.int64]:
        """The indices by age, [n] or [k, n] int64, whose `take` is what `sample` would have given."""
        num, num_batches = arguments.checked_size(n)
        if self._prioritized is not None:
            raise InvalidValueError("sample_indices: expected a buffer that draws uniformly, got one made with alpha=")
        arguments.refuse_big_batch("indices", num * max(num_batches, 1))
        ages = self._filled("sample_indices").sample_ages(num, num_batches, not replace)
        return self._refuse_few("sample_indices", num, replace) if ages is None else ages

    def take(self, indices: Any, *, out: Batch | None = None) -> Batch:
        """The rows of these indices by age, [n] or [k, n] integers: 0 is the oldest, `len(buffer) - 1` the newest.

        Raises:
            EmptyBufferError: no rows are held.
            InvalidValueError, InvalidTypeError: an index has no row, or they are no integers; `out` cannot be used.
            NotEnoughMemoryError: the batch would not fit in the memory that is left.
        """
        ages = arguments.checked_indices(indices)
        ring = self._filled("take")
        if ages.size > ring.quick_rows:
            arguments.refuse_big_batch("take: a batch", ages.size, spec_of(ring))
        num, num_batches = (ages.shape[-1], ages.shape[0] if ages.ndim == 2 else 0)
        outputs = self._outputs(ring, num, num_batches, out)
        batch = ring.take(ages.reshape(-1), num, num_batches, outputs, steps=True)
        if batch is None:
            raise InvalidValueError(
                f"take: expected indices from 0 to {len(ring) - 1}, got {arguments.outsiders(ages, len(ring))}"
            )
        return batch

    def clear(self) -> None:
        """Drops all rows; schema and generator stay."""
        if self._storage is not None:
            self._storage.check_writable("clear")
        if self._ring is not None:
            self._gate.clear(self._ring)

    def open_reader(self, *, keeps: bool = False) -> Reader:
        """Reads the rows that are held now, oldest first, in pieces; close it, or use it in a `with`.

        With `keeps`, puts wait where they would drop a row that the reader has yet to read; without, the reader then
        gets an OvertakenError. Raises EmptyBufferError where there is no schema yet.
        """
        if self._ring is None:
            self._check_open("open_reader")
            raise EmptyBufferError("open_reader: expected a buffer whose schema is known, got one without")
        return self._gate.open(self._ring, keeps)

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
        """The buffer on disk at `path`, whatever its schema; it draws by priority if it was made so.

        Args:
            path: its folder.
            mode: "r" to sample what it holds while another process may write it, with a generator of its own; "r+" to
                go on with it.
            seed: what batches are drawn from in mode "r".
            n_step, gamma: of this object's batches; by default those that the buffer was made with.

        Raises:
            InvalidValueError: no buffer is there, or one that is damaged or of another version; or `n_step` and `gamma`
                cannot be used.
            LockedError: mode is "r+", and another process writes it.
        """
        from really.replay.disk import folder as storage

        folder = storage.open_folder(path, mode)
        drawn_by = folder.drawn_by()
        if n_step is not None:
            drawn_by["n_step"] = n_step
        if gamma is not None or n_step == 1:
            drawn_by["gamma"] = gamma
        try:
            return cls(folder.capacity, path=folder, seed=seed, **drawn_by)
        except BaseException:
            folder.close()
            raise

    def flush(self) -> None:
        """Returns when the rows put so far are on the disk, safe from a loss of power (`storage.Storage.flush`).

        So are priorities, which only this, `close` and a process's ordinary end write.
        """
        if self._storage is not None:
            self._storage.flush()

    def close(self) -> None:
        """On disk, lets go of rows, files and lock, as dropping the buffer does; batches stay as they are.

        A buffer in memory has nothing to let go of: it stays as it is.
        """
        if self._storage is not None:
            self._storage.close()
            self._ring = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def save(self, path: str | os.PathLike[str], *, compression: str = "zstd") -> None:
        """Writes rows, order, generator and arguments to one file, while others may put and sample (`saving.save`)."""
        from really.replay.io import saving

        saving.save(self, path, compression=compression)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The buffer that `save` wrote (`saving.load`)."""
        from really.replay.io import saving

        return cast(Self, saving.load(cls, path))

    def to_arrow(self, keys: Sequence[str] | None = None, *, float16: str = "float16") -> pa.RecordBatchReader:
        """The rows as a stream of record batches, oldest first, made as they are asked for (`interchange.to_arrow`)."""
        from really.replay.io import interchange

        return interchange.to_arrow(self, keys, float16=float16)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows for whatever reads Arrow streams: DuckDB, Polars, pandas. Opening one is free and locks nothing."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        keys: Sequence[str] | None = None,
        *,
        float16: str = "float16",
        compression: str = "zstd",
    ) -> None:
        """Writes the rows to one Parquet file (`interchange.to_parquet`)."""
        from really.replay.io import interchange

        interchange.to_parquet(self, path, keys, float16=float16, compression=compression)

    @classmethod
    def from_arrow(cls, source: Any, capacity: int | None = None, **options: Any) -> Self:
        """A buffer with the rows of an Arrow table, stream or what gives one (`interchange.from_arrow`)."""
        from really.replay.io import interchange

        return cast(Self, interchange.from_arrow(cls, source, capacity, **options))

    @classmethod
    def from_parquet(cls, path: str | os.PathLike[str], capacity: int | None = None, **options: Any) -> Self:
        """A buffer with the rows of a Parquet file (`interchange.from_parquet`)."""
        from really.replay.io import interchange

        return cast(Self, interchange.from_parquet(cls, path, capacity, **options))

    def to_minari(self, dataset_id: str, **options: Any) -> Any:
        """Writes the rows as episodes to a new Minari data set (`minari_io.to_minari`)."""
        from really.replay.io import minari as minari_io

        return minari_io.to_minari(self, dataset_id, **options)

    @classmethod
    def from_minari(cls, dataset: Any, capacity: int | None = None, **options: Any) -> Self:
        """A buffer with the steps of a Minari data set (`minari_io.from_minari`)."""
        from really.replay.io import minari as minari_io

        return cast(Self, minari_io.from_minari(cls, dataset, capacity, **options))

    def _arguments(self) -> dict[str, Any]:
        """What the buffer was made with, apart from the seed."""
        return {
            "capacity": self._capacity,
            "keys": self._keys,
            "overcommit": self._overcommit,
            "dedup": self._dedup,
            "stack": self._stack,
            "max_bytes": self._max_bytes,
            "alpha": self._alpha,
            "eps": self._eps,
            "n_step": self.n_step,
            "gamma": self.gamma,
        }

    def _sharings(self) -> list[frames.Sharing]:
        """Which columns share frames."""
        return [] if self._ring is None else frames.sharings_of(self._ring)

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator that batches are drawn from: numbers, strings and arrays.

        With `alpha` its `priorities` are the state of the one that draws by priority.
        """
        return with_generator_of(self._prioritized, self._locked(lambda: dict(self._bit_generator.state)))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Draws from now on as the buffer did when `state_dict` gave `state`; InvalidValueError where none did."""
        before = self.state_dict()
        try:
            self._set_states(state)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            self._set_states(before)
            raise InvalidValueError(f"state: expected what a buffer's state_dict gave, got {state!r}") from error

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Rows, oldest first, schema and generator.

        From protocol 5 on the rows are buffers over the ring itself: what takes them out of band copies them, and
        no thread should put before that has happened. Of a buffer on disk the copy is one in memory, unless it is open
        for reading only: then the copy opens the same folder.
        """
        from really.replay.io import pickling

        return pickling.taken_apart(self, int(protocol))

    def _open_storage(self, path: str | os.PathLike[str] | Storage, spec: Spec | None) -> None:
        from really.replay.disk import folder as storage

        plan = self._plan if self._stack is not None or not self._dedup else None
        steps = (self.n_step, self.gamma)
        self._storage = storage.opened(path, self._capacity, self._keys, spec, self._spare, steps, plan)
        try:
            if self._storage.about is None:
                self._storage.adopt(self._prioritized, 0)
                self._ring = None if spec is None else self._new_ring(spec)
            else:
                if self.n_step > 1:
                    n_steps.check_spec(self._storage.about.spec)
                self._ring = self._made(self._storage.ring(self._bit_generator))
                self._storage.adopt(self._prioritized, self._ring.num_put)
                self._dedup, self._stack = bool(self._ring.shared), frames.stacks_of(*_layout(self._ring)) or None
        except BaseException:
            self._storage.abandon()
            raise

    def _put_converted(self, data: Any) -> None:
        if self._storage is not None:
            self._storage.check_writable("put")
        parts = [columns.select(part, self.keys) for part in columns.chunks(data)]
        if self._ring is not None or not self._put_first(parts):
            ring = cast(Ring, self._ring)
            self._put_fitted(ring, columns.fit_all(parts, *_layout(ring)))

    def _put_first(self, parts: list[dict[str, columns.Value]]) -> bool:
        """Puts rows that fix the schema, in memory only once they are in; False where another thread was first."""
        with self._gate.changed:
            if self._ring is not None:
                return False
            spec = columns.infer_spec(parts[0])
            fitted = columns.fit_all(parts, spec, self._plan(spec))
            ring = self._new_ring(spec)
            try:
                self._put_fitted(ring, fitted)
            except BaseException:
                # Its files are made, or chunks before the one that is refused are in.
                self._ring = ring if self._storage is not None or len(ring) > 0 else None
                raise
            self._ring = ring
            return True

    def _put_fitted(self, ring: Ring, parts: list[dict[str, Any]]) -> None:
        try:
            self._gate.put(ring, parts)
        except (FramesTooManyError, FrameDiskError) as error:
            raise no_room(ring, error) from None

    def _sample_prioritized(self, n: Any, replace: bool, out: Batch | None, beta: float | None) -> Batch:
        if self._prioritized is None:
            refuse_beta(beta)
        if replace is not True or out is not None:
            raise InvalidValueError(
                "sample: expected neither replace=False nor out= with alpha, which draws by priority"
            )
        return self._prioritized.sample(self._filled("sample"), n, beta)

    def _priorities_of(self, first: int, end: int) -> dict[str, Any] | None:
        """The state of the priorities of those rows by number; None where rows are drawn uniformly."""
        ring, prioritized = self._ring, self._prioritized
        return None if ring is None or prioritized is None else prioritized.state(ring, first, end)

    def _begin_with(self, priorities: dict[str, Any]) -> None:
        """Lets an empty buffer number its rows as those of this state are, of which all are put next."""
        if self._ring is not None and self._prioritized is not None:
            self._ring.begin_at(priorities["newest"] - len(priorities["values"]))
            self._prioritized.priorities.load_state_dict(priorities)

    def _sample_checked(self, n: Any, replace: bool, out: Batch | None) -> Batch:
        num, num_batches = arguments.checked_size(n)
        ring = self._filled("sample")
        if num * max(num_batches, 1) > ring.quick_rows:
            arguments.refuse_big_batch("a batch", num * max(num_batches, 1), spec_of(ring))
        outputs = self._outputs(ring, num, num_batches, out)
        batch = ring.sample(num, num_batches, not replace, outputs)
        return self._refuse_few("sample", num, replace) if batch is None else batch

    def _outputs(self, ring: Ring, num: int, num_batches: int, out: Batch | None) -> Batch | None:
        if out is not None and self.n_step > 1:
            raise InvalidValueError(
                f"out: expected none with n_step={self.n_step}, whose batches have a column besides"
            )
        if out is None or ring.fits(out, num, num_batches):
            return out
        return arguments.checked_out(out, spec_of(ring), (num_batches, num) if num_batches else (num,))

    def _made(self, ring: Ring) -> Ring:
        """The ring as this buffer uses it."""
        if self.gamma is not None:
            n_steps.prepare(ring, self.n_step, self.gamma)
        if self._max_bytes is not None:
            ring.max_bytes = self._max_bytes
        living_rings.add(ring)
        return ring

    def _new_ring(self, spec: Spec) -> Ring:
        if self.n_step > 1:
            n_steps.check_spec(spec)
        if self._prioritized is not None:
            check_keys(spec)
        if self._storage is not None:
            from really.replay.disk.schema import About

            drawn_by = (self.n_step, self.gamma, self._prioritized is not None)
            about = About.new(self._capacity, spec, self._spare, self._plan(spec), drawn_by)
            ring = self._storage.create(about, self._bit_generator, self._overcommit)
            return self._made(ring)
        names, dtypes, shapes = list(spec), [dtype for dtype, _ in spec.values()], [shape for _, shape in spec.values()]
        what, shared = f"a buffer of {self._capacity:,} rows", self._plan(spec)
        needed = living_rings.needed(what, self._capacity, spec, shared)
        needed += 0 if self._prioritized is None else self._prioritized.priorities.nbytes
        available = None if self._overcommit else available_bytes()
        if not self._overcommit:
            refuse_if_too_big(what, needed, living_rings.promised(), " (overcommit=True goes on)")
        most = NO_LIMIT if available is None else int(FRAMES_SHARE * available)
        try:
            ring = Ring(self._capacity, names, dtypes, shapes, self._bit_generator, shared, most)
        except MemoryError as error:
            raise NotEnoughMemoryError(
                f"{what}: needs {needed:,} bytes, for which the system has no addresses left"
            ) from error
        return self._made(ring)

    def _plan(self, spec: Spec) -> list[frames.Sharing]:
        return frames.plan(spec, self._stack) if self._dedup else []

    def _filled(self, what: str, num_rows: int = 1) -> Ring:
        self._check_open(what)
        if self._ring is None or len(self._ring) < num_rows:
            raise EmptyBufferError(f"{what}: expected a buffer that holds rows, got an empty one; put some first")
        return self._ring

    def _check_open(self, what: str) -> None:
        if self._storage is not None:
            self._storage.check_open(what)

    def _refuse_few(self, what: str, num: int, replace: bool) -> NoReturn:
        arguments.refuse_few(what, num, len(self._filled(what)), replace)

    def _set_states(self, state: Mapping[str, Any]) -> None:
        self._locked(lambda: self._set_state(state))
        set_generator_of(self._prioritized, state)

    def _set_state(self, state: Mapping[str, Any]) -> None:
        self._bit_generator.state = dict(state)
        if self._ring is not None:
            self._ring.store_generator()

    def _locked(self, action: Any) -> Any:
        ring = self._ring
        if ring is None:
            return action()
        ring.acquire()
        try:
            return action()
        finally:
            ring.release()


def _layout(ring: Ring) -> tuple[Spec, list[frames.Sharing]]:
    return spec_of(ring), frames.sharings_of(ring)
