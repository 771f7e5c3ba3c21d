"""The collector: plans a call's orders, waits for what runners send, and decides what is delivered."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from really.collectors.demand import Demand, Part, spread, waves
from really.collectors.fleet import QUEUED_ORDERS, Fleet, PendingOrder, Worker
from really.collectors.messages import Chunk, Order, PolicySettings
from really.data.normalisation import RunningStatistics
from really.errors import RunnerTimeoutError

log = logging.getLogger("really")

# A runner is late when it takes this much longer than the others need for an order (plus a fixed allowance).
LATE_FACTOR, LATE_ALLOWANCE = 4.0, 0.25
# Rows of all agents together that are streamed at a time: few enough for new settings to apply soon.
STREAMED_ROWS = 4096
# Seconds that a process may take to start, besides `remote_time_out`.
START_ALLOWANCE = 30.0
# How much of what is known of results' lengths and pace is kept from call to call.
MEMORY = 0.5


class Collector:
    """Gathers whole results from a fleet, call after call."""

    def __init__(
        self,
        fleet: Fleet,
        num_agents: int,
        statistics: RunningStatistics,
        *,
        num_steps: int | None,
        row_bytes: int,
        min_agents: int,
        time_out: float | None = None,
        max_staleness: float = math.inf,
    ) -> None:
        self._fleet = fleet
        self._num_agents = num_agents
        self._statistics = statistics
        self._num_steps = num_steps
        self._row_bytes = row_bytes
        self._min_agents = min_agents
        self._time_out = time_out
        self._max_staleness = max_staleness
        self._ready: dict[int, Part] = {}
        self._serial = 0
        self._turn = 0
        # Decaying totals: with all agents awaited they are the same whatever order results arrive in.
        self._seen_rows = self._seen_results = self._seen_seconds = 0.0
        self.delivered_rows = 0
        self.dropped_rows = 0
        self.waited_seconds = 0.0

    def info(self) -> dict[str, Any]:
        """Running figures: rows delivered, dropped and kept for the next call, orders queued, time waited, pace."""
        return {
            "delivered_rows": self.delivered_rows,
            "dropped_rows": self.dropped_rows,
            "kept_rows": sum(part.rows for part in self._ready.values()),
            "queued_orders": sum(len(worker.pending) for worker in self._fleet.workers),
            "waited_seconds": round(self.waited_seconds, 3),
            "rows_per_second_per_runner": self._seen_rows / self._seen_seconds if self._seen_seconds else 0.0,
        }

    def collect(
        self, rows: int, settings: PolicySettings, progress: Callable[[int], None] = lambda rows: None
    ) -> list[Part]:
        """Whole results with at least `rows` rows: the fewest of those that came, older ones first.

        `progress` is told how many rows are there whenever some came.

        Raises:
            RunnerTimeoutError: nothing came within `remote_time_out` seconds.
            EnvironmentFailedError, ModelError, RunnerError: what a runner raised; the rows of the others are kept
                for the next call.
        """
        self._fleet.check()
        self._seen_rows, self._seen_results, self._seen_seconds = (
            MEMORY * total for total in (self._seen_rows, self._seen_results, self._seen_seconds)
        )
        self._drop_stale()
        demand = Demand(rows, self._min_agents)
        try:
            while not self._met(demand):
                self._plan(demand, settings)
                self._submit()
                demand = self._gather(demand)
                progress(sum(part.rows for part in self._ready.values()))
        finally:
            for worker in self._fleet.workers:
                worker.planned.clear()
        return self._deliver(demand)

    def stream(self, settings: Callable[[], PolicySettings], enough: Callable[[], bool]) -> Iterator[Part]:
        """Chunks as they come, each runner with one more order queued, until `enough`; then what is under way.

        Settings are asked for anew with each order. Whoever takes the chunks slows the runners down by taking his time.
        Where it is enough, what does not come within `remote_time_out` seconds is given up, with a warning.

        Raises:
            RunnerTimeoutError: it is not enough, and nothing came within `remote_time_out` seconds.
        """
        self._fleet.check()
        while True:
            if not enough():
                self._keep_busy(settings)
            busy = [worker for worker in self._fleet.workers if worker.pending]
            if not busy:
                return
            ready = self._fleet.wait(busy, _seconds_until(self._deadline(busy)))
            if not ready and not enough():
                raise self._none_came(busy)
            if not ready:
                self._give_up(busy)
            for worker in ready:
                if fetched := self._fleet.fetch(worker):
                    self._take(*fetched)
            yield from self._deliver(Demand(sum(part.rows for part in self._ready.values()), 0))

    def _keep_busy(self, settings: Callable[[], PolicySettings]) -> None:
        rows = self._num_agents * self._expected_rows
        results = max(1, int(STREAMED_ROWS // rows)) if rows else 1
        for worker in self._fleet.workers:
            while len(worker.pending) < QUEUED_ORDERS:
                self._serial += 1
                self._fleet.send(worker, self._serial, Order((results,) * len(worker.agents), settings()))

    def _deliver(self, demand: Demand) -> list[Part]:
        numbers = sorted(self._ready)
        delivered, kept = demand.fewest([self._ready[number] for number in numbers])
        self._ready = dict(zip(numbers[len(numbers) - len(kept) :], kept, strict=True))
        self.delivered_rows += sum(part.rows for part in delivered)
        return delivered

    def _met(self, demand: Demand) -> bool:
        on_time = (worker for worker in self._fleet.workers if not worker.late)
        if self._awaits_all(demand) and any(worker.pending or worker.planned for worker in on_time):
            return False
        return demand.met(self._ready.values())

    def _awaits_all(self, demand: Demand) -> bool:
        """Whether all that was ordered is waited for, so that no result is passed over for being long."""
        on_policy_episodes = self._num_steps is None and self._max_staleness == 0
        return demand.agents == self._num_agents or on_policy_episodes

    def _plan(self, demand: Demand, settings: PolicySettings) -> None:
        """Plans orders for what is neither here nor on its way; nothing more."""
        on_time = [worker for worker in self._fleet.workers if not worker.late]
        coming = [pending for worker in on_time for pending in worker.pending]
        if not on_time or any(w.planned for w in on_time) or (coming and self._awaits_all(demand)):
            return
        missing = self._missing_results(demand, sum(pending.results for pending in coming))
        if missing <= 0:
            return
        agents = [agent for worker in on_time for agent in worker.agents]
        quota = spread(missing, agents, self._turn, self._num_agents)
        self._turn = (self._turn + missing) % self._num_agents
        for wave in waves(quota, math.ceil(self._expected_rows), self._row_bytes, self._fleet.message_bytes):
            for worker in on_time:
                results = tuple(wave[list(worker.agents)].tolist())
                if any(results):
                    self._serial += 1
                    worker.planned.append((self._serial, Order(results, settings)))

    def _missing_results(self, demand: Demand, coming: int) -> int:
        """How many results have to be ordered, given that `coming` of them are on their way."""
        missing_rows = demand.rows - sum(part.rows for part in self._ready.values())
        here: set[int] = set().union(*(part.agents for part in self._ready.values()))
        results = 0 if missing_rows <= 0 else len(self._fleet.workers)
        if self._expected_rows:
            results = math.ceil(missing_rows / self._expected_rows)
        return max(results, demand.agents - len(here)) - coming

    @property
    def _expected_rows(self) -> float:
        """Rows of a result: known in steps mode, a running mean in episodes mode, 0 before the first."""
        if self._num_steps is not None:
            return float(self._num_steps)
        return self._seen_rows / self._seen_results if self._seen_results else 0.0

    def _submit(self) -> None:
        for worker in self._fleet.workers:
            while worker.planned and len(worker.pending) < QUEUED_ORDERS:
                self._fleet.send(worker, *worker.planned.popleft())

    def _gather(self, demand: Demand) -> Demand:
        """Waits until something comes and takes it in; after a time-out goes on without those that are late."""
        busy = [worker for worker in self._fleet.workers if worker.pending]
        deadline, began = self._deadline(busy), time.monotonic()
        while not (ready := self._fleet.wait(busy, self._patience(busy, deadline))):
            if time.monotonic() >= deadline:
                return self._timed_out(demand, busy)
            if self._mark_late(busy):
                return demand
        self.waited_seconds += time.monotonic() - began
        for worker in ready:
            if fetched := self._fleet.fetch(worker):
                self._take(*fetched)
        return demand

    def _deadline(self, busy: list[Worker]) -> float:
        """When waiting ends; a process that is still starting is given time for that."""
        if self._time_out is None:
            return math.inf
        starting = any(not worker.started for worker in busy)
        return time.monotonic() + self._time_out + (START_ALLOWANCE if starting else 0)

    def _patience(self, busy: list[Worker], deadline: float) -> float | None:
        """Seconds until someone has to be called late, or None where nobody ever is."""
        return _seconds_until(min([deadline, *map(self._due, busy)]))

    def _due(self, worker: Worker) -> float:
        """When its order is late; never for a runner that is still starting, or where all are waited for anyway."""
        oldest = worker.pending[0]
        if oldest.late or not worker.started or not self._seen_rows or self._min_agents == self._num_agents:
            return math.inf
        seconds = self._seen_seconds / self._seen_rows * oldest.results * self._expected_rows
        return oldest.started_at + LATE_ALLOWANCE + LATE_FACTOR * seconds

    def _mark_late(self, busy: list[Worker]) -> bool:
        late = [worker.pending[0] for worker in busy if self._due(worker) <= time.monotonic()]
        for pending in late:
            pending.late = True
        return bool(late)

    def _timed_out(self, demand: Demand, busy: list[Worker]) -> Demand:
        for worker in busy:
            worker.pending[0].late = True
        if not self._ready:
            raise self._none_came(busy)
        log.warning("remote_time_out: going on without what does not come: %s", self._whereabouts(busy))
        rows = min(demand.rows, sum(part.rows for part in self._ready.values()))
        return Demand(rows if len(busy) == len(self._fleet.workers) else demand.rows, 1)

    def _give_up(self, busy: list[Worker]) -> None:
        log.warning("remote_time_out: ending without what does not come: %s", self._whereabouts(busy))
        for worker in busy:
            self._fleet.restart(worker)

    def _whereabouts(self, busy: list[Worker]) -> str:
        return "; ".join(f"{worker}: in {self._fleet.where(worker)}" for worker in busy)

    def _none_came(self, busy: list[Worker]) -> RunnerTimeoutError:
        """What is raised where nothing came from these in time; the slowest is restarted."""
        slowest = min(busy, key=lambda worker: worker.pending[0].started_at)
        where = self._fleet.where(slowest)
        self._fleet.restart(slowest)
        return RunnerTimeoutError(
            f"remote_time_out: expected a result within {self._time_out} s, none came; the slowest is {slowest}, "
            f"which was restarted. It was in {where}"
        )

    def _take(self, pending: PendingOrder, chunk: Chunk) -> None:
        self._seen_rows += chunk.batch.num_rows
        self._seen_results += len(chunk.results)
        self._seen_seconds += chunk.seconds
        self._ready[pending.number] = Part.whole(chunk)
        # Also of rows that turn out to be stale: the environment does not depend on the policy's version.
        self._statistics.add(pending.number, chunk.measured)
        self._drop_stale()

    def _drop_stale(self) -> None:
        """Drops results that older weights collected than `max_staleness` allows, and counts their rows."""
        for number, part in list(self._ready.items()):
            if self._fleet.version - part.chunk.results[part.first].version > self._max_staleness:
                self.dropped_rows += part.rows
                del self._ready[number]


def _seconds_until(moment: float) -> float | None:
    """How long to wait until then, at least 0; None for ever."""
    return None if moment == math.inf else max(0.0, moment - time.monotonic())
