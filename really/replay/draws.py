"""Draws: where a batch is drawn. The ring draws uniform batches itself; other samplers pick row numbers first."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.schema import Spec
from really.errors import EmptyBufferError, InvalidValueError
from really.replay import arguments, engine
from really.replay._ring import Ring, RingError, WindowDraws
from really.replay.columns import spec_of
from really.replay.priorities import QUICK
from really.replay.samplers import PrioritizedSampler, Sampler, Shape, UniformSampler, checked_shape
from really.replay.units import Batch, SampleUnit

TRIES = 100
"""How often a batch is drawn again because other threads drop one of its rows meanwhile."""


class Draws:
    """Draws the batches of a buffer: its sampler picks the rows, and its unit makes them a batch.

    Attributes:
        sampler, unit: of the buffer.
        in_ring: whether `Ring.sample` does both in one call.
        has_twin: whether another process draws the same rows; the next draw warns.
        when_twin: what is called as soon as there is one.
    """

    has_twin = False
    when_twin: Callable[[], object] | None = None

    def __init__(self, sampler: Sampler, unit: SampleUnit) -> None:
        self.sampler, self.unit = sampler, unit
        self.in_ring = sampler.in_ring and unit.in_ring
        self._draws_uniformly = type(sampler) is UniformSampler
        self._has_rows_columns = False  # whether a batch has the columns of the rows, and no others

    @property
    def window_draws(self) -> WindowDraws | None:
        """What draws the unit's batches in one call; None if nothing does, or if another sampler picks the rows."""
        return self.unit.window_draws if self._draws_uniformly else None

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError if sampler or unit cannot work with these columns."""
        self.unit.check_spec(spec)
        self.sampler.check_spec(spec)

    def prepare(self, ring: Ring, spec: Spec) -> None:
        """Sets up a ring of this schema before its first batch."""
        self._has_rows_columns = self.unit.in_ring and self.unit.batch_spec(spec) == spec
        self.unit.prepare(ring)
        self.sampler.prepare(ring)
        self.sampler.restrict(self.unit.starts)

    def batch_spec(self, spec: Spec) -> Spec:
        """The schema of a batch of rows of this schema."""
        return self.sampler.batch_spec(self.unit.batch_spec(spec))

    def sample(self, ring: Ring | None, n: Any, replace: bool, out: Batch | None, beta: float | None) -> Batch:
        """A batch; arguments and errors are those of `ReplayBuffer.sample`."""
        if replace is not True or (beta is not None and not self.sampler.takes_beta):
            self.sampler.check(replace, beta)
        if self.has_twin:
            self.warn_of_twin("sample")
        if self.in_ring:
            return self._sample_in_ring(ring, n, replace, out)
        if out is not None:
            raise _refused(out)
        shape = (n,) if type(n) is int and 0 < n <= QUICK else checked_shape(n)
        filled = held("sample", ring)
        if self._draws_uniformly and replace and self.unit.starts is not None:
            batch = self.unit.sample(filled, shape)
            if batch is not None:
                return batch
        return self._sample_by_number(filled, shape, replace, beta)

    def _sample_by_number(self, ring: Ring, shape: Shape, replace: bool, beta: float | None) -> Batch:
        """A batch of rows whose numbers are drawn first."""
        unit, num_batches = self.unit, 0 if len(shape) == 1 else shape[0]
        sampler = self.sampler.of_batch()
        for _ in range(TRIES):
            version = 0 if unit.in_ring else unit.version()
            numbers, added = self._drawn(sampler, ring, shape, beta, replace)
            if unit.in_ring:  # as `SampleUnit.take` does, without its call for each batch
                batch = ring.take(numbers.reshape(-1), shape[-1], num_batches, by_number=True, steps=True)
            else:
                batch = unit.take(ring, numbers)
                if unit.version() != version:
                    continue
            if batch is not None:
                batch.update(added)
                return batch
        raise _unsteady("sample")

    def indices(self, ring: Ring | None, n: Any, replace: bool) -> NDArray[np.int64]:
        """Indices by age; arguments and errors are those of `ReplayBuffer.sample_indices`."""
        num, num_batches = arguments.checked_size(n)
        self.warn_of_twin("sample_indices")
        if not self.sampler.in_ring:
            how = "alpha=" if isinstance(self.sampler, PrioritizedSampler) else f"sampler={self.sampler!r}"
            raise InvalidValueError(
                f"sample_indices: expected a buffer that draws uniformly or by age, got one made with {how}"
            )
        self.sampler.check(replace, None)
        arguments.refuse_big_batch("indices", num * max(num_batches, 1))
        filled = held("sample_indices", ring)
        if self.unit.starts is not None:
            return self._ages_of_starts(filled, checked_shape(n), replace)
        ages = filled.sample_ages(num, num_batches, not replace)
        return arguments.refuse_few("sample_indices", num, filled.num_choices, replace) if ages is None else ages

    def take(self, ring: Ring | None, indices: Any, out: Batch | None) -> Batch:
        """The rows of these indices by age; arguments and errors are those of `ReplayBuffer.take`."""
        ages, filled = arguments.checked_indices(indices), held("take", ring)
        if ages.size > filled.max_unchecked_rows:
            arguments.refuse_big_batch("take: a batch", ages.size, spec_of(filled))
        num, num_batches = (ages.shape[-1], ages.shape[0] if ages.ndim == 2 else 0)
        outputs = self._outputs(filled, num, num_batches, out)
        try:
            if self.unit.in_ring:
                batch = filled.take(ages.reshape(-1), num, num_batches, outputs, steps=True)
            else:
                batch = self._taken(filled, ages)
        except RingError as error:
            raise engine.translated(filled, error) from None
        if batch is None:
            raise InvalidValueError(
                f"take: expected indices from 0 to {len(filled) - 1}, got {arguments.outsiders(ages, len(filled))}"
            )
        return batch

    def _taken(self, ring: Ring, ages: NDArray[np.int64]) -> Batch | None:
        """The unit's batch of these indices by age, all of it before or after an update; None if a row is not held."""
        for _ in range(TRIES):
            version, numbers = self.unit.version(), ages.copy()
            batch = self.unit.take(ring, numbers) if ring.numbers_of(numbers) else None
            if self.unit.version() == version:
                return batch
        raise _unsteady("take")

    def tell_of_twin(self) -> None:
        """In a forked process: the next draw warns, as another forked process draws the same rows."""
        self.has_twin = True
        if self.when_twin is not None:
            self.when_twin()

    def warn_of_twin(self, what: str) -> None:
        """Warns once, if this is a forked process that draws the same rows as another one; `what` draws them."""
        if not self.has_twin:
            return
        self.has_twin = False
        warnings.warn(
            f"{what}: expected one process that draws, or generators of their own, got a process that was forked with "
            "a copy of the generator of an earlier fork, so both draw the same rows; draw in one process (`batches` "
            "draws ahead), or make the buffer of each process with a seed of its own",
            stacklevel=4,
        )

    def _ages_of_starts(self, ring: Ring, shape: Shape, replace: bool) -> NDArray[np.int64]:
        """Indices of rows that the unit's starts choose; puts of other threads may drop some of them meanwhile."""
        sampler = self.sampler.of_batch()
        for _ in range(TRIES):
            found = np.ascontiguousarray(self._drawn(sampler, ring, shape, None, replace)[0])
            if ring.ages_of(found):
                return found
        return arguments.refuse_few("sample_indices", shape[-1], shape[-1], True)

    def _drawn(
        self, sampler: Sampler, ring: Ring, shape: Shape, beta: float | None, replace: bool
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Row numbers, and the sampler's columns."""
        if self.unit.starts is not None:
            return sampler.draw_among(ring, shape, beta, self.unit.starts, replace)
        if not replace and sampler.in_ring:
            return drawn_in_ring(ring, shape, replace), {}
        return (sampler.draw_left if ring.num_removed else sampler.draw)(ring, shape, beta)

    def _sample_in_ring(self, ring: Ring | None, n: Any, replace: bool, out: Batch | None) -> Batch:
        num, num_batches = arguments.checked_size(n)
        filled = held("sample", ring)
        if num * max(num_batches, 1) > filled.max_unchecked_rows:
            arguments.refuse_big_batch("a batch", num * max(num_batches, 1), spec_of(filled))
        outputs = self._outputs(filled, num, num_batches, out)
        batch = filled.sample(num, num_batches, not replace, outputs)
        return arguments.refuse_few("sample", num, filled.num_choices, replace) if batch is None else batch

    def _outputs(self, ring: Ring, num: int, num_batches: int, out: Batch | None) -> Batch | None:
        if out is None:
            return None
        if not self._has_rows_columns:
            raise _refused(out)
        if ring.fits(out, num, num_batches):
            return out
        return arguments.checked_out(out, spec_of(ring), (num_batches, num) if num_batches else (num,))


def held(what: str, ring: Ring | None, num_rows: int = 1) -> Ring:
    """The ring; raises EmptyBufferError if there is none, or if it holds fewer rows."""
    if ring is None or len(ring) < num_rows:
        raise EmptyBufferError(f"{what}: expected a buffer that holds rows, got an empty one; put some first")
    return ring


def drawn_in_ring(ring: Ring, shape: Shape, replace: bool) -> NDArray[np.int64]:
    """Numbers of rows that the ring draws; raises what `refuse_few` raises if there are too few."""
    num, num_batches = arguments.sizes_of(shape)
    numbers = ring.sample_ages(num, num_batches, not replace, by_number=True)
    return arguments.refuse_few("sample", num, ring.num_choices, replace) if numbers is None else numbers


def _unsteady(what: str) -> EmptyBufferError:
    return EmptyBufferError(
        f"{what}: expected rows that stay as they are while a batch is copied, but some changed or dropped out "
        "each time"
    )


def _refused(out: Batch) -> InvalidValueError:
    return InvalidValueError(
        f"out: expected none for a buffer whose batches have more columns than its rows, got {list(out)}"
    )
