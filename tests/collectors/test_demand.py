"""Demand: the results that a call needs, the agents that collect them, and the parts that are delivered."""

from __future__ import annotations

import numpy as np
import pytest

from really.collectors.demand import (
    LONG_MESSAGE_ROWS,
    MESSAGE_ROWS,
    Arrivals,
    Demand,
    Part,
    spread,
    streamed_rows,
    waves,
)
from really.collectors.messages import Chunk, results_of
from really.data.record_batches import from_record_batch, to_record_batch


def part_of(*results: tuple[int, int], first_row: int = 0, version: int = 0) -> Part:
    """A chunk whose rows are numbered, with results given as (agent, rows)."""
    rows = sum(count for _, count in results)
    batch = to_record_batch({"row": np.arange(first_row, first_row + rows)})
    return Part.of(Chunk(batch, results_of(*zip(*results, strict=True), version), 0.1))


def arrivals_of(*parts: Part) -> Arrivals:
    """Parts that arrived in this order, and whose orders were sent in it."""
    arrivals = Arrivals()
    for number, part in enumerate(parts):
        arrivals.add(number, part)
    return arrivals


def rows_of(parts: list[Part]) -> list[int]:
    return [int(row) for part in parts for row in from_record_batch(part.batch)["row"]]


def test_delivers_the_fewest_whole_results_in_order() -> None:
    parts = [part_of((0, 4), (1, 4)), part_of((2, 4), (3, 4), first_row=8)]
    delivered, kept = Demand(rows=9, agents=1).fewest(parts)
    assert rows_of(delivered) == list(range(12))
    assert rows_of(kept) == [12, 13, 14, 15]
    assert [part.agents for part in kept] == [{3}]


def test_no_part_remains_if_all_are_needed() -> None:
    parts = [part_of((0, 4)), part_of((1, 4), first_row=4)]
    delivered, kept = Demand(rows=8, agents=1).fewest(parts)
    assert (delivered, kept) == (parts, [])


def test_enough_rows_of_too_few_agents_do_not_meet_the_demand() -> None:
    parts = [part_of((0, 100)), part_of((1, 1))]
    assert not Demand(rows=10, agents=2).met(arrivals_of(parts[0]))
    assert Demand(rows=10, agents=2).met(arrivals_of(*parts))
    delivered, kept = Demand(rows=10, agents=2).fewest(parts)
    assert (len(delivered), kept) == (2, [])


def test_no_parts_never_meet_the_demand() -> None:
    assert not Demand(rows=0, agents=1).met(Arrivals())


def test_arrivals_are_taken_in_the_order_of_their_orders_and_the_rest_stays() -> None:
    arrivals = Arrivals()
    arrivals.add(7, part_of((2, 4), (3, 4), first_row=8))
    arrivals.add(5, part_of((0, 4), (1, 4)))
    assert (len(arrivals), arrivals.rows, arrivals.agents) == (2, 16, {0, 1, 2, 3})
    assert rows_of(arrivals.take(Demand(rows=9, agents=1))) == list(range(12))
    assert (len(arrivals), arrivals.rows, arrivals.agents) == (1, 4, {3})
    assert rows_of(arrivals.take(Demand(rows=4, agents=1))) == [12, 13, 14, 15]
    assert (len(arrivals), arrivals.rows) == (0, 0)


def test_arrivals_of_older_policies_are_dropped_and_counted() -> None:
    arrivals = arrivals_of(*(part_of((0, 4), first_row=4 * version, version=version) for version in range(3)))
    assert arrivals.drop_older(1) == 4
    assert rows_of(list(arrivals)) == list(range(4, 12))
    assert arrivals.drop_older(1) == 0


@pytest.mark.parametrize(
    ("results", "turn", "expected"), [(4, 0, [1, 1, 1, 1]), (6, 3, [2, 1, 1, 2]), (1, 2, [0, 0, 1, 0])]
)
def test_results_are_spread_evenly_and_in_turn(results: int, turn: int, expected: list[int]) -> None:
    assert spread(results, range(4), turn, 4).tolist() == expected


@pytest.mark.parametrize(
    ("results", "weights", "expected"),
    [(4, [1, 1, 1, 1], [1, 1, 1, 1]), (20, [1, 1, 0.1, 0.1], [9, 9, 1, 1]), (3, [1, 1, 0.1, 0.1], [2, 1, 0, 0])],
)
def test_results_are_spread_by_weight(results: int, weights: list[float], expected: list[int]) -> None:
    assert spread(results, range(4), 2, 4, weights).tolist() == expected


def test_waves_add_up_and_fit_into_messages() -> None:
    quota = np.array([1000, 999, 998])
    found = waves(quota, rows_a_result=10, row_bytes=60, message_bytes=32 << 20)
    np.testing.assert_array_equal(np.sum(found, axis=0), quota)
    assert max(wave.sum() * 10 for wave in found) <= MESSAGE_ROWS
    assert [wave.max() for wave in waves(quota, 10, row_bytes=1 << 20, message_bytes=32 << 20)] == [1] * 1000


@pytest.mark.parametrize(
    ("call_rows", "row_bytes", "grows", "expected"),
    [
        (16 * MESSAGE_ROWS, 60, True, MESSAGE_ROWS),
        (24 * MESSAGE_ROWS, 60, True, MESSAGE_ROWS * 3 // 2),
        (999 * MESSAGE_ROWS, 60, True, LONG_MESSAGE_ROWS),
        (999 * MESSAGE_ROWS, 60, False, MESSAGE_ROWS),
        (999 * MESSAGE_ROWS, 1024, True, MESSAGE_ROWS),
    ],
    ids=["16 rounds", "more", "many", "in time", "large rows"],
)
def test_messages_of_long_calls_are_longer(call_rows: int, row_bytes: int, grows: bool, expected: int) -> None:
    found = waves(np.full(8, call_rows // 8), 1, row_bytes, message_bytes=32 << 20, grows=grows)
    assert found[0].sum() == expected
    assert np.sum(found) == call_rows


def test_streamed_orders_grow_with_the_speed_of_runners_up_to_a_message() -> None:
    assert [streamed_rows(speed, MESSAGE_ROWS) for speed in (0.0, 1e3, 2e5, 1e9)] == [4096, 4096, 10_000, MESSAGE_ROWS]
    # Rows of which only a few fit into a message come in the usual number, in several messages.
    assert streamed_rows(1e9, 10) == 4096
