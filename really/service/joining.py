"""Nodes that join the cluster while a buffer on all nodes lives: each gets a shard."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from really._ray import hosts
from really._utils.packages import install_command
from really.errors import ReallyError
from really.service.remote_shard import RemoteShard
from really.service.shards import START_SECONDS, Found

log = logging.getLogger("really")

LOOK_SECONDS = 5.0
"""Seconds between two looks at the nodes of the cluster."""
Make = Callable[[str, str], RemoteShard]
"""Makes the shard of a node: its id, the name of its host."""


@dataclass
class Newcomer:
    """A shard that starts on a node that joined, Ray's reference of its answer, and since when."""

    node: str
    name: str
    shard: RemoteShard
    answer: Any
    since: float


class Joining:
    """Starts shards on nodes that join. It never waits.

    Args:
        known: nodes that have a shard, or had one.
        make: makes the shard of a node.
        start: asks a shard to start; returns Ray's reference of the answer.
    """

    def __init__(self, known: Collection[str], make: Make, start: Callable[[RemoteShard], Any]) -> None:
        self._known, self._make, self._start = set(known), make, start
        self._asked: dict[str, tuple[str, hosts.Question]] = {}
        self._starting: list[Newcomer] = []
        self._next_look = time.monotonic() + LOOK_SECONDS

    def ready(self) -> list[tuple[Newcomer, Found]]:
        """The shards that have started since the last call, with what they have."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._look()
        return [(newcomer, answer) for newcomer in list(self._starting) if (answer := self._answer(newcomer))]

    def close(self) -> None:
        """Ends the shards that are starting."""
        for newcomer in self._starting:
            newcomer.shard.close()
        self._starting = []

    def _look(self) -> None:
        """Asks nodes that joined for their version, and starts shards on those that have answered."""
        import ray

        alive = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        for node in alive.keys() - self._known:
            self._known.add(node)
            self._asked[node] = alive[node], hosts.Question(node, None, install_command(None))
        for node, (name, question) in list(self._asked.items()):
            if node not in alive:
                del self._asked[node]
            elif question.is_answered:
                del self._asked[node]
                if problem := question.problem:
                    log.warning("a node joined the cluster and gets no shard: %s", problem)
                else:
                    shard = self._make(node, name)
                    self._starting.append(Newcomer(node, name, shard, self._start(shard), time.monotonic()))

    def _answer(self, newcomer: Newcomer) -> Found | None:
        """What a shard has that has started; None if it has not, or cannot."""
        import ray

        if ray.wait([newcomer.answer], timeout=0)[0]:
            self._starting.remove(newcomer)
            try:
                found = ray.get(newcomer.answer)
            except ray.exceptions.RayError as error:
                found = ReallyError(str(error).strip().splitlines()[-1])
            if not isinstance(found, ReallyError):
                started: Found = found
                return started
            self._give_up(newcomer, str(found))
        elif time.monotonic() > newcomer.since + START_SECONDS:
            self._starting.remove(newcomer)
            self._give_up(newcomer, f"it did not start within {START_SECONDS:g} s")
        return None

    @staticmethod
    def _give_up(newcomer: Newcomer, reason: str) -> None:
        newcomer.shard.close()
        log.warning("node %s (%s) joined the cluster and gets no shard: %s", newcomer.node[:8], newcomer.name, reason)
