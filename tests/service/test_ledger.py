"""The ledger against a plain list of rows: puts, losses, displacement, clears, shards that are away."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from really.service.allotment import Allotment
from really.service.ledger import NOWHERE, Ledger

SHARDS = 3
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, SHARDS - 1), st.integers(0, 9), st.integers(0, 2)),
        st.tuples(st.just("drop"), st.integers(0, 12)),
        st.tuples(st.just("lose"), st.integers(0, SHARDS - 1), st.integers(0, 40), st.integers(0, 40)),
        st.tuples(st.just("lose"), st.integers(0, SHARDS - 1)),
        st.tuples(st.just("away"), st.integers(0, SHARDS - 1), st.booleans()),
        st.tuples(st.just("clear")),
    ),
    max_size=40,
)


class PlainRows:
    """Rows as a list of (number, shard, place)."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []
        self.next_number, self.places = 0, [0] * SHARDS
        self.away: set[int] = set()

    @property
    def present(self) -> list[tuple[int, int, int]]:
        return [row for row in self.rows if row[1] not in self.away]


def carry_out(step: tuple, ledger: Ledger, plain: PlainRows) -> None:
    match step:
        case ("add", shard, num, gap):
            plain.places[shard] += gap  # places of rows that the shard refused
            ledger.add(plain.next_number, shard, plain.places[shard], num)
            plain.rows += [(plain.next_number + i, shard, plain.places[shard] + i) for i in range(num)]
            plain.next_number += num
            plain.places[shard] += num
        case ("drop", num):
            number = (plain.rows[0][0] if plain.rows else plain.next_number) + num
            ledger.drop_before(number)
            plain.rows = [row for row in plain.rows if row[0] >= number]
        case ("lose", shard, *limits):
            start, end = limits or (0, 10**9)
            gone = [row[0] for row in plain.rows if row[1] == shard and start <= row[2] < end]
            ranges = ledger.lose(shard, *limits)
            assert [number for first, last in ranges.tolist() for number in range(first, last)] == gone
            plain.rows = [row for row in plain.rows if row[0] not in gone]
        case ("away", shard, away):
            ledger.set_away(shard, away)
            (plain.away.add if away else plain.away.discard)(shard)
        case ("clear",):
            ledger.clear()
            plain.rows = []


def check(ledger: Ledger, plain: PlainRows) -> None:
    held = {number: (shard, place) for number, shard, place in plain.rows}
    numbers = np.arange(-1, plain.next_number + 1)
    shards, places = ledger.locate(numbers)
    assert list(zip(shards, places, strict=True)) == [held.get(number, (NOWHERE, NOWHERE)) for number in numbers]
    for number in held:
        assert [int(part) for part in ledger.find(np.int64(number))] == list(held[number])
    present = [number for number, _, _ in plain.present]
    assert ledger.num_rows == len(present)
    assert ledger.can_be_had(numbers).tolist() == [number in present for number in numbers]
    assert ledger.counts.tolist() == [sum(row[1] == shard for row in plain.rows) for shard in range(SHARDS)]
    if present:
        ages = np.arange(len(present))
        assert ledger.numbers_at(ages).tolist() == present
        assert ledger.ages_of(np.array(present)).tolist() == ages.tolist()
    middle = plain.next_number // 2
    for first in (0, middle):
        oldest = [[row[2] for row in plain.rows if row[1] == s and row[0] >= first] for s in range(SHARDS)]
        assert ledger.oldest_places(first).tolist() == [min(found, default=NOWHERE) for found in oldest]
    pieces = [(s, place + i) for s, place, num in ledger.pieces(middle, plain.next_number) for i in range(num)]
    assert pieces == [(shard, place) for number, shard, place in plain.present if number >= middle]
    assert Ledger.of(SHARDS, ledger.runs).runs.tolist() == ledger.runs.tolist()


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_it_finds_the_rows_that_a_plain_list_finds(steps: list[tuple]) -> None:
    ledger, plain = Ledger(SHARDS), PlainRows()
    for step in steps:
        carry_out(step, ledger, plain)
        check(ledger, plain)


def test_a_shard_that_is_added_takes_rows() -> None:
    ledger = Ledger(1)
    ledger.add(0, 0, 0, 10)
    ledger.grow()
    ledger.add(10, 1, 0, 5)
    assert ledger.counts.tolist() == [10, 5]
    assert ledger.oldest_places().tolist() == [0, 0]
    ledger.set_away(1, True)
    assert ledger.num_rows == 10


def test_rows_that_go_on_in_one_shard_are_one_run() -> None:
    ledger = Ledger(2)
    for number in range(0, 100, 10):
        ledger.add(number, 1, number, 10)
    ledger.add(100, 0, 0, 5)
    ledger.add(105, 1, 100, 5)
    assert ledger.runs.tolist() == [[0, 1, 0, 100], [100, 0, 0, 5], [105, 1, 100, 5]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 4), st.integers(4, 40))
def test_an_allotment_gives_each_row_to_one_shard_with_room(puts: list[int], shards: int, capacity: int) -> None:
    allotment = Allotment(capacity, shards)
    for num in puts:
        rooms = np.full(shards, -(-capacity // shards) * 2)
        num = min(num, int(rooms.sum()))
        pieces = allotment.pieces(num, rooms)
        assert [row for piece in pieces for row in range(piece.start, piece.stop)] == list(range(num))
        taken = np.bincount([p.shard for p in pieces], [p.stop - p.start for p in pieces], minlength=shards)
        assert (taken <= rooms).all()
