"""MixedParts: writes the rows of several buffers into one batch; the compiled rings write theirs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.schema import Spec
from really.errors import EmptyBufferError
from really.replay._ring import MixedRings, Ring
from really.replay.buffer import ReplayBuffer
from really.replay.compact import fitting
from really.replay.drawn import DrawnRows
from really.replay.samplers import INDEX, WEIGHT
from really.replay.units import Batch

NO_ROW = -1
"""The number of a row that has no priority."""
Numbers = tuple[NDArray[np.int64], NDArray[np.float32] | None]


class MixedParts:
    """The parts of a batch, each drawn by its buffer's sampler.

    Args:
        buffers: of the parts, whose schemas are known.
        spec: of a batch.
        source: the name of the column with the part of each row, or None.
        has_priorities: whether batches have `index` and `weight`.

    Attributes:
        max_unchecked_rows: of a batch that is drawn without a look at the memory that is left.
    """

    def __init__(self, buffers: Sequence[DrawnRows], spec: Spec, source: str | None, has_priorities: bool) -> None:
        self._buffers, self._source, self._has_priorities = buffers, source, has_priorities
        self._rings = [_plain_ring(buffer) for buffer in buffers]
        self._draw_numbers = any(
            ring is not None and not buffer.sampler.in_ring for buffer, ring in zip(buffers, self._rings, strict=True)
        )
        dtypes, shapes = [dtype for dtype, _ in spec.values()], [shape for _, shape in spec.values()]
        index, weight = (INDEX, WEIGHT) if has_priorities else (None, None)
        self._mixed = MixedRings(list(spec), dtypes, shapes, self._rings, index, weight, source)
        self.max_unchecked_rows = self._mixed.max_unchecked_rows

    def sample(self, num: int, num_batches: int, counts: list[int], replace: bool, beta: float | None) -> Batch:
        """A batch [num, ...] or [num_batches, num, ...]; `counts` has the rows of each part, batch after batch.

        Raises the error of a buffer that cannot give its rows.
        """
        left: list[tuple[int, int, int]] = []
        drawn = self._drawn(counts, beta) if self._draw_numbers else None
        batch = self._mixed.sample(num, num_batches, counts, left, drawn, not replace)
        if left:
            axes, total = (2, num * num_batches) if num_batches else (1, num)
            rows = {key: column.reshape(total, *column.shape[axes:]) for key, column in batch.items()}
            self.complete(rows, left, replace, beta)
        return batch

    @property
    def rings(self) -> MixedRings | None:
        """What draws whole batches; None if a buffer draws its part itself, or a sampler draws numbers of rows."""
        return None if self._draw_numbers or None in self._rings else self._mixed

    def complete(
        self, rows: Batch, left: list[tuple[int, int, int]], replace: bool = True, beta: float | None = None
    ) -> None:
        """Draws the parts that are yet to be written: (buffer, first of the rows, count).

        Raises the error of a buffer that cannot give its rows.
        """
        for at, first, count in left:
            part = {key: column[first : first + count] for key, column in rows.items()}
            self._copy(at, count, part, replace, beta)

    def _drawn(self, counts: list[int], beta: float | None) -> list[Numbers | None]:
        """Row numbers and weights of the parts whose samplers draw numbers; None for the others."""
        return [
            self._numbers(at % len(self._buffers), count, beta) if count else None for at, count in enumerate(counts)
        ]

    def _numbers(self, at: int, num: int, beta: float | None) -> Numbers | None:
        ring, sampler = self._rings[at], self._buffers[at].sampler
        if ring is None or sampler.in_ring or len(ring) == 0:
            return None
        draw = sampler.draw_left if ring.num_removed else sampler.draw
        numbers, added = draw(ring, (num,), beta if self._buffers[at].is_prioritized else None)
        return np.ascontiguousarray(numbers, np.int64), added.get(WEIGHT)

    def _copy(self, at: int, num: int, out: Batch, replace: bool, beta: float | None) -> None:
        """Draws rows of a buffer and copies them to `out`; raises the error of a buffer that cannot give them."""
        buffer = self._buffers[at]
        if len(buffer) == 0:
            buffer.check_open("sample")
            raise EmptyBufferError(f"sample: expected rows in every buffer that gives some, got buffer {at} empty")
        drawn = buffer.sample(num, replace=replace, beta=beta if buffer.is_prioritized else None)
        if self._has_priorities and not buffer.is_prioritized:
            drawn |= {INDEX: np.full(num, NO_ROW), WEIGHT: np.ones(num, np.float32)}
        if self._has_priorities:
            drawn[INDEX] = drawn[INDEX] * len(self._buffers) + at
        for key, column in out.items():
            if key != self._source:
                column[...] = fitting("Mixture", key, drawn[key], column.shape, 1)


def _plain_ring(buffer: DrawnRows) -> Ring | None:
    """The ring of a buffer in memory whose batches are single transitions; None if the buffer is another.

    The sampler adds no column but those of priorities. A buffer keeps its ring once its schema is known.
    """
    if not isinstance(buffer, ReplayBuffer) or buffer.path is not None:
        return None
    added: dict[str, Any] = {key: kind for key, kind in (buffer.batch_spec or {}).items() if key not in (INDEX, WEIGHT)}
    if buffer.options.unit is not None or buffer.n_step > 1 or added != buffer.spec:
        return None
    return buffer.open_reader().ring
