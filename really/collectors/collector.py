"""The collector: plans the orders of a call, waits for chunks from the runners, and decides which are delivered."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.collectors.demand import Arrivals, Demand, Part, message_rows, spread, streamed_rows, waves
from really.collectors.episode_watch import CURE, PATIENCE_SECONDS
from really.collectors.episodes import EpisodeFigures, EpisodeLog
from really.collectors.fleet import Fleet
from really.collectors.lateness import FORGET, START_ALLOWANCE, Lateness, Pace, measure, weights
from really.collectors.messages import Chunk, Order, PolicySettings
from really.collectors.orders import PendingOrder, Worker
from really.collectors.whereabouts import Whereabouts
from really.data.normalisation import RunningStatistics
from really.errors import RunnerError, RunnerTimeoutError

log = logging.getLogger("really")

# Seconds after which a wait is interrupted, to look after processes that start, and for the end of background
# collection.
LOOK = 1.0
# Seconds that an error waits for answers of runners that tell where they are.
ANSWER_WAIT = 2.0


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
        episodes: EpisodeLog | None = None,
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
        self._episodes = EpisodeLog() if episodes is None else episodes
        self._num_steps = num_steps
        self._row_bytes = row_bytes
        self._min_agents = min_agents
        self._time_out = time_out
        self._max_staleness = max_staleness
        self._arrivals = Arrivals()
        self._serial = 0
        self._is_endless_told = False
        self._turn = 0
        self._pace = Pace()
        self._lateness = Lateness(self._pace, time_out, awaits_all=min_agents == num_agents)
        self._whereabouts = Whereabouts(fleet.where)
        self.delivered_rows = 0
        self.dropped_rows = 0
        self.waited_seconds = 0.0

    def info(self) -> dict[str, Any]:
        """Figures: rows delivered, dropped and kept; pending orders; seconds waited; speed per runner."""
        return {
            "delivered_rows": self.delivered_rows,
            "dropped_rows": self.dropped_rows,
            "kept_rows": self._arrivals.rows,
            "queued_orders": sum(len(worker.pending) for worker in self._fleet.workers),
            "waited_seconds": round(self.waited_seconds, 3),
            "rows_per_second_per_runner": self._pace.rows_per_second,
        }

    def collect(
        self, rows: int, settings: PolicySettings, progress: Callable[[int], None] = lambda rows: None
    ) -> list[Part]:
        """Collects whole results with at least `rows` rows. It delivers as few as possible, and older ones first.

        It does without a runner whose oldest order takes longer than `remote_time_out`, and asks the others for the
        rows. If there are no others, it delivers what it has. `progress` is called with the number of rows whenever
        chunks have arrived.

        Raises:
            RunnerTimeoutError: no runner delivered within `remote_time_out` seconds.
            EnvironmentFailedError, ModelError, RunnerError: a runner raised it. The rows of other runners are kept for
                the next call.
        """
        self._fleet.check()
        self._fleet.adapt()
        self._pace.decay()
        self._lateness.begin()
        for worker in self._fleet.workers:
            worker.rate *= FORGET
        self._drop_stale()
        demand = Demand(rows, self._awaited_agents())
        try:
            while not self._met(demand):
                self._plan(demand, settings)
                self._submit()
                demand = self._gather(demand)
                progress(self._arrivals.rows)
        finally:
            for worker in self._fleet.workers:
                worker.planned.clear()
        return self._deliver(demand)

    def deliver_arrived(self) -> list[Part]:
        """Delivers the whole results that have arrived; pending ones come with later calls."""
        return self._deliver(Demand(self._arrivals.rows, 0))

    def arrived_episodes(self) -> EpisodeFigures:
        """Figures of the episodes in the rows that have arrived and are not delivered yet."""
        return EpisodeFigures.of([part.episodes for part in self._arrivals])

    def end_of_runners(self) -> RunnerError | None:
        """Why there will be no more rows: the runners were closed, or Ray was shut down; None while they run."""
        try:
            self._fleet.check()
        except RunnerError as error:
            return error
        return None

    def stream(
        self, settings: Callable[[], PolicySettings], enough: Callable[[], bool], *, grows: bool
    ) -> Iterator[Part]:
        """Yields chunks as they arrive, and keeps each runner busy, until `enough()`; then yields the pending ones.

        `settings()` is called for each order. With `grows`, fast runners get larger orders. A slow consumer of the
        chunks slows the runners down. Pending orders that are not done within `remote_time_out` seconds after
        `enough()`, or within the seconds that a fleet has to end, are given up, with a warning.

        Raises:
            RunnerTimeoutError: no chunk arrived within `remote_time_out` seconds before `enough()`.
        """
        self._fleet.check()
        since, end = time.monotonic(), math.inf
        while True:
            self._fleet.adapt()
            if not (is_over := enough()):
                self._keep_busy(settings, grows)
            elif end == math.inf:
                since = time.monotonic()
                end = since + (math.inf if self._fleet.end_patience is None else self._fleet.end_patience)
            busy = [worker for worker in self._fleet.workers if worker.pending]
            if not busy:
                return
            self._look_after_starts(busy)
            deadline = min(end, self._deadline(busy, since))
            # Whether there is enough may change while no runner delivers.
            ready = self._wait(busy, min(deadline, time.monotonic() + LOOK))
            if not ready and time.monotonic() >= deadline:
                if not is_over:
                    raise self._timeout_error(busy)
                self._give_up(busy)
            for worker in ready:
                if fetched := self._fleet.fetch(worker):
                    self._receive(*fetched)
            yield from self.deliver_arrived()
            if ready:
                since = time.monotonic()

    def _keep_busy(self, settings: Callable[[], PolicySettings], grows: bool) -> None:
        """Sends orders until each runner has one queued behind the one that it works on."""
        rows = self._num_agents * self._expected_rows
        results = max(1, int(self._streamed_rows(grows) // rows)) if rows else 1
        for worker in self._fleet.workers:
            while worker.takes_order:
                self._serial += 1
                self._fleet.send(worker, self._serial, Order((results,) * len(worker.agents), settings()))

    def _streamed_rows(self, grows: bool) -> float:
        """Rows of all agents in one round of streamed orders."""
        rows_per_second = self._pace.rows_per_second * len(self._fleet.workers) if grows else 0.0
        return streamed_rows(rows_per_second, message_rows(self._row_bytes, self._fleet.message_bytes))

    def _deliver(self, demand: Demand) -> list[Part]:
        """The parts that meet the demand; the remaining ones are kept."""
        delivered = self._arrivals.take(demand)
        for part in delivered:
            self.delivered_rows += part.rows
            self._episodes.add(part.episodes, part.rows)
        return delivered

    def _met(self, demand: Demand) -> bool:
        """Whether the call is over."""
        on_time = (worker for worker in self._fleet.workers if not worker.late)
        if self._awaits_all(demand) and any(worker.pending or worker.planned for worker in on_time):
            return False
        return demand.met(self._arrivals)

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
        quota = self._quota(demand, on_time, sum(order.results for order in pending))
        rows, grows = math.ceil(self._expected_rows), self._time_out is None  # else each message has to come in time
        for wave in waves(quota, rows, self._row_bytes, self._fleet.message_bytes, grows=grows):
            for worker in on_time:
                results = tuple(wave[list(worker.agents)].tolist())
                if any(results):
                    self._serial += 1
                    worker.planned.append((self._serial, Order(results, settings)))

    def _quota(self, demand: Demand, on_time: list[Worker], pending: int) -> NDArray[np.int_]:
        """How many results to order of each agent, `[num_agents]`, in addition to the `pending` ones.

        Only agents of runners that are on time count: the others' results may never come, whatever is ordered.
        """
        agents = [agent for worker in on_time for agent in worker.agents]
        received = self._arrivals.agents
        awaited = min(demand.agents, len(received.union(agents)))
        rows = self._missing_results(demand)
        missing = max(rows, awaited - len(received)) - pending
        shares = None if self._awaits_all(demand) or self._fleet.is_local else weights(on_time)
        if not rows and len(agents) < self._num_agents:
            agents, shares = [agent for agent in agents if agent not in received], None
        if missing <= 0 or not agents:
            return np.zeros(self._num_agents, np.int_)
        turn, self._turn = self._turn, (self._turn + missing) % self._num_agents
        return spread(missing, agents, turn, self._num_agents, shares)

    def _missing_results(self, demand: Demand) -> int:
        """How many more results have the missing rows; one for each runner if nobody knows how long results are."""
        missing = demand.rows - self._arrivals.rows
        if missing <= 0 or not self._expected_rows:
            return 0 if missing <= 0 else len(self._fleet.workers)
        return math.ceil(missing / self._expected_rows)

    @property
    def _expected_rows(self) -> float:
        """Rows per result: `num_steps`, or for episodes a running mean, which is 0 before the first."""
        return self._pace.rows_per_result if self._num_steps is None else float(self._num_steps)

    def _submit(self) -> None:
        """Sends planned orders to runners that have no order queued."""
        for worker in self._fleet.workers:
            while worker.planned and worker.takes_order:
                self._fleet.send(worker, *worker.planned.popleft())

    def _gather(self, demand: Demand) -> Demand:
        """Waits for chunks and receives them; returns the demand, which is lower after a time-out."""
        busy, start = [worker for worker in self._fleet.workers if worker.pending], time.monotonic()
        starting = self._look_after_starts(busy)
        until = min(self._lateness.next(busy), start + LOOK if starting else math.inf)
        ready = self._wait(busy, until)
        self.waited_seconds += time.monotonic() - start
        overdue = self._mark_late([worker for worker in busy if worker not in ready])
        for worker in ready:
            has_started = worker.started
            if fetched := self._fleet.fetch(worker):
                self._receive(*fetched)
                if has_started:
                    measure(worker, fetched[0], fetched[1].batch.num_rows, self._lateness.begun)
        return self._without(demand, overdue) if overdue else demand

    def _look_after_starts(self, busy: list[Worker]) -> bool:
        """Looks after those of these workers that are not ready to step; returns whether there are any."""
        if self._fleet.is_local or all(worker.prepared for worker in busy):
            return False
        self._fleet.look_after_starts()
        return True

    def _mark_late(self, waiting: list[Worker]) -> list[Worker]:
        """Marks orders that are late by now; returns the workers that are overdue since now.

        Runners of this process are never late, since they only work while their chunks are fetched.
        """
        if self._fleet.is_local:
            return []
        self._whereabouts.ask(self._lateness.nearly_overdue(waiting))
        return self._lateness.mark(waiting)

    def _deadline(self, busy: list[Worker], since: float) -> float:
        """The time at which waiting since `since` ends, which is later if a runner was or is not ready to step."""
        if self._time_out is None:
            return math.inf
        since = max(since, *(worker.pending[0].started_at for worker in busy))
        return since + self._time_out + (START_ALLOWANCE if any(not worker.prepared for worker in busy) else 0)

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
        starts = (worker.pending[0].started_at + START_ALLOWANCE * (not worker.prepared) for worker in busy)
        return min(starts) + PATIENCE_SECONDS

    def _without(self, demand: Demand, overdue: list[Worker]) -> Demand:
        """The demand of a call that continues without these workers; raises an error if it has received nothing."""
        received = self._arrivals.agents
        others = [worker for worker in self._fleet.workers if not self._lateness.is_overdue(worker)]
        if not others and not self._arrivals:
            raise self._timeout_error(overdue)
        log.warning(
            "remote_time_out: the call continues without late results: %s", self._whereabouts.tell(overdue, patience=0)
        )
        agents = received.union(*(worker.agents for worker in others))
        rows = demand.rows if others else min(demand.rows, self._arrivals.rows)
        return Demand(rows, min(demand.agents, len(agents)))

    def _give_up(self, busy: list[Worker]) -> None:
        """Restarts these workers without their orders."""
        places = self._whereabouts.tell(busy, ANSWER_WAIT)
        log.warning("remote_time_out: collection ends without late results: %s", places)
        for worker in busy:
            self._fleet.restart(worker)

    def _timeout_error(self, busy: list[Worker]) -> RunnerTimeoutError:
        """Restarts the slowest of these workers, none of which delivered in time; returns the error to raise."""
        slowest = min(busy, key=lambda worker: worker.pending[0].started_at)
        where = self._whereabouts.tell([slowest], ANSWER_WAIT).removeprefix(f"{slowest}: ")
        self._fleet.restart(slowest)
        return RunnerTimeoutError(
            f"remote_time_out: expected a result within {self._time_out} s, got none; the slowest is {slowest}, "
            f"which was restarted. It was {where}"
        )

    def _receive(self, pending: PendingOrder, chunk: Chunk) -> None:
        """Records a chunk, and keeps it for delivery unless it is stale."""
        self._pace.add(chunk)
        self._arrivals.add(pending.number, Part.of(chunk))
        # Statistics of stale rows count too, since the environment does not depend on the policy version.
        self._statistics.add(pending.number, chunk.measured)
        self._drop_stale()

    def _drop_stale(self) -> None:
        """Drops results whose policy version is older than `max_staleness` allows, and counts their rows."""
        if self._max_staleness < math.inf:
            self.dropped_rows += self._arrivals.drop_older(self._fleet.version - self._max_staleness)


def _seconds_until(moment: float) -> float | None:
    """Seconds from now until a moment, at least 0. Returns None if the moment is infinitely far."""
    return None if moment == math.inf else max(0.0, moment - time.monotonic())
