"""Lateness: when an order is late, when it is overdue, and where its runner is, told without a wait."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest

from really.collectors.lateness import START_ALLOWANCE, Lateness, Pace, measure, weights
from really.collectors.messages import Chunk, Order, PolicySettings, results_of
from really.collectors.orders import PendingOrder, Worker
from really.collectors.whereabouts import Whereabouts
from really.data.record_batches import to_record_batch


def worker_of(number: int, started_at: float, *, started: bool = True) -> Worker:
    """A worker with one order of ten results, on which it works since `started_at`."""
    worker = Worker(number, (number,), None, started=started, prepared=started)
    worker.pending.append(PendingOrder(number, Order((10,), PolicySettings(0.0, 1.0)), object(), started_at))
    return worker


def pace_of(rows: int, seconds: float) -> Pace:
    """The pace after one result."""
    pace = Pace()
    pace.add(Chunk(to_record_batch({"row": np.arange(rows)}), results_of(0, rows, 0), seconds))
    return pace


def test_an_order_is_late_after_four_times_the_usual_time() -> None:
    lateness = Lateness(pace_of(100, 1.0), None, awaits_all=False)
    now = time.monotonic()
    slow, quick = worker_of(0, now - 60), worker_of(1, now)
    assert lateness.next([quick]) == pytest.approx(now + 4 * 10 + 0.25)
    assert lateness.mark([slow, quick]) == []
    assert (slow.late, quick.late) == (True, False)
    assert lateness.next([slow]) == math.inf, "it is marked once"


def test_if_all_agents_are_awaited_an_order_is_late_only_when_it_is_overdue() -> None:
    lateness = Lateness(pace_of(100, 1.0), 30.0, awaits_all=True)
    now = time.monotonic()
    slow, hung = worker_of(0, now - 20), worker_of(1, now - 40)
    assert lateness.mark([slow, hung]) == [hung]
    assert (slow.late, hung.late) == (False, True)
    assert (lateness.is_overdue(slow), lateness.is_overdue(hung)) == (False, True)
    assert lateness.mark([slow, hung]) == [], "it is told once"


def test_each_call_gives_an_earlier_order_the_whole_time_out() -> None:
    lateness = Lateness(Pace(), 30.0, awaits_all=True)
    hung = worker_of(0, time.monotonic() - 40)
    assert lateness.mark([hung]) == [hung]
    lateness.begin()
    assert not lateness.is_overdue(hung)
    assert lateness.mark([hung]) == []
    assert lateness.deadline(hung) == pytest.approx(time.monotonic() + 30, abs=5)


def test_a_process_has_time_to_start_and_nobody_waits_for_one_that_replaces_another() -> None:
    lateness = Lateness(pace_of(100, 1.0), 30.0, awaits_all=False)
    now = time.monotonic()
    first, successor = worker_of(0, now - 40, started=False), worker_of(1, now, started=False)
    successor.replaces_lost = True
    assert lateness.mark([first, successor]) == []
    assert (first.late, successor.late) == (False, True)
    assert lateness.deadline(first) == pytest.approx(now - 40 + 30 + START_ALLOWANCE)


def test_a_runner_is_asked_before_it_is_overdue() -> None:
    lateness = Lateness(Pace(), 4.0, awaits_all=True)
    now = time.monotonic()
    early, hung = worker_of(0, now + 100), worker_of(1, now - 3)
    assert lateness.nearly_overdue([early, hung]) == [hung]
    assert lateness.next([early]) == pytest.approx(now + 102), "half of the time-out before"


def test_agents_of_much_slower_runners_get_less_work() -> None:
    workers = [Worker(0, (0, 1), None, rate=2000.0), Worker(1, (2, 3), None, rate=150.0), Worker(2, (4,), None)]
    assert weights(workers) == [1.0, 1.0, 0.075, 0.075, 1.0], "a rate that is not known yet is no slow one"
    workers[1].rate = 900.0
    assert weights(workers) is None, "differences between runners of one machine change nothing"


def test_the_rate_counts_only_orders_of_this_call() -> None:
    worker, now = worker_of(0, 0.0), time.monotonic()
    done = worker.pending[0]
    measure(worker, done, 1000, since=now - 1)
    assert worker.rate == 0
    done.started_at = now - 0.5
    measure(worker, done, 1000, since=now - 1)
    assert 0 < worker.rate <= 2000
    first = worker.rate
    measure(worker, done, 10, since=now - 1)
    assert first / 2 <= worker.rate < first


def test_runners_that_do_not_answer_keep_nobody_waiting() -> None:
    silent = threading.Event()
    asked: list[int] = []

    def where(worker: Worker) -> str:
        asked.append(worker.number)
        if worker.number == 1:
            silent.wait(60)
        return "step 3" if worker.number < 2 else str(1 / 0)

    workers = [worker_of(number, 0.0) for number in range(3)]
    whereabouts = Whereabouts(where)
    whereabouts.ask(workers)
    whereabouts.tell([workers[0], workers[2]], patience=60)
    told = whereabouts.tell(workers, patience=0)
    silent.set()
    assert sorted(asked) == [0, 1, 2], "each is asked once"
    assert told.split("; ") == [
        "runner 0 (agents 0 to 0): in step 3",
        "runner 1 (agents 1 to 1): in an unknown place: it has not answered",
        "runner 2 (agents 2 to 2): in an unknown place: it has not answered (ZeroDivisionError)",
    ]


def test_a_runner_that_was_asked_in_good_time_is_not_waited_for_again() -> None:
    """A time-out is not longer by the seconds for which an answer is waited."""
    silent = threading.Event()
    whereabouts, worker = Whereabouts(lambda worker: str(silent.wait(60))), worker_of(0, time.monotonic())
    whereabouts.ask([worker])
    time.sleep(1.5)
    begun = time.monotonic()
    told = whereabouts.tell([worker], patience=1.5)
    seconds = time.monotonic() - begun
    silent.set()
    assert "has not answered" in told
    assert seconds < 1
