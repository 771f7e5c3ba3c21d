"""The collector: plans the orders of a call, waits for chunks from the runners, and decides which are delivered."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from really.collectors.demand import Demand, Part, spread, waves
from really.collectors.episode_watch import CURE, PATIENCE_SECONDS
from really.collectors.fleet import Fleet, PendingOrder, Worker
from really.collectors.messages import Chunk, Order, PolicySettings
from really.data.normalisation import RunningStatistics
from really.errors import RunnerTimeoutError

log = logging.getLogger("really")

# A runner is late if it takes this many times longer than runners usually do, plus an allowance in seconds.
LATE_FACTOR, LATE_ALLOWANCE = 4.0, 0.25
# Rows of all agents per round of streamed orders: few enough that new settings apply soon.
STREAMED_ROWS = 4096
# Seconds that a process may take to start, in addition to `remote_time_out`.
START_ALLOWANCE = 30.0
# Factor by which the running totals of rows, results and seconds decay from one call to the next.
DECAY = 0.5


class Collector:
    """Collects whole results from a fleet, call after call.

    Attributes:
        delivered_rows: rows delivered so far.
        dropped_rows: rows dropped so far, as they were too stale.
        waited_seconds: how long calls have waited for runners.
    """

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
        self._is_endless_told = False
        self._turn = 0
        # Decaying totals. If a call awaits all agents, they do not depend on the order in which results arrive.
        self._total_rows = self._total_results = self._total_seconds = 0.0
        self.delivered_rows = 0
        self.dropped_rows = 0
        self.waited_seconds = 0.0

    def info(self) -> dict[str, Any]:
        """Figures: rows delivered, dropped and kept; pending orders; seconds waited; speed per runner."""
        return {
            "delivered_rows": self.delivered_rows,
            "dropped_rows": self.dropped_rows,
            "kept_rows": sum(part.rows for part in self._ready.values()),
            "queued_orders": sum(len(worker.pending) for worker in self._fleet.workers),
            "waited_seconds": round(self.waited_seconds, 3),
            "rows_per_second_per_runner": self._total_rows / self._total_seconds if self._total_seconds else 0.0,
        }

    def collect(
        self, rows: int, settings: PolicySettings, progress: Callable[[int], None] = lambda rows: None
    ) -> list[Part]:
        """Collects whole results with at least `rows` rows. It delivers as few as possible, and older ones first.

        `progress` is called with the number of rows whenever chunks have arrived.

        Raises:
            RunnerTimeoutError: no chunk arrived within `remote_time_out` seconds.
            EnvironmentFailedError, ModelError, RunnerError: a runner raised it. The rows of other runners are kept for
                the next call.
        """
        self._fleet.check()
        self._total_rows, self._total_results, self._total_seconds = (
            DECAY * total for total in (self._total_rows, self._total_results, self._total_seconds)
        )
        self._drop_stale()
        demand = Demand(rows, self._awaited_agents())
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
        """Yields chunks as they arrive, and keeps each runner busy, until `enough()`; then yields the pending ones.

        `settings()` is called for each order. A slow consumer of the chunks slows the runners down. Pending orders
        that are not done within `remote_time_out` seconds after `enough()` are given up, with a warning.

        Raises:
            RunnerTimeoutError: no chunk arrived within `remote_time_out` seconds before `enough()`.
        """
        self._fleet.check()
        while True:
            if not enough():
                self._keep_busy(settings)
            busy = [worker for worker in self._fleet.workers if worker.pending]
            if not busy:
                return
            ready = self._wait(busy, self._deadline(busy))
            if not ready and not enough():
                raise self._timeout_error(busy)
            if not ready:
                self._give_up(busy)
            for worker in ready:
                if fetched := self._fleet.fetch(worker):
                    self._receive(*fetched)
            yield from self._deliver(Demand(sum(part.rows for part in self._ready.values()), 0))

    def _keep_busy(self, settings: Callable[[], PolicySettings]) -> None:
        """Sends orders until each runner has one queued behind the one that it works on."""
        rows = self._num_agents * self._expected_rows
        results = max(1, int(STREAMED_ROWS // rows)) if rows else 1
        for worker in self._fleet.workers:
            while worker.takes_order:
                self._serial += 1
                self._fleet.send(worker, self._serial, Order((results,) * len(worker.agents), settings()))

    def _deliver(self, demand: Demand) -> list[Part]:
        """The parts that meet the demand; the remaining ones are kept."""
        numbers = sorted(self._ready)
        delivered, kept = demand.fewest([self._ready[number] for number in numbers])
        self._ready = dict(zip(numbers[len(numbers) - len(kept) :], kept, strict=True))
        self.delivered_rows += sum(part.rows for part in delivered)
        return delivered

    def _met(self, demand: Demand) -> bool:
        """Whether the call is over."""
        on_time = (worker for worker in self._fleet.workers if not worker.late)
        if self._awaits_all(demand) and any(worker.pending or worker.planned for worker in on_time):
            return False
        return demand.met(self._ready.values())

    def _awaited_agents(self) -> int:
        """Number of agents to wait for. Those of runners that were late in an earlier call, and still are, may come."""
        on_time = sum(len(worker.agents) for worker in self._fleet.workers if not worker.late)
        return min(self._min_agents, max(1, on_time))

    def _awaits_all(self, demand: Demand) -> bool:
        """Whether a call waits for all orders, since it would otherwise deliver fewer of the longer results."""
        on_policy_episodes = self._num_steps is None and self._max_staleness == 0
        return demand.agents == self._num_agents or on_policy_episodes

    def _plan(self, demand: Demand, settings: PolicySettings) -> None:
        """Plans orders for the results that are neither received nor pending."""
        on_time = [worker for worker in self._fleet.workers if not worker.late]
        pending = [order for worker in on_time for order in worker.pending]
        if not on_time or any(w.planned for w in on_time) or (pending and self._awaits_all(demand)):
            return
        missing = self._missing_results(demand, sum(order.results for order in pending))
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

    def _missing_results(self, demand: Demand, pending: int) -> int:
        """How many results to order in addition to the `pending` ones."""
        missing_rows = demand.rows - sum(part.rows for part in self._ready.values())
        agents: set[int] = set().union(*(part.agents for part in self._ready.values()))
        results = 0 if missing_rows <= 0 else len(self._fleet.workers)
        if self._expected_rows:
            results = math.ceil(missing_rows / self._expected_rows)
        return max(results, demand.agents - len(agents)) - pending

    @property
    def _expected_rows(self) -> float:
        """Rows per result: `num_steps`, or for episodes a running mean, which is 0 before the first."""
        if self._num_steps is not None:
            return float(self._num_steps)
        return self._total_rows / self._total_results if self._total_results else 0.0

    def _submit(self) -> None:
        """Sends planned orders to runners that have no order queued."""
        for worker in self._fleet.workers:
            while worker.planned and worker.takes_order:
                self._fleet.send(worker, *worker.planned.popleft())

    def _gather(self, demand: Demand) -> Demand:
        """Waits for chunks and receives them; returns the demand, which is lower after a time-out."""
        busy = [worker for worker in self._fleet.workers if worker.pending]
        deadline, start = self._deadline(busy), time.monotonic()
        while not (ready := self._wait(busy, self._patience(busy, deadline))):
            if time.monotonic() >= deadline:
                return self._timed_out(demand, busy)
            if self._mark_late(busy):
                return demand
        self.waited_seconds += time.monotonic() - start
        for worker in ready:
            if fetched := self._fleet.fetch(worker):
                self._receive(*fetched)
        return demand

    def _deadline(self, busy: list[Worker]) -> float:
        """The time at which waiting ends, which is later if a process is still starting."""
        if self._time_out is None:
            return math.inf
        starting = any(not worker.started for worker in busy)
        return time.monotonic() + self._time_out + (START_ALLOWANCE if starting else 0)

    def _wait(self, busy: list[Worker], until: float) -> list[Worker]:
        """The workers whose oldest order is done, or none at the time `until`. It warns once of endless episodes."""
        endless = self._endless_at(busy)
        if endless < until:
            if ready := self._fleet.wait(busy, _seconds_until(endless)):
                return ready
            self._is_endless_told = True
            places = "; ".join(f"{worker}: {self._fleet.where(worker).partition(', at')[0]}" for worker in busy)
            log.warning("num_episodes: expected episodes to end, got none for long (%s): %s", places, CURE)
        return self._fleet.wait(busy, _seconds_until(until))

    def _endless_at(self, busy: list[Worker]) -> float:
        """The time at which an episode of a runner in another process is taken for endless; never if that was told."""
        if self._is_endless_told or self._num_steps is not None or self._fleet.is_local:
            return math.inf
        starts = (worker.pending[0].started_at + START_ALLOWANCE * (not worker.started) for worker in busy)
        return min(starts) + PATIENCE_SECONDS

    def _patience(self, busy: list[Worker], deadline: float) -> float:
        """The deadline, or the time at which the first worker is late, if that is before."""
        return min([deadline, *map(self._due, busy)])

    def _due(self, worker: Worker) -> float:
        """The time from which a worker is late: never if it is still starting, or if the call awaits all agents."""
        oldest = worker.pending[0]
        if oldest.late or not worker.started or not self._total_rows or self._min_agents == self._num_agents:
            return math.inf
        seconds = self._total_seconds / self._total_rows * oldest.results * self._expected_rows
        return oldest.started_at + LATE_ALLOWANCE + LATE_FACTOR * seconds

    def _mark_late(self, busy: list[Worker]) -> bool:
        """Marks the orders that are late by now; returns whether there are any."""
        late = [worker.pending[0] for worker in busy if self._due(worker) <= time.monotonic()]
        for pending in late:
            pending.late = True
        return bool(late)

    def _timed_out(self, demand: Demand, busy: list[Worker]) -> Demand:
        """The demand of a call that continues without these workers; raises an error if it has received nothing."""
        for worker in busy:
            worker.pending[0].late = True
        if not self._ready:
            raise self._timeout_error(busy)
        log.warning("remote_time_out: the call continues without late results: %s", self._whereabouts(busy))
        rows = min(demand.rows, sum(part.rows for part in self._ready.values()))
        return Demand(rows if len(busy) == len(self._fleet.workers) else demand.rows, 1)

    def _give_up(self, busy: list[Worker]) -> None:
        """Restarts these workers without their orders."""
        log.warning("remote_time_out: collection ends without late results: %s", self._whereabouts(busy))
        for worker in busy:
            self._fleet.restart(worker)

    def _whereabouts(self, busy: list[Worker]) -> str:
        return "; ".join(f"{worker}: in {self._fleet.where(worker)}" for worker in busy)

    def _timeout_error(self, busy: list[Worker]) -> RunnerTimeoutError:
        """Restarts the slowest of these workers, none of which delivered in time; returns the error to raise."""
        slowest = min(busy, key=lambda worker: worker.pending[0].started_at)
        where = self._fleet.where(slowest)
        self._fleet.restart(slowest)
        return RunnerTimeoutError(
            f"remote_time_out: expected a result within {self._time_out} s, got none; the slowest is {slowest}, "
            f"which was restarted. It was in {where}"
        )

    def _receive(self, pending: PendingOrder, chunk: Chunk) -> None:
        """Records a chunk, and keeps it for delivery unless it is stale."""
        self._total_rows += chunk.batch.num_rows
        self._total_results += len(chunk.results)
        self._total_seconds += chunk.seconds
        self._ready[pending.number] = Part.of(chunk)
        # Statistics of stale rows count too, since the environment does not depend on the policy version.
        self._statistics.add(pending.number, chunk.measured)
        self._drop_stale()

    def _drop_stale(self) -> None:
        """Drops results whose policy version is older than `max_staleness` allows, and counts their rows."""
        if self._max_staleness == math.inf:
            return
        for number, part in list(self._ready.items()):
            if self._fleet.version - part.chunk.results[part.first].version > self._max_staleness:
                self.dropped_rows += part.rows
                del self._ready[number]


def _seconds_until(moment: float) -> float | None:
    """Seconds from now until a moment, at least 0. Returns None if the moment is infinitely far."""
    return None if moment == math.inf else max(0.0, moment - time.monotonic())
