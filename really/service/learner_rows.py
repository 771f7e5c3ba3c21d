"""The rows of all shards as a ring: what samplers and sample units ask that look at columns, or follow trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.frames import Sharing
from really.data.schema import Spec
from really.replay.units import Batch
from really.service.assembly import BatchMemory, asked, assembled
from really.service.distribution import Distribution, silent_in
from really.service.history import History
from really.service.ledger import NOWHERE
from really.service.lock import BufferLock

Numbers = NDArray[np.int64]


class LearnerRows:
    """Answers as a `Ring` of all rows does: draws and numbers are the learner's, and columns come from the shards.

    So samplers and sample units are the same objects as in a `ReplayBuffer`, and give the same batches. Rows that are
    lost, or whose shard is away, count as removed. The caller may hold locks of samplers and units, but not that of the
    buffer, which this takes.

    Args:
        spec: key -> (dtype, shape of one row).
        sharings: which columns share frames.
        rows, history, lock: those of the buffer.
        max_unchecked_rows: rows of a batch that is made without a check of the memory left.
    """

    def __init__(
        self,
        spec: Spec,
        sharings: Sequence[Sharing],
        rows: Distribution,
        history: History,
        lock: BufferLock,
        max_unchecked_rows: int,
    ) -> None:
        self.names = list(spec)
        self.dtypes, self.shapes = [kind.dtype for kind in spec.values()], [kind.shape for kind in spec.values()]
        self.shared = [tuple(sharing) for sharing in sharings]
        self.max_unchecked_rows = max_unchecked_rows
        self._rows, self._history, self._lock = rows, history, lock
        self._numbering, self._memory = rows.numbering, BatchMemory()
        self._updates: dict[str, int] = {}

    def __len__(self) -> int:
        return self._rows.ledger.num_rows

    @property
    def capacity(self) -> int:
        """How many rows are kept."""
        return self._numbering.ring.capacity

    @property
    def num_put(self) -> int:
        """Number of the next row."""
        return self._numbering.ring.num_put

    @property
    def oldest_row(self) -> int:
        """Number of the oldest row."""
        return self._numbering.ring.oldest_row

    @property
    def num_removed(self) -> int:
        """How many of the rows held cannot be had."""
        with self._lock:
            oldest, newest = self._numbering.held()
            return newest - oldest - self._rows.ledger.num_rows

    @property
    def num_changes(self) -> int:
        """How often rows that were held have changed, other than by puts."""
        return self._numbering.ring.num_changes + self._rows.num_changes

    @property
    def num_choices(self) -> int:
        """How many rows a draw of the sampler chooses from."""
        return self._numbering.ring.num_choices

    def version_of(self, names: Iterable[str]) -> int:
        """A number that changes whenever rows that are held change, other than by puts, as far as these columns go."""
        return self.num_changes + sum(self._updates.get(name, 0) for name in names)

    def note_update(self, names: Iterable[str]) -> None:
        """Says that these columns of some rows were written."""
        for name in names:
            self._updates[name] = self._updates.get(name, 0) + 1

    def held_rows(self) -> tuple[int, int]:
        """Numbers of the oldest row and of the next one, once what happened to the shards is known."""
        with self._lock:
            self._rows.settle(self._history)
            return self._numbering.held()

    def are_removed(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Which of these rows [n] are held and cannot be had."""
        with self._lock:
            oldest, newest = self._numbering.held()
            if self._rows.ledger.num_rows == newest - oldest:
                return np.zeros(numbers.shape, np.bool_)
            is_held = (oldest <= numbers) & (numbers < newest)
            found: NDArray[np.bool_] = is_held & ~self._rows.ledger.can_be_had(numbers)
            return found

    def numbers_of(self, ages: Numbers) -> bool:
        """Replaces indices by age by row numbers, in place. Returns False if one has no row."""
        with self._lock:
            if ages.size and not 0 <= int(ages.min()) <= int(ages.max()) < len(self):
                return False
            if ages.size:
                ages[...] = self._rows.ledger.numbers_at(ages)
            return True

    def ages_of(self, numbers: Numbers) -> bool:
        """Replaces row numbers by indices by age, in place. Returns False if one cannot be had."""
        with self._lock:
            if numbers.size and not self._rows.ledger.can_be_had(numbers).all():
                return False
            if numbers.size:
                numbers[...] = self._rows.ledger.ages_of(numbers)
            return True

    def draw_below(self, bound: int, num: int, num_batches: int = 0, distinct: bool = False) -> Numbers:
        """`Ring.draw_below` with the buffer's generator."""
        return self._numbering.ring.draw_below(bound, num, num_batches, distinct)

    def begin_updates(self, num: int) -> int:
        """`Ring.begin_updates`."""
        return self._numbering.ring.begin_updates(num)

    def sample_ages(
        self, num: int, num_batches: int = 0, distinct: bool = False, by_number: bool = False, update: int = -1
    ) -> Numbers | None:
        """`Ring.sample_ages` of the rows held; numbers that are not `distinct` may be those of lost rows.

        Raises InvalidValueError if rows are lost and the sampler cannot draw the others without replacement.
        """
        shape = (num_batches, num) if num_batches else (num,)
        with self._lock:
            ledger, ring = self._rows.ledger, self._numbering.ring
            if len(ring) == ledger.num_rows or (by_number and not distinct):
                return ring.sample_ages(num, num_batches, distinct, by_number, update)
            numbers, _ = self._numbering.draw(shape, not distinct, None, ledger)
            return numbers if by_number else ledger.ages_of(numbers)

    def take(
        self,
        rows: Numbers,
        num: int,
        num_batches: int = 0,
        out: Batch | None = None,
        by_number: bool = False,
        steps: bool = False,
    ) -> Batch | None:
        """The rows of these ages or numbers, as `Ring.take` gives them; None if one cannot be had.

        With `steps`, shards give rows as their own sample unit does: with several steps, if that is `n_step`.
        """
        shape = (num_batches, num) if num_batches else (num,)
        with self._lock:
            self._rows.settle(self._history)
            numbers = rows.copy()
            if not by_number and not self.numbers_of(numbers):
                return None
            owners, places = self._reachable(numbers)
            if (owners == NOWHERE).any():
                return None
            parts = asked(self._rows.shards, owners.reshape(shape), places.reshape(shape))
        return assembled(parts, shape, out, self._memory)

    def take_column(self, name: str, rows: Numbers) -> NDArray[Any] | None:
        """`Ring.take_column`; shards give whole rows."""
        batch = self.take(rows, rows.size, by_number=True)
        return None if batch is None else batch[name]

    def read_keys(self, first: int, num: int, out: Batch) -> bool:
        """Writes columns [num, ...] of the rows from number `first` on; those of rows that are lost become 0.

        Returns False if a row is no longer held.
        """
        numbers = np.arange(first, first + num)
        with self._lock:
            self._rows.settle(self._history)
            if first < self._numbering.held()[0]:
                return False
            owners, places = self._reachable(numbers)
            parts = self._rows.ask_owners("columns_at", owners, lambda chosen: (places[chosen], list(out)))
        if silent_in(parts):
            return False
        for key, column in out.items():
            if (owners == NOWHERE).any():
                column[...] = np.zeros((), column.dtype)
            for part in parts:
                column[part.positions] = part.value[key]
        return True

    def continues(self, before: Numbers, numbers: Numbers, pairs: list[tuple[int, int]]) -> NDArray[np.bool_] | None:
        """`Ring.continues`, also of rows in different shards. Without `pairs`, whether all rows in between are there.

        Returns None if one of the rows `numbers` is not held.
        """
        with self._lock:
            self._rows.settle(self._history)
            if numbers.size and int(numbers.min()) < self._numbering.held()[0]:
                return None
            if not pairs:
                return self._are_whole(before, numbers)
            owners, places = self._reachable(numbers)
            owners_before, places_before = self._reachable(before)
            are_there = (owners != NOWHERE) & (owners_before != NOWHERE)
            together = np.where(are_there & (owners == owners_before), owners, NOWHERE)
            parts = self._rows.ask_owners(
                "continues_at", together, lambda chosen: (places_before[chosen], places[chosen], pairs)
            )
        apart = np.flatnonzero(are_there & (owners != owners_before))
        flags = None if silent_in(parts) else self._continue_apart(before[apart], numbers[apart], pairs)
        if flags is None:
            return None
        found = np.zeros(numbers.shape, np.bool_)
        found[apart] = flags
        for part in parts:
            found[part.positions] = part.value
        return found

    def _reachable(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """Shard and place of these rows, removed ones included; `NOWHERE` for those that are lost or away."""
        ledger = self._rows.ledger
        owners, places = ledger.whereabouts(numbers)
        away = ledger.away
        if away.any():
            is_away = (owners != NOWHERE) & away[owners]
            owners, places = np.where(is_away, NOWHERE, owners), np.where(is_away, NOWHERE, places)
        return owners, places

    def _continue_apart(
        self, before: Numbers, numbers: Numbers, pairs: list[tuple[int, int]]
    ) -> NDArray[np.bool_] | None:
        """`continues` of rows that are in another shard than the row before."""
        found = np.ones(len(numbers), np.bool_)
        if len(numbers) == 0:
            return found
        ends, begins = (self.take(rows, len(rows), by_number=True) for rows in (before, numbers))
        if ends is None or begins is None:
            return None
        for state, after in pairs:
            one, other = begins[self.names[state]], ends[self.names[after]]
            same = one.reshape(len(one), -1).view(np.uint8) == other.reshape(len(other), -1).view(np.uint8)
            found &= same.all(axis=1)
        return found

    def _are_whole(self, before: Numbers, numbers: Numbers) -> NDArray[np.bool_]:
        """Whether no row is lost from the row `before` to each of these."""
        found: NDArray[np.bool_] = before >= self._numbering.held()[0]
        if found.any():
            first = int(before[found].min())
            owners, _ = self._reachable(np.arange(first, int(numbers[found].max()) + 1))
            sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(owners == NOWHERE)])
            found[found] = sums[numbers[found] + 1 - first] == sums[before[found] - first]
        return found
