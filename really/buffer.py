"""ReplayBuffer: the newest `capacity` rows of named columns and uniform batches of them; door to `_ring`."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from really import columns
from really import ring_arguments as arguments
from really._ring import Ring
from really.columns import Spec
from really.errors import EmptyBufferError, InvalidValueError
from really.memory_limits import refuse_if_too_big

Batch = dict[str, NDArray[Any]]
"""Key -> [n, ...] of the key's dtype."""

_MAX_ROWS = arguments.MAX_ROWS


class ReplayBuffer:
    """Rows first in, first out, in one block of memory; any number of threads may put and sample.

    The schema (dtype and shape of a row per key) is `spec`, or what the first put brings. Address space for
    all `capacity` rows is reserved when the schema is known, memory is taken as rows arrive.

    Args:
        capacity: how many rows are kept.
        keys: which keys of the data are kept; None: those of `spec`, else all of the first put.
        spec: key -> (dtype, shape of one row), or key -> dtype for scalars.
        seed: what batches are drawn from; a generator is not used itself, a child of its seed is.
        overcommit: True to reserve even what does not fit in the memory that is left.

    Raises:
        InvalidValueError, InvalidTypeError: an argument cannot be used.
        NotEnoughMemoryError: the full buffer would not fit in the memory of the machine or its container.
    """

    def __init__(
        self,
        capacity: int,
        keys: Iterable[str] | None = None,
        *,
        spec: Mapping[str, Any] | None = None,
        seed: arguments.Seed = None,
        overcommit: bool = False,
    ) -> None:
        self._capacity = arguments.whole("capacity", capacity)
        self._keys = None if keys is None else arguments.checked_keys(keys)
        self._overcommit = bool(overcommit)
        self._bit_generator = arguments.bit_generator(seed)
        self._ring: Ring | None = None
        if spec is not None:
            self._ring = self._new_ring(arguments.checked_spec(spec, self._keys))

    @property
    def capacity(self) -> int:
        """How many rows are kept."""
        return self._capacity

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keys in the order of a batch; None as long as neither caller nor data have said them."""
        if self._ring is not None:
            return tuple(self._ring.names)
        return self._keys

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row); None before the first put."""
        ring = self._ring
        if ring is None:
            return None
        return {k: (d, s) for k, d, s in zip(ring.names, ring.dtypes, ring.shapes, strict=True)}

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take when the buffer is full, padding included; 0 without a schema."""
        return 0 if self._ring is None else self._capacity * self._ring.stride

    def __len__(self) -> int:
        return 0 if self._ring is None else len(self._ring)

    def __repr__(self) -> str:
        return f"ReplayBuffer({len(self)} of {self._capacity} rows, keys={self.keys}, nbytes={self.nbytes})"

    def put(self, data: Any) -> None:
        """Appends rows; the oldest fall out, and of more rows than fit the newest are kept. All or nothing.

        Args:
            data: mapping from key to rows [n, ...] (list, array, tensor), an Arrow RecordBatch or Table, or
                one transition: a mapping whose values all lack the row axis. Keys that the buffer does not
                have are ignored; `new_state` is `state_new`; `terminal` gives `not_done` and the reverse.

        Raises:
            InvalidValueError: a key is missing, rows are ragged, of another shape or unequal in number,
                values do not fit or are null.
            InvalidTypeError: the data or a dtype cannot be used (casts are those NumPy calls same_kind).
        """
        ring = self._ring
        if ring is None or type(data) is not dict or not ring.put(data):
            self._put_converted(data)

    def sample(self, n: Any, *, replace: bool = True, out: Batch | None = None) -> Batch:
        """Rows drawn uniformly from all held: key -> [n, ...], 64-byte-aligned, the caller's own arrays.

        Args:
            n: how many rows, or (k, n) for k batches at once, [k, n, ...].
            replace: False to draw no row twice within a batch.
            out: arrays to write to, C-contiguous and of the right shape and dtype for every key; returned.

        Raises:
            EmptyBufferError: no rows are held.
            InvalidValueError, InvalidTypeError: an argument cannot be used.
        """
        ring = self._ring
        if (
            ring is not None
            and type(n) is int
            and 0 < n < arguments.MAX_ROWS
            and replace is True
            and out is None
        ):
            batch = ring.sample(n)
            if batch is not None:
                return batch
        num, num_batches = arguments.checked_size(n)
        ring = self._filled("sample")
        if out is not None:
            out = arguments.checked_out(
                out, cast(Spec, self.spec), (num_batches, num) if num_batches else (num,)
            )
        batch = ring.sample(num, num_batches, not replace, out)
        return batch if batch is not None else self._too_few(num)

    def sample_indices(self, n: Any, *, replace: bool = True) -> NDArray[np.int64]:
        """The indices by age, [n] or [k, n] int64, whose `take` is what `sample` would have given."""
        num, num_batches = arguments.checked_size(n)
        ages = self._filled("sample_indices").sample_ages(num, num_batches, not replace)
        return ages if ages is not None else self._too_few(num)

    def take(self, indices: Any, *, out: Batch | None = None) -> Batch:
        """The rows of these indices by age, [n] or [k, n] integers; 0 is the oldest, len - 1 the newest."""
        ages = arguments.checked_indices(indices)
        ring = self._filled("take")
        if out is not None:
            out = arguments.checked_out(out, cast(Spec, self.spec), ages.shape)
        num_batches, num = (0, *ages.shape)[-2:] if ages.ndim == 1 else ages.shape
        wanted = np.ascontiguousarray(ages, dtype=np.int64).reshape(-1)
        batch = ring.take(wanted, num, num_batches, out)
        if batch is None:
            wrong = wanted[(wanted < 0) | (wanted >= len(ring))]
            raise InvalidValueError(
                f"take: expected indices from 0 to {len(ring) - 1}, came {wrong[:1].tolist()}"
            )
        return batch

    def clear(self) -> None:
        """Drops all rows; schema and generator stay."""
        if self._ring is not None:
            self._ring.clear()

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator that batches are drawn from, as plain numbers and arrays."""
        return dict(self._bit_generator.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on drawing from where `state_dict` was called."""
        try:
            self._bit_generator.state = dict(state)
        except (TypeError, ValueError, KeyError) as error:
            raise InvalidValueError(
                f"state: expected what a buffer's state_dict gave, came {state!r}"
            ) from error

    def _put_converted(self, data: Any) -> None:
        keys = self.keys
        parts = [columns.select(part, keys) for part in columns.chunks(data)]
        ring = self._ring
        spec = cast(Spec, self.spec) if ring is not None else columns.infer_spec(parts[0])
        fitted = [columns.fit(part, spec) for part in parts]
        if ring is None:
            ring = self._ring = self._new_ring(spec)
        for part in fitted:
            if not ring.put(part):
                raise AssertionError("the ring refused columns that had been made to fit")

    def _new_ring(self, spec: Spec) -> Ring:
        names, dtypes, shapes = list(spec), [d for d, _ in spec.values()], [s for _, s in spec.values()]
        if not self._overcommit:
            needed = self._capacity * arguments.row_nbytes(spec)
            refuse_if_too_big(f"a buffer of {self._capacity:,} rows", needed)
        ring = Ring(self._capacity, names, dtypes, shapes, self._bit_generator)
        _rings.add(ring)
        return ring

    def _filled(self, what: str) -> Ring:
        if self._ring is None or len(self._ring) == 0:
            raise EmptyBufferError(f"{what}: expected a buffer that holds rows, came an empty one")
        return self._ring

    def _too_few(self, num: int) -> Any:
        self._filled("sample")
        raise InvalidValueError(f"n: expected at most {len(self)} rows with replace=False, came {num}")


_rings: weakref.WeakSet[Ring] = weakref.WeakSet()
_held: list[Ring] = []


def _before_fork() -> None:
    _held.extend(_rings)
    for ring in _held:
        ring.acquire()


def _after_fork() -> None:
    for ring in _held:
        ring.release()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
