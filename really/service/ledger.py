"""The ledger of a sharded buffer: which shard holds which row. It knows numbers alone, neither rows nor processes."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
NUMBER, SHARD, PLACE, LENGTH = range(4)
"""Columns of a run."""
NOWHERE = -1
"""The shard, or the place, of a row that no shard holds."""


class Ledger:
    """Rows in the order of puts, as runs of consecutive rows that one shard holds at consecutive places.

    A row's number is how many rows the buffer had taken before it, and its place is how many rows its shard had taken
    before it. Numbers may have gaps: rows that were lost, or refused. A shard may be away: its rows are known, but
    they cannot be had for now.

    Args:
        num_shards: how many shards there are.
    """

    def __init__(self, num_shards: int) -> None:
        self._table = np.empty((16, 4), np.int64)
        self._begin = self._end = 0
        self._counts = np.zeros(num_shards, np.int64)
        self._away = np.zeros(num_shards, np.bool_)
        self._removed = np.empty((0, 4), np.int64)  # runs of rows that are removed, which shards hold until they drop
        self._present: tuple[Numbers, Numbers] | None = None
        self._index: tuple[Numbers, Numbers, Numbers] | None = None

    @classmethod
    def of(cls, num_shards: int, runs: Numbers) -> Self:
        """The ledger of the runs that `runs` gave, [run, 4] in the order of their numbers."""
        ledger = cls(num_shards)
        for number, shard, place, length in runs.tolist():
            ledger.add(number, shard, place, length)
        return ledger

    @property
    def runs(self) -> Numbers:
        """The runs, oldest first, [run, 4] int64: number, shard and place of the first row, and how many rows."""
        runs: Numbers = self._runs.copy()
        return runs

    @property
    def all_runs(self) -> Numbers:
        """`runs`, and those of removed rows among them."""
        runs = np.concatenate([self._runs, self._removed])
        return runs[np.argsort(runs[:, NUMBER])]

    @property
    def removed(self) -> Numbers:
        """Numbers of the rows that are removed and still held, [n] in ascending order."""
        parts = [np.arange(run[NUMBER], run[NUMBER] + run[LENGTH]) for run in self._removed]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    @property
    def bounds(self) -> tuple[int, int]:
        """Numbers of the oldest row and of the row after the newest; there is one at least."""
        runs = self._runs
        return int(runs[0, NUMBER]), int(runs[-1, NUMBER] + runs[-1, LENGTH])

    @property
    def last_shard(self) -> int:
        """The shard of the newest row; there is one at least."""
        return int(self._runs[-1, SHARD])

    @property
    def counts(self) -> Numbers:
        """Rows of each shard, [shard] int64."""
        counts: Numbers = self._counts.copy()
        return counts

    @property
    def away(self) -> NDArray[np.bool_]:
        """Which shards are away, [shard] bool."""
        return self._away.copy()

    @property
    def num_rows(self) -> int:
        """Rows that can be had: those of all shards that are not away."""
        return int(self._counts[~self._away].sum())

    def add(self, number: int, shard: int, place: int, num: int) -> None:
        """Adds `num` rows, of which the first has this number, and is at this place of the shard.

        Numbers and places of a shard rise from call to call.
        """
        if num == 0:
            return
        self._present = None
        self._counts[shard] += num
        if self._end > self._begin:
            last = self._table[self._end - 1]
            continued = last[NUMBER] + last[LENGTH] == number and last[PLACE] + last[LENGTH] == place
            if continued and last[SHARD] == shard:
                last[LENGTH] += num
                return
        if self._end == len(self._table):
            self._make_room()
        self._table[self._end] = number, shard, place, num
        self._end += 1
        self._index = None

    def drop_before(self, number: int) -> None:
        """Drops the rows before this number, which newer ones have displaced."""
        if len(self._removed) and self._removed[0, NUMBER] < number:
            self._removed = _from(self._removed, number)
        while self._begin < self._end and self._table[self._begin, NUMBER] < number:
            run = self._table[self._begin]
            num = int(min(number - run[NUMBER], run[LENGTH]))
            self._present = None
            self._counts[run[SHARD]] -= num
            run += (num, 0, num, -num)
            if run[LENGTH]:
                return
            self._begin += 1
            self._index = None

    def lose(self, shard: int, start: int = 0, end: int | None = None) -> Numbers:
        """Removes the rows of a shard whose places are from `start` to before `end`, by default all of them.

        Returns the numbers that are gone as ranges [range, 2]: the first, and the one after the last.
        """
        runs, removed = self._runs, self._removed
        is_gone = (removed[:, SHARD] == shard) & (removed[:, PLACE] >= start)
        self._removed = removed[~is_gone if end is None else ~(is_gone & (removed[:, PLACE] < end))]
        first, stop = runs[:, PLACE], runs[:, PLACE] + runs[:, LENGTH]
        begin, finish = np.maximum(first, start), stop if end is None else np.minimum(stop, end)
        hit = (runs[:, SHARD] == shard) & (begin < finish)
        if not hit.any():
            return np.empty((0, 2), np.int64)
        shift = runs[:, NUMBER] - first
        gone: Numbers = np.stack([begin + shift, finish + shift], axis=1)[hit]
        before, after = runs.copy(), runs.copy()
        before[hit, LENGTH] = (begin - first)[hit]
        after[:, LENGTH] = 0
        after[hit, NUMBER], after[hit, PLACE], after[hit, LENGTH] = gone[:, 1], finish[hit], (stop - finish)[hit]
        kept = np.stack([before, after], axis=1).reshape(-1, 4)
        self._set(kept[kept[:, LENGTH] > 0])
        self._counts[shard] -= int((gone[:, 1] - gone[:, 0]).sum())
        return gone

    def remove(self, numbers: Numbers) -> None:
        """Removes these rows, [n] in ascending order: they are none that can be had, but shards still hold them."""
        runs = self._runs
        inner = numbers[self.locate(numbers)[0] != NOWHERE]
        if len(inner) == 0:
            return
        cuts = np.unique(np.concatenate([runs[:, NUMBER], inner, inner + 1]))
        at = np.searchsorted(runs[:, NUMBER], cuts, side="right") - 1
        offsets = cuts - runs[at, NUMBER]
        ends = np.minimum(np.append(cuts[1:], runs[-1, NUMBER] + runs[-1, LENGTH]), runs[at, NUMBER] + runs[at, LENGTH])
        parts = np.stack([cuts, runs[at, SHARD], runs[at, PLACE] + offsets, ends - cuts], axis=1)
        parts = parts[parts[:, LENGTH] > 0]
        is_removed = np.isin(parts[:, NUMBER], inner)
        removed = np.concatenate([self._removed, parts[is_removed]])
        self._removed = _joined(removed[np.argsort(removed[:, NUMBER])])
        self._counts -= np.bincount(parts[is_removed, SHARD], minlength=len(self._counts))
        self._set(_joined(parts[~is_removed]))

    def clear(self) -> None:
        """Drops all rows."""
        self._removed = self._removed[:0]
        self._set(self._table[:0])
        self._counts[:] = 0

    def set_away(self, shard: int, away: bool) -> None:
        """Says that the rows of a shard cannot be had for now, or that they can be again."""
        self._away[shard] = away
        self._present = None

    def grow(self) -> None:
        """Adds a shard that has no rows."""
        self._counts, self._away = np.append(self._counts, 0), np.append(self._away, False)

    def locate(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """Shard and place of the rows with these numbers, both of the shape of `numbers`; `NOWHERE` for others."""
        runs = self._runs
        if len(runs) == 0:
            return np.full(numbers.shape, NOWHERE), np.full(numbers.shape, NOWHERE)
        at = np.searchsorted(runs[:, NUMBER], numbers, side="right") - 1 if len(runs) > 1 else np.zeros_like(numbers)
        offsets = numbers - runs[at, NUMBER]
        held = (offsets >= 0) & (offsets < runs[at, LENGTH])
        shards, places = runs[at, SHARD], runs[at, PLACE] + offsets
        if held.all():
            return shards, places
        return np.where(held, shards, NOWHERE), np.where(held, places, NOWHERE)

    def whereabouts(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """`locate` of rows that may be removed."""
        shards, places = self.locate(numbers)
        if len(self._removed) == 0:
            return shards, places
        removed = Ledger.of(len(self._counts), self._removed)
        others = np.flatnonzero(shards == NOWHERE)
        shards[others], places[others] = removed.locate(numbers[others])
        return shards, places

    def find(self, numbers: Numbers) -> tuple[Numbers | int, Numbers]:
        """`locate` of rows that are held, which is faster: one shard, if all rows of the ledger are in one."""
        if self._index is None:
            runs = self._runs
            self._index = runs[:, NUMBER].copy(), runs[:, SHARD].copy(), runs[:, PLACE] - runs[:, NUMBER]
        starts, shards, shifts = self._index
        if len(starts) == 1:
            return int(shards[0]), numbers + shifts[0]
        at = np.searchsorted(starts, numbers, side="right") - 1
        return shards[at], numbers + shifts[at]

    def can_be_had(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Which of these rows a shard holds that is not away, bool of the shape of `numbers`."""
        shards, _ = self.locate(numbers)
        found: NDArray[np.bool_] = (shards != NOWHERE) & ~self._away[shards]
        return found

    def numbers_at(self, ages: Numbers) -> Numbers:
        """The numbers of the rows of these ages: 0 is the oldest row that can be had, `num_rows` - 1 the newest."""
        starts, shift = self._by_age()
        if len(starts) == 1:
            only: Numbers = ages + shift[0]
            return only
        found: Numbers = ages + shift[np.searchsorted(starts, ages, side="right") - 1]
        return found

    def ages_of(self, numbers: Numbers) -> Numbers:
        """The ages of rows that can be had: how many of these rows are older. The inverse of `numbers_at`."""
        starts, shift = self._by_age()
        found: Numbers = numbers - shift[np.searchsorted(starts + shift, numbers, side="right") - 1]
        return found

    def pieces(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """(shard, place, length) of the rows with numbers from `first` to before `end` that can be had, in order."""
        found = []
        for number, shard, place, length in self._runs[~self._away[self._runs[:, SHARD]]].tolist():
            start, stop = max(first, number), min(end, number + length)
            if start < stop:
                found.append((shard, place + start - number, stop - start))
        return found

    def nth_from(self, number: int, count: int) -> int:
        """The number after the first `count` rows with this number or a higher one, whether they can be had or not."""
        runs = self._runs
        before = np.clip(number - runs[:, NUMBER], 0, runs[:, LENGTH])
        sums = np.cumsum(runs[:, LENGTH] - before)
        at = min(int(np.searchsorted(sums, count)), len(runs) - 1)
        return int(runs[at, NUMBER] + runs[at, LENGTH] - max(0, sums[at] - count))

    def number_at(self, shard: int, place: int) -> int:
        """The number of the row at this place of a shard; `NOWHERE` if there is none, or if it is removed."""
        runs = self._runs
        offsets = place - runs[:, PLACE]
        hit = np.flatnonzero((runs[:, SHARD] == shard) & (offsets >= 0) & (offsets < runs[:, LENGTH]))
        return int(runs[hit[0], NUMBER] + offsets[hit[0]]) if len(hit) else NOWHERE

    def oldest_places(self, number: int = 0) -> Numbers:
        """The place of the oldest row with this number or a higher one in each shard, [shard]; `NOWHERE` for none."""
        places = np.full(len(self._counts), NOWHERE)
        runs = self.all_runs if len(self._removed) else self._runs
        runs = runs[runs[:, NUMBER] + runs[:, LENGTH] > number][::-1]  # of equal indices the last assignment counts
        places[runs[:, SHARD]] = runs[:, PLACE] + np.maximum(number - runs[:, NUMBER], 0)
        return places

    @property
    def _runs(self) -> Numbers:
        return self._table[self._begin : self._end]

    def _by_age(self) -> tuple[Numbers, Numbers]:
        """Of each run that can be had: the age of its first row, and that row's number less this age."""
        if self._present is None:
            runs = self._runs[~self._away[self._runs[:, SHARD]]]
            starts = np.cumsum(runs[:, LENGTH]) - runs[:, LENGTH]
            self._present = starts, runs[:, NUMBER] - starts
        return self._present

    def _set(self, runs: Numbers) -> None:
        """Makes these the runs."""
        self._present = self._index = None
        self._table = np.concatenate([runs, np.empty((16, 4), np.int64)])
        self._begin, self._end = 0, len(runs)

    def _make_room(self) -> None:
        """Moves the runs to the front of a table that is at least twice as long."""
        runs = self._runs
        self._table = np.concatenate([runs, np.empty((max(16, len(runs)), 4), np.int64)])
        self._begin, self._end = 0, len(runs)


def _from(runs: Numbers, number: int) -> Numbers:
    """The rows of runs from this number on."""
    kept: Numbers = runs[runs[:, NUMBER] + runs[:, LENGTH] > number].copy()
    skipped = np.maximum(number - kept[:, NUMBER], 0)
    kept += np.stack([skipped, np.zeros_like(skipped), skipped, -skipped], axis=1)
    return kept


def _joined(runs: Numbers) -> Numbers:
    """The same rows in as few runs as there can be."""
    if len(runs) < 2:
        return runs
    before, after = runs[:-1], runs[1:]
    continues = (
        (before[:, NUMBER] + before[:, LENGTH] == after[:, NUMBER])
        & (before[:, PLACE] + before[:, LENGTH] == after[:, PLACE])
        & (before[:, SHARD] == after[:, SHARD])
    )
    heads = np.flatnonzero(np.append(True, ~continues))
    found: Numbers = runs[heads].copy()
    found[:, LENGTH] = np.add.reduceat(runs[:, LENGTH], heads)
    return found
