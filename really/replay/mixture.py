"""Mixture: batches with a share of rows from each of several buffers, such as offline and online data."""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.checks import checked_number
from really._utils.forks import ForkGroup, Order
from really.data.schema import ColumnSpec, Spec
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError, one_of
from really.replay import arguments, engine, tf_datasets
from really.replay._ring import Ring, RingError
from really.replay.batches import Batches
from really.replay.buffer import ReplayBuffer
from really.replay.compact import fitting
from really.replay.drawn import DrawnRows
from really.replay.priorities import QUICK
from really.replay.samplers import INDEX, WEIGHT, PrioritizedSampler, Sampler, Shape, checked_shape, refuse_beta
from really.replay.units import Batch

log = logging.getLogger("really")

Weight = float | Callable[[int], float]
"""A weight, or a function from the number of the batch (0, 1, ...) to it."""
COUNTS = ("exact", "binomial")
NO_ROW = -1
"""The number of a row that has no priority."""
WHOLE = 1e-9
"""A number of rows that is so near to an integer is meant to be one."""
LINE = 64
"""Bytes to which the arrays of a batch are aligned."""


class Mixture:
    """Draws batches of which each buffer gives a share, by its own sampler and as its own sample unit.

    RLPD (Ball et al. 2023, arXiv:2302.02948, section 4.1) draws half of each batch from prior data and half from the
    rows of the run. A batch has the columns that all buffers have, the rows of one buffer after those of the other, in
    the order of `parts`, and two or three columns more:

    - `source`, int64: the position of the row's buffer in `parts`;
    - if a buffer is prioritized, `index`, int64, for `update_priorities` of this mixture, and `weight`, float32: those
      of the row's own buffer, and 1 for rows of others.

    Any number of threads may draw. A buffer may be in memory, on disk or in shards, of any capacity, and go on
    receiving rows.

    Args:
        parts: buffer -> weight, or pairs of them; a batch has n w / (sum of w) rows of a buffer of weight w. A weight
            may be a function from the number of the batch (0, 1, ...) to it, such as one that anneals it.
        counts: "exact" rounds these numbers up or down, at random so that each is right on average; "binomial" draws
            the buffer of each row by itself.
        keys: the columns of a batch; by default all that every buffer has. The others are named once, in the log.
        source: the name of the column `source`; None leaves it out.
        seed: seeds the rounding and the drawing of buffers.

    Raises:
        InvalidValueError, InvalidTypeError: an argument cannot be used; or buffers whose schemas are known have no
            column in common, or one of different dtype or shape.
    """

    def __init__(
        self,
        parts: Mapping[Any, Weight] | Iterable[tuple[DrawnRows, Weight]],
        *,
        counts: str = "exact",
        keys: Iterable[str] | None = None,
        source: str | None = "source",
        seed: arguments.Seed = None,
    ) -> None:
        if counts not in COUNTS:
            raise InvalidValueError(one_of("counts", counts, COUNTS))
        pairs = _checked_parts(parts)
        self._buffers, self._weights = tuple(buffer for buffer, _ in pairs), tuple(weight for _, weight in pairs)
        self._counts, self._source = counts, source
        self._keys = None if keys is None else arguments.checked_keys(keys)
        self._priority_keys = (INDEX, WEIGHT) if any(buffer.is_prioritized for buffer, _ in pairs) else ()
        self._generator = np.random.Generator(arguments.bit_generator(seed))
        self._number = 0
        self._spec: Spec | None = None
        self._known_counts: dict[int, list[int] | None] = {}
        self._plain: list[weakref.ref[Ring] | None] = []
        self._constant = None if any(map(callable, self._weights)) else self.shares_of(0)
        self._reset_after_fork()
        self.shares_of(0)
        if self.batch_spec is not None:
            self._note_missing()

    @property
    def buffers(self) -> tuple[DrawnRows, ...]:
        """The buffers; a row's `source` is its buffer's position here."""
        return self._buffers

    @property
    def batch_spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row) of a batch; None as long as a buffer has no schema."""
        if self._spec is None and all(buffer.batch_spec is not None for buffer in self._buffers):
            self._spec = self._common_spec()
        return self._spec

    spec = batch_spec
    """The same: a mixture has no rows of its own."""

    @property
    def sampler(self) -> Sampler:
        """Checks the arguments of a draw."""
        return _PartsSampler([buffer.sampler for buffer in self._buffers])

    @property
    def missing(self) -> dict[str, list[int]]:
        """Key -> positions of the buffers that lack this column, which batches therefore do not have."""
        specs = [buffer.batch_spec or {} for buffer in self._buffers]
        return {
            key: [at for at, spec in enumerate(specs) if key not in spec]
            for key in dict.fromkeys(key for spec in specs for key in spec)
            if key not in self._priority_keys and any(key not in spec for spec in specs)
        }

    def __len__(self) -> int:
        """Rows held by all buffers."""
        return sum(map(len, self._buffers))

    def __repr__(self) -> str:
        return f"Mixture({list(zip(self._buffers, self._weights, strict=True))}, counts={self._counts!r})"

    def shares_of(self, number: int) -> NDArray[np.float64]:
        """The share of each buffer in batch `number`, [buffer] float64, of sum 1.

        Raises InvalidValueError if a weight is negative or not finite, or if all are 0.
        """
        given = [weight(number) if callable(weight) else weight for weight in self._weights]
        weights = np.array([checked_number(f"weight of buffer {at}", w, 0, math.inf) for at, w in enumerate(given)])
        if not weights.any():
            raise InvalidValueError(f"Mixture: expected a weight above 0, got {given} for batch {number}")
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def sample(self, n: arguments.Size, *, replace: bool = True, beta: float | None = None) -> Batch:
        """A batch, key -> [n, ...], or [k, n, ...] for `n` = (k, n): 64-byte-aligned arrays, the caller's to keep.

        Args:
            n: how many rows, or (k, n) for k batches, each with its own number and shares.
            replace: False draws no row twice within a batch.
            beta: importance-sampling exponent of the buffers that are prioritized.

        Raises:
            EmptyBufferError: a buffer that gives rows has none.
            InvalidValueError, InvalidTypeError: an argument cannot be used.
            NotEnoughMemoryError: the batch would not fit in the memory that is left.
        """
        if replace is not True or beta is not None:
            self.sampler.check(replace, beta)
        shape, spec = checked_shape(n), self._known_spec()
        if math.prod(shape) > QUICK:
            arguments.refuse_big_batch("a batch", math.prod(shape), spec)
        with self._lock:
            counts = [self._next_count(shape[-1]) for _ in range(shape[0] if len(shape) == 2 else 1)]
        batch = self._empty(spec, shape)
        if len(shape) == 1:
            self._fill(batch, counts[0], replace, beta)
            return batch
        for at, rows in enumerate(counts):
            self._fill({key: column[at] for key, column in batch.items()}, rows, replace, beta)
        return batch

    def update_priorities(self, index: Any, priorities: Any) -> int:
        """Sets priorities of rows in the buffers that they came from; `index` is that of a batch.

        Rows of buffers that are not prioritized are ignored. Returns how many of the other rows are still held.

        Raises InvalidValueError or InvalidTypeError as `ReplayBuffer.update_priorities`; then no buffer is changed
        whose rows come after those of the buffer that refuses.
        """
        numbers, given = np.asarray(index), np.asarray(priorities)
        if not any(buffer.is_prioritized for buffer in self._buffers):
            raise InvalidValueError("update_priorities: expected a mixture with a prioritized buffer, got none")
        if numbers.dtype.kind not in "iu" or given.shape != numbers.shape:
            raise InvalidValueError(
                f"update_priorities: expected integers and as many priorities, got {numbers.dtype} of shape "
                f"{list(numbers.shape)} and priorities of {list(given.shape)}"
            )
        own, sources = np.divmod(numbers, len(self._buffers))
        num = 0
        for at, buffer in enumerate(self._buffers):
            if buffer.is_prioritized and (rows := sources == at).any():
                num += buffer.update_priorities(own[rows], given[rows])
        return num

    def batches(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Batches:
        """An endless iterator over what `sample(n)` gives, as `ReplayBuffer.batches`; options are those."""
        return Batches(self, n, prefetch, **options)

    def dataset(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Any:
        """An endless `tf.data.Dataset` of what `sample(n)` gives, as `ReplayBuffer.dataset`; options are those."""
        return tf_datasets.sampled_dataset(self, n, prefetch, **options)

    def check_open(self, what: str) -> None:
        """Raises ClosedError, naming `what`, if a buffer is on disk and closed."""
        for buffer in self._buffers:
            buffer.check_open(what)

    def state_dict(self) -> dict[str, Any]:
        """All that the next batches depend on, apart from the rows: the generators of all buffers included."""
        parts = {str(at): buffer.state_dict() for at, buffer in enumerate(self._buffers)}
        with self._lock:
            return {"number": self._number, "generator": dict(self._generator.bit_generator.state), "parts": parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave; raises InvalidValueError for anything else."""
        before = self.state_dict()
        try:
            self._set_states(state)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            self._set_states(before)
            raise InvalidValueError(f"state: expected what a mixture's state_dict gave, got {state!r}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Buffers, weights and generator, for a pickle."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_plain")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._plain = []
        self._reset_after_fork()

    def _reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        _live.add(self)

    def _set_states(self, state: Mapping[str, Any]) -> None:
        for at, buffer in enumerate(self._buffers):
            buffer.load_state_dict(state["parts"][str(at)])
        with self._lock:
            self._generator.bit_generator.state = dict(state["generator"])
            self._number = int(state["number"])

    def _known_spec(self) -> Spec:
        spec = self.batch_spec
        if spec is None:
            at = next(at for at, buffer in enumerate(self._buffers) if buffer.spec is None)
            self._buffers[at].check_open("sample")
            raise EmptyBufferError(f"sample: expected buffers that hold rows, got buffer {at} empty; put some first")
        return spec

    def _common_spec(self) -> Spec:
        """The columns that all buffers have, and those that the mixture adds."""
        specs = [buffer.batch_spec or {} for buffer in self._buffers]
        common = [key for key in specs[0] if all(key in spec for spec in specs)]
        wanted = [key for key in self._keys or common if key not in self._priority_keys]
        for key in wanted:
            if lacking := [at for at, spec in enumerate(specs) if key not in spec]:
                raise InvalidValueError(
                    f"keys: expected columns of all buffers, got {key!r}, which buffers {lacking} lack"
                )
        if not wanted:
            raise InvalidValueError(f"Mixture: expected buffers with a column in common, got {[*map(list, specs)]}")
        for key in wanted:
            if len({spec[key] for spec in specs}) > 1:
                kinds = ", ".join(f"{spec[key][0]} of shape {list(spec[key][1])}" for spec in specs)
                raise InvalidValueError(
                    f"Mixture: key {key!r}: expected one dtype and shape in all buffers, got {kinds}"
                )
        return {key: specs[0][key] for key in wanted} | self._added_spec(wanted)

    def _added_spec(self, keys: list[str]) -> Spec:
        kinds = {INDEX: ColumnSpec(np.dtype(np.int64)), WEIGHT: ColumnSpec(np.dtype(np.float32))}
        added: Spec = {key: kinds[key] for key in self._priority_keys}
        if self._source is not None:
            added |= {self._source: ColumnSpec(np.dtype(np.int64))}
        if taken := [key for key in added if key in keys]:
            raise InvalidValueError(
                f"Mixture: expected no columns {taken}, which batches have besides; source= renames one"
            )
        return added

    def _note_missing(self) -> None:
        if self._keys is None and self.missing:
            lacks = "; ".join(f"{key!r}, which buffers {at} lack" for key, at in self.missing.items())
            log.warning("Mixture: batches leave out %s", lacks)

    def _next_count(self, n: int) -> list[int]:
        """Rows of each buffer in the next batch of `n` rows."""
        number = self._number
        self._number += 1
        if self._constant is None:
            return self._drawn_count(self.shares_of(number), n)
        if n not in self._known_counts:
            self._known_counts[n] = _whole_counts(self._constant, n) if self._counts == "exact" else None
        known = self._known_counts[n]
        return self._drawn_count(self._constant, n) if known is None else known

    def _drawn_count(self, shares: NDArray[np.float64], n: int) -> list[int]:
        if self._counts == "binomial":
            return [int(count) for count in self._generator.multinomial(n, shares)]
        # Systematic sampling (Madow 1949): each number is rounded up or down, and is right on average.
        return _whole_counts(shares, n) or _counts_to(np.cumsum(shares)[:-1] * n + self._generator.random(), n)

    def _empty(self, spec: Spec, shape: Shape) -> Batch:
        """Arrays for a batch: those of the first plain buffer's own batches, and those of other columns."""
        for ring in self._rings():
            if ring is not None:
                batch = ring.empty_batch(shape[-1], shape[0] if len(shape) == 2 else 0)
                break
        else:
            batch = {}
        return {
            key: batch[key] if key in batch else _aligned((*shape, *axes), dtype) for key, (dtype, axes) in spec.items()
        }

    def _rings(self) -> list[Ring | None]:
        """Of each buffer that writes single transitions, with no other columns than a batch, where it is told."""
        rings = [None if ref is None else ref() for ref in self._plain]
        if len(rings) == len(self._buffers) and all(
            ring is not None or ref is None for ring, ref in zip(rings, self._plain, strict=True)
        ):
            return rings
        self._plain = [_plain_ring(buffer, self._spec or {}) for buffer in self._buffers]
        return [None if ref is None else ref() for ref in self._plain]

    def _fill(self, batch: Batch, counts: list[int], replace: bool, beta: float | None) -> None:
        """Draws one batch, `counts` rows of each buffer."""
        first = 0
        for at, (ring, num) in enumerate(zip(self._rings(), counts, strict=True)):
            if num == 0:
                continue
            if ring is None or not self._draw_in_place(ring, at, batch, first, num, replace, beta):
                self._draw(at, num, {key: column[first : first + num] for key, column in batch.items()}, replace, beta)
            if self._source is not None:
                batch[self._source][first : first + num] = at
            first += num

    def _draw_in_place(
        self, ring: Ring, at: int, batch: Batch, first: int, num: int, replace: bool, beta: float | None
    ) -> bool:
        """Draws rows of a buffer straight into a batch; returns False if it holds too few, or drops one meanwhile."""
        sampler, added = self._buffers[at].sampler, {INDEX: NO_ROW, WEIGHT: 1.0}
        try:
            if sampler.in_ring and not ring.sample_into(batch, first, num, not replace):
                return False
            if not sampler.in_ring:
                numbers, added = sampler.draw(ring, (num,), beta if self._buffers[at].is_prioritized else None)
                out = {key: batch[key][first : first + num] for key in ring.names}
                if ring.take(numbers, num, 0, out, by_number=True) is None:
                    return False
        except RingError as error:
            raise engine.translated(ring, error) from None
        for key in self._priority_keys:
            batch[key][first : first + num] = added.get(key, 1.0 if key == WEIGHT else NO_ROW)
        if self._priority_keys:
            own = batch[INDEX][first : first + num]
            own *= len(self._buffers)
            own += at
        return True

    def _draw(self, at: int, num: int, out: Batch, replace: bool, beta: float | None) -> None:
        """Draws rows of a buffer and copies them to `out`; raises the error of a buffer that cannot give them."""
        buffer = self._buffers[at]
        if len(buffer) == 0:
            buffer.check_open("sample")
            raise EmptyBufferError(f"sample: expected rows in every buffer that gives some, got buffer {at} empty")
        drawn = buffer.sample(num, replace=replace, beta=beta if buffer.is_prioritized else None)
        if self._priority_keys and not buffer.is_prioritized:
            drawn |= {INDEX: np.full(num, NO_ROW), WEIGHT: np.ones(num, np.float32)}
        if self._priority_keys:
            drawn[INDEX] = drawn[INDEX] * len(self._buffers) + at
        for key, column in out.items():
            if key != self._source:
                column[...] = fitting("Mixture", key, drawn[key], column.shape, 1)


class _PartsSampler(Sampler):
    """The samplers of several buffers, for the checks of arguments."""

    def __init__(self, parts: list[Sampler]) -> None:
        self._parts = parts

    def check(self, replace: bool, beta: Any) -> None:
        """Refuses what one of the samplers refuses; only prioritized ones take beta."""
        prioritized = [isinstance(part, PrioritizedSampler) for part in self._parts]
        if beta is not None and not any(prioritized):
            refuse_beta(beta)
        for part, takes_beta in zip(self._parts, prioritized, strict=True):
            part.check(replace, beta if takes_beta else None)


def _plain_ring(buffer: DrawnRows, spec: Spec) -> weakref.ref[Ring] | None:
    """The ring of a buffer in memory whose batches are single transitions, all columns of which are in batches."""
    if not isinstance(buffer, ReplayBuffer):  # but one in shards
        return None
    is_plain = buffer.options.unit is None and buffer.n_step == 1
    if not is_plain or buffer.path is not None or not set(buffer.spec or ()) <= set(spec):
        return None
    return weakref.ref(buffer.open_reader().ring)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array with arbitrary contents, aligned as the ring's are."""
    block = np.empty(math.prod(shape) * dtype.itemsize + LINE, np.uint8)
    return np.ndarray(shape, dtype, block, -block.ctypes.data % LINE)


def _whole_counts(shares: NDArray[np.float64], n: int) -> list[int] | None:
    """Rows of each buffer, if the shares of a batch of `n` rows are whole numbers."""
    ends = np.cumsum(shares)[:-1] * n
    return _counts_to(np.round(ends), n) if np.abs(ends - np.round(ends)).max(initial=0.0) < WHOLE else None


def _counts_to(ends: NDArray[np.float64], n: int) -> list[int]:
    return [int(count) for count in np.diff(np.floor(ends), prepend=0, append=n)]


def _checked_parts(parts: Any) -> list[tuple[DrawnRows, Weight]]:
    try:
        pairs = [(buffer, weight) for buffer, weight in (parts.items() if isinstance(parts, Mapping) else parts)]
    except (TypeError, ValueError):
        raise InvalidTypeError(f"Mixture: expected buffer -> weight, or pairs of them, got {parts!r}") from None
    if not pairs:
        raise InvalidValueError("Mixture: expected one buffer or more, got none")
    for buffer, _ in pairs:
        if not isinstance(buffer, DrawnRows):
            raise InvalidTypeError(f"Mixture: expected buffers with weights, got {buffer!r}")
    if len({id(buffer) for buffer, _ in pairs}) < len(pairs):
        raise InvalidValueError("Mixture: expected each buffer once, got one twice; add its weights")
    return pairs


_live = ForkGroup(Order.SAMPLERS, in_child=Mixture._reset_after_fork)
