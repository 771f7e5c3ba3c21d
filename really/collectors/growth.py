"""Growth: runners on hosts that join the cluster while a manager lives."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from really._ray import hosts
from really._ray.placement import Placement, cpus_of_nodes
from really.collectors.orders import RunnerLost, Worker

log = logging.getLogger("really")

# Seconds between two looks at the nodes of the cluster.
LOOK_SECONDS = 5.0
# Seconds in which a runner on a host that joined must have started.
START_SECONDS = 60.0


@dataclass(eq=False)
class Newcomer:
    """A runner that starts on a host that joined, and takes agents over from another once it has started."""

    worker: Worker
    giver: Worker
    since: float = field(default_factory=time.monotonic)


class Growth:
    """Moves agents to new runners on hosts that join the cluster, or that come back.

    A runner that gives agents away keeps their environments, which stand still from then on. One that gives all away
    ends.

    Args:
        workers: the fleet's runners, to which those that have started are added.
        placement: the nodes of the runners.
        newcomers: a list for runners that are starting.
        most: how many runners there may be now.
        ask: asks a node for its version of this package.
        start: starts a runner with this number, these agents and this number of restarts on this node.
        has_started: whether a runner has started; raises RunnerLost if it cannot.
        stop: ends a runner.
    """

    def __init__(
        self,
        workers: list[Worker],
        placement: Placement,
        newcomers: list[Newcomer],
        most: Callable[[], int],
        ask: Callable[[str], hosts.Question],
        start: Callable[[int, tuple[int, ...], int, str], Any],
        has_started: Callable[[Any], bool],
        stop: Callable[[Worker], None],
    ) -> None:
        self._workers, self._placement, self._newcomers, self._most, self._ask = (
            workers,
            placement,
            newcomers,
            most,
            ask,
        )
        self._start, self._has_started, self._stop = start, has_started, stop
        self._known = set(cpus_of_nodes())
        self._asked: dict[str, hosts.Question] = {}
        self._next_look = time.monotonic() + LOOK_SECONDS
        self._next_number = len(workers)

    def advance(self) -> None:
        """Takes the next steps that are possible without a wait."""
        for newcomer in list(self._newcomers):
            self._admit(newcomer)
        for worker in [worker for worker in self._workers if not worker.agents and not worker.pending]:
            self._workers.remove(worker)
            self._placement.nodes.pop(worker.number, None)
            self._stop(worker)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._look()

    def _look(self) -> None:
        """Asks hosts that joined for their version, and starts runners on those that have answered."""
        nodes = cpus_of_nodes()
        for node in nodes.keys() - self._known:
            self._known.add(node)
            self._asked[node] = self._ask(node)
        for node, question in list(self._asked.items()):
            if node not in nodes or question.is_answered:
                del self._asked[node]
            if node in nodes and question.is_answered:
                self._use(node, int(nodes[node]), question)

    def _use(self, node: str, cpus: int, question: hosts.Question) -> None:
        if problem := question.problem:
            log.warning("a host joined the cluster and is not used: %s", problem)
            return
        for _ in range(cpus):
            self._begin(node)

    def _begin(self, node: str) -> None:
        """Starts a runner on a node, for half of the agents of the runner that has most, or for all of a crowded one.

        A runner is crowded if its node has more of these runners than CPUs.
        """
        giving = {newcomer.giver for newcomer in self._newcomers}
        givers = [worker for worker in self._workers if worker.agents and worker not in giving]
        if not givers:
            return
        giver = self._crowded(givers) or max(givers, key=lambda worker: len(worker.agents))
        kept = 0 if giver is self._crowded(givers) else (len(giver.agents) + 1) // 2
        agents = giver.agents[kept:]
        if not agents or (kept and len(self._workers) + len(self._newcomers) >= self._most()):
            return
        number, restarts = self._next_number, 1 + max(worker.restarts for worker in self._workers)
        self._next_number += 1
        self._placement.nodes[number] = node
        worker = Worker(number, agents, self._start(number, agents, restarts, node), restarts=restarts)
        self._newcomers.append(Newcomer(worker, giver))

    def _crowded(self, workers: list[Worker]) -> Worker | None:
        cpus, nodes = cpus_of_nodes(), self._placement.nodes
        runners = Counter(nodes.values())
        crowded = (w for w in workers if (node := nodes.get(w.number)) in cpus and runners[node] > cpus[node])
        return next(crowded, None)

    def _admit(self, newcomer: Newcomer) -> None:
        """Hands the agents over if the runner has started; gives it up if it cannot start."""
        worker, giver = newcomer.worker, newcomer.giver
        try:
            if self._has_started(worker.runner):
                giver.agents = tuple(agent for agent in giver.agents if agent not in worker.agents)
                self._workers.append(worker)
                worker.started = True
                self._newcomers.remove(newcomer)
                log.info("%s starts on a host that joined the cluster", worker)
            elif time.monotonic() > newcomer.since + START_SECONDS:
                raise RunnerLost(f"it did not start within {START_SECONDS:g} s")
        except RunnerLost as lost:
            self._newcomers.remove(newcomer)
            self._placement.nodes.pop(worker.number, None)
            self._stop(worker)
            log.warning("a host joined the cluster and is not used: %s", str(lost).strip().splitlines()[-1])
