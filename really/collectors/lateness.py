"""Lateness: which orders take longer than runners usually do, and which take longer than `remote_time_out`."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from really.collectors.messages import Chunk
from really.collectors.orders import PendingOrder, Worker

# A runner is late if it takes this many times longer than runners usually do, plus an allowance in seconds.
LATE_FACTOR, LATE_ALLOWANCE = 4.0, 0.25
# Seconds that a process may take until it is ready to step, in addition to `remote_time_out`.
START_ALLOWANCE = 30.0
# Most seconds before it is overdue at which a runner is asked where it is, so that its answer is there in time.
ASK_AHEAD = 5.0
# Factor by which the running totals of rows, results and seconds decay from one call to the next.
DECAY = 0.5
# A runner that delivers so many times fewer rows per second and agent than the fastest gets less work than the others.
SLOW_FACTOR = 3.0
# The smallest part of the usual work that it gets, and how fast its rate is forgotten, so that it is tried again.
LEAST_WEIGHT, FORGET = 1 / 32, 1.05


@dataclass
class Pace:
    """How fast runners usually work, as decaying totals over all of them.

    If a call awaits all agents, `rows` and `results` do not depend on the order in which results arrive.
    """

    rows: float = 0.0
    results: float = 0.0
    seconds: float = 0.0

    def decay(self) -> None:
        """Makes older chunks count less; called once for each call."""
        self.rows, self.results, self.seconds = DECAY * self.rows, DECAY * self.results, DECAY * self.seconds

    def add(self, chunk: Chunk) -> None:
        """Counts a chunk."""
        self.rows += chunk.batch.num_rows
        self.results += len(chunk.results)
        self.seconds += chunk.seconds

    @property
    def rows_per_result(self) -> float:
        """The mean number of rows of a result, which is 0 before the first."""
        return self.rows / self.results if self.results else 0.0

    @property
    def rows_per_second(self) -> float:
        """The rows per second of one runner, which is 0 before the first."""
        return self.rows / self.seconds if self.seconds else 0.0


class Lateness:
    """Marks late orders.

    An order is late if it takes much longer than usual; the call then asks other runners for the missing rows. An order
    is overdue once its runner has worked on it for `remote_time_out` seconds of this call; the call then does without.

    Args:
        pace: how fast runners usually work.
        time_out: `remote_time_out` in seconds; None for none.
        awaits_all: whether each call awaits all agents, so that no order is late before it is overdue.

    Attributes:
        begun: the time at which the call began.
    """

    def __init__(self, pace: Pace, time_out: float | None, *, awaits_all: bool) -> None:
        self._pace, self._awaits_all = pace, awaits_all
        self._time_out = math.inf if time_out is None else time_out
        self._ahead = min(ASK_AHEAD, self._time_out / 2)
        self.begun = -math.inf
        self._overdue: set[PendingOrder] = set()

    def begin(self) -> None:
        """Begins a call. An order of an earlier call has the whole time-out of this one."""
        self.begun = time.monotonic()
        self._overdue.clear()

    def is_overdue(self, worker: Worker) -> bool:
        """Whether this call does without the worker's oldest order."""
        return bool(worker.pending) and worker.pending[0] in self._overdue

    def deadline(self, worker: Worker) -> float:
        """The time at which the worker's oldest order is overdue, which is later while it is not ready to step."""
        since = max(self.begun, worker.pending[0].started_at)
        return since + self._time_out + (0 if worker.prepared else START_ALLOWANCE)

    def next(self, busy: Collection[Worker]) -> float:
        """The time at which the next of these workers is late or overdue, or is to be asked where it is."""
        now, deadlines = time.monotonic(), [self.deadline(worker) for worker in busy if not self.is_overdue(worker)]
        questions = (deadline - self._ahead for deadline in deadlines)
        return min([math.inf, *deadlines, *(at for at in questions if at > now), *map(self._due, busy)])

    def nearly_overdue(self, busy: Collection[Worker]) -> list[Worker]:
        """Those of these workers that are overdue soon, and can be asked where they are."""
        soon = time.monotonic() + self._ahead
        return [worker for worker in busy if not self.is_overdue(worker) and self.deadline(worker) <= soon]

    def mark(self, busy: Collection[Worker]) -> list[Worker]:
        """Marks the orders of these workers that are late by now; returns the workers that are overdue since now."""
        now, overdue = time.monotonic(), []
        for worker in busy:
            oldest = worker.pending[0]
            if now >= self.deadline(worker) and oldest not in self._overdue:
                self._overdue.add(oldest)
                overdue.append(worker)
            oldest.late = oldest.late or oldest in self._overdue or now >= self._due(worker)
        return overdue

    def _due(self, worker: Worker) -> float:
        """The time from which a worker is late. Returns infinity if it is marked or starts, or all are awaited."""
        oldest = worker.pending[0]
        if oldest.late or self._awaits_all or not self._pace.rows_per_second:
            return math.inf
        if not worker.started:
            # The others need not wait until the process of one that replaces a lost one has started.
            return -math.inf if worker.replaces_lost else math.inf
        rows = oldest.results * self._pace.rows_per_result
        return oldest.started_at + LATE_ALLOWANCE + LATE_FACTOR * rows / self._pace.rows_per_second


def measure(worker: Worker, done: PendingOrder, rows: int, since: float) -> None:
    """Updates the rate of a worker that has delivered rows of an order, on which it worked after the time `since`."""
    if done.started_at >= since:
        rate = rows / max(time.monotonic() - done.started_at, 1e-6)
        worker.rate = rate if not worker.rate else (worker.rate + rate) / 2


def weights(workers: Sequence[Worker]) -> list[float] | None:
    """The weight of each agent of these workers, by what they deliver. Returns None if none is much slower."""
    rates = [worker.rate / max(1, len(worker.agents)) for worker in workers]
    fastest = max(rates, default=0.0)
    if not any(0 < SLOW_FACTOR * rate < fastest for rate in rates):
        return None
    relative = [max(LEAST_WEIGHT, rate / fastest) if 0 < SLOW_FACTOR * rate < fastest else 1.0 for rate in rates]
    return [weight for worker, weight in zip(workers, relative, strict=True) for _ in worker.agents]
