"""Placement: on which node of the cluster each runner is.

Ray's own strategies count only what processes hold, so they put one that holds no CPU on any node: on one that just
died and that Ray still takes for alive, or on the learner's, which may have no CPUs for runners.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Seconds for which a node that lost a runner is avoided. Ray needs about as long to notice that a node is dead.
AVOIDED_SECONDS = 60.0


@dataclass(eq=False)
class Placement:
    """The nodes of a manager's runners.

    Attributes:
        nodes: the id of the node of each runner, by the runner's number.
    """

    nodes: dict[int, str] = field(default_factory=dict)
    _lost: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _placements.add(self)

    def choose(self, number: int) -> str | None:
        """Notes and returns the node for a runner. Returns None if no node with CPUs is known.

        The node is alive, has CPUs, and is not one that was lost just now. Among these it has the fewest runners of
        this process for each of its CPUs.
        """
        self.nodes.pop(number, None)
        cpus = self._fit()
        if not cpus:
            return None
        runners = Counter(node for placement in _placements for node in placement.nodes.values())
        self.nodes[number] = min(cpus, key=lambda node: ((runners[node] + 1) / cpus[node], node))
        return self.nodes[number]

    def lose(self, number: int) -> bool:
        """Avoids the node of a runner that was lost with it; returns whether there are others."""
        if number in self.nodes:
            self._lost[self.nodes[number]] = time.monotonic()
        return any(node not in self._avoided() for node in cpus_of_nodes())

    def clear(self) -> None:
        """Forgets the runners, which have ended."""
        self.nodes.clear()

    def _avoided(self) -> set[str]:
        since = time.monotonic() - AVOIDED_SECONDS
        return {node for node, lost_at in self._lost.items() if lost_at > since}

    def _fit(self) -> Mapping[str, float]:
        """CPUs of the nodes that may take a runner, by node. If all were lost just now, all may."""
        cpus, avoided = cpus_of_nodes(), self._avoided()
        return {node: count for node, count in cpus.items() if node not in avoided} or cpus


_placements: weakref.WeakSet[Placement] = weakref.WeakSet()


def cpus_of_nodes() -> dict[str, float]:
    """The number of CPUs of each node that Ray takes for alive and that has CPUs, by the node's id."""
    import ray

    cpus = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]}
    return {node: count for node, count in cpus.items() if count > 0}


def affinity(node: str | None) -> Any:
    """Ray's scheduling strategy for a process on this node, or on any if the node is None.

    It is a hard one: with a soft one Ray takes other nodes too while this one lives.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return "SPREAD" if node is None else NodeAffinitySchedulingStrategy(node, soft=False)
