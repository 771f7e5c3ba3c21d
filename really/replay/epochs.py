"""Epochs: passes over the rows that are held now, each row once a pass, in a new random order each time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from really._utils.checks import checked_bool, checked_integer
from really._utils.memory_limits import refuse_if_too_big
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError, OvertakenError
from really.replay import arguments, tensors
from really.replay.rows import Rows

STATE = ("seed", "first", "end", "later", "num_batches", "batch_size", "num_rows")
"""The integers of a state."""
TRIES = 100
SEEDS = 1 << 62


class Epochs:
    """An iterator over batches: each row that was held at its beginning comes exactly once an epoch.

    Every epoch has an order of its own, uniform over all orders, which depends on `seed` and the number of the epoch
    alone. The last batch of an epoch has the rows that are left. Rows that are put meanwhile are not in the batches.

    Args:
        buffer: the buffer. It needs room for the rows that are put meanwhile: rows that drop out end the iteration.
        batch_size: rows of a batch.
        epochs: how many passes; None does not end.
        as_: `numpy`, `tf`, `torch` or `jax`, as for `ReplayBuffer.batches`.
        drop_last: True leaves out the last batch of an epoch if it has fewer rows.
        seed: seeds the orders; by default a number that the buffer's generator draws.

    Raises:
        EmptyBufferError: no rows are held.
        InvalidValueError, InvalidTypeError: an argument cannot be used.
        NotEnoughMemoryError: the order of an epoch, 8 bytes a row, would not fit in the memory that is left.
        OvertakenError: from `next`: puts, `remove` or `clear` have dropped one of the rows. The iterator stays where it
            was.
    """

    def __init__(
        self,
        buffer: Rows,
        batch_size: SupportsIndex,
        epochs: SupportsIndex | None = 1,
        *,
        as_: str = "numpy",
        drop_last: bool = False,
        seed: SupportsIndex | None = None,
    ) -> None:
        buffer.check_open("epochs")
        if len(buffer) == 0:
            raise EmptyBufferError("epochs: expected a buffer that holds rows, got an empty one; put some first")
        self._buffer, self._convert = buffer, tensors.converter(as_)
        tensors.check_dtypes(as_, buffer.spec or {})
        self._batch_size = checked_integer("batch_size", batch_size, 1, arguments.MOST_ROWS)
        self._epochs = None if epochs is None else checked_integer("epochs", epochs, 1)
        self._drop_last = checked_bool("drop_last", drop_last)
        wanted = None if seed is None else checked_integer("seed", seed, 0)
        reader = buffer.open_reader()
        self._first, self._end, self._left = reader.next_row, reader.end_row, reader.left
        self._seed = int(reader.ring.draw_below(SEEDS, 1)[0]) if wanted is None else wanted
        self._num_batches = 0
        self._order: tuple[int, NDArray[np.int64]] | None = None
        if self._per_epoch == 0:
            raise InvalidValueError(
                f"batch_size: expected at most the {len(buffer):,} rows held with drop_last, got {batch_size}"
            )
        refuse_if_too_big(f"epochs: the order of {self.num_rows:,} rows", self.num_rows * arguments.INDEX_NBYTES)

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return self._end - self._first if self._left is None else len(self._left)

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next batch is of, from 0 on."""
        return self._num_batches // self._per_epoch

    @property
    def _per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.num_rows // self._batch_size if self._drop_last else math.ceil(self.num_rows / self._batch_size)

    def __len__(self) -> int:
        """Batches of all epochs; raises InvalidTypeError with `epochs=None`."""
        if self._epochs is None:
            raise InvalidTypeError("len: expected a number of epochs, got None, which does not end")
        return self._epochs * self._per_epoch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tensors.Tensors:
        if self._epochs is not None and self._num_batches >= len(self):
            raise StopIteration
        start = self._num_batches % self._per_epoch * self._batch_size
        places = self._order_of(self.epoch)[start : start + self._batch_size]
        batch = self._taken(self._first + places if self._left is None else self._left[places])
        self._num_batches += 1
        return tensors.convert(self._convert, batch)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration is: integers. Save it with the buffer, at the same moment."""
        reader = self._buffer.open_reader()
        numbers = (self._seed, self._first, self._end, reader.end_row - self._end)
        return dict(zip(STATE, (*numbers, self._num_batches, self._batch_size, self.num_rows), strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where a `state_dict` was taken, with this buffer or a copy of it.

        Raises InvalidValueError if it is no such state, or one of another batch size, or of rows not held.
        """
        try:
            seed, first, end, later, num_batches, size, num = (checked_integer(name, state[name], 0) for name in STATE)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidValueError(f"state: expected what an Epochs' state_dict gave, got {state!r}") from error
        reader = self._buffer.open_reader()
        num_put = reader.end_row
        if size != self._batch_size or not reader.next_row <= first < end <= end + later <= num_put:
            after = f", after which {later:,} were put" if later else ""
            raise InvalidValueError(
                f"state: expected batches of {self._batch_size} of the rows from {reader.next_row} to before "
                f"{num_put}, got batches of {size} of those from {first} to before {end}{after}"
            )
        left = reader.left
        if left is not None:
            left = left[np.searchsorted(left, first) : np.searchsorted(left, end)]
        if (num_left := end - first if left is None else len(left)) != num:
            raise InvalidValueError(
                f"state: expected {num:,} rows from {first} to before {end} as the epochs began with, "
                f"got {num_left:,}: rows were removed meanwhile"
            )
        self._seed, self._first, self._end, self._num_batches = seed, first, end, num_batches
        self._left = left
        self._order = None

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            draw = np.random.Generator(np.random.SFC64(np.random.SeedSequence([self._seed, epoch])))
            self._order = epoch, draw.permutation(self.num_rows)
        return self._order[1]

    def _taken(self, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The rows of these numbers; ages count from the oldest row, which puts may drop meanwhile."""
        for _ in range(TRIES):
            reader = self._buffer.open_reader()
            ring, ages = reader.ring, numbers.copy()
            num_changes = ring.num_changes
            if self._end > reader.end_row or not ring.ages_of(ages):
                break
            batch = self._buffer.take(ages)
            if ring.oldest_row == reader.next_row and ring.num_changes == num_changes:
                return batch
        raise OvertakenError(
            f"epochs: expected the rows from {self._first} to before {self._end}, but puts, remove or clear dropped "
            f"some; make the buffer larger, or put between the epochs and begin new ones"
        )
