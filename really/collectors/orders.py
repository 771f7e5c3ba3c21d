"""Orders on their way: what a runner has to do, and what the driver knows of the runner that does it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from really.collectors.messages import Order
from really.errors import EnvironmentFailedError, RunnerError

# Orders per runner: one that it works on, and one queued behind it, so that it never waits for the driver.
QUEUED_ORDERS = 2


class RunnerLost(Exception):  # noqa: N818 - an event that the fleet handles, no caller sees it
    """A runner's process died.

    `hopeless` says that its constructor raised, as that of a new one would; `with_host` that its host may be dead too.
    """

    def __init__(self, cause: str, hopeless: bool = False, with_host: bool = False) -> None:
        super().__init__(cause)
        self.hopeless, self.with_host = hopeless, with_host

    def of_start(self, who: object) -> RunnerError:
        """The error of a runner that could not start. Ray gives the error of its constructor as text alone."""
        by_environment = self.hopeless and EnvironmentFailedError.__name__ in str(self)
        return (EnvironmentFailedError if by_environment else RunnerError)(f"{who} could not start:\n{self}")


@dataclass(eq=False)
class PendingOrder:
    """An order whose chunk has not been fetched yet.

    `started_at` is the time at which it became its runner's oldest order, or at which a runner that starts was ready.
    """

    number: int
    order: Order
    handle: Any
    started_at: float
    late: bool = False

    @property
    def results(self) -> int:
        """Number of results ordered."""
        return sum(self.order.results)


@dataclass(eq=False)
class Worker:
    """A runner, in this or another process, with its pending orders and the orders planned for it.

    Attributes:
        agents: the agents that it collects for; none once others have taken over all of them.
        seats: the agents whose environments it has, of which others may have taken some over.
        rate: rows that it delivers per second, or 0 if unknown.
        version: the policy version that was last sent to it.
        has_policy: whether the current exported policy was sent to it.
        started: whether it has delivered a chunk since its last (re)start.
        prepared: whether it is ready to step since then: its environments were reset, and it has taken its policy.
        restarts: how often it was restarted.
        failures: how often in a row it died.
        replaces_lost: whether it takes the place of a runner that was lost or given up.
        sends_pieces: whether a chunk was too large for one message. Orders that are queued would delay its rest.
        outgrown: whether its process holds more than `max_runner_memory`, so that another one takes its place before
            the next order.
    """

    number: int
    agents: tuple[int, ...]
    runner: Any
    seats: tuple[int, ...] = ()
    rate: float = 0.0
    version: int = -1
    has_policy: bool = False
    started: bool = False
    prepared: bool = False
    restarts: int = 0
    failures: int = 0
    replaces_lost: bool = False
    sends_pieces: bool = False
    outgrown: bool = False
    pending: deque[PendingOrder] = field(default_factory=deque)
    planned: deque[tuple[int, Order]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.seats = self.agents

    @property
    def late(self) -> bool:
        """Whether one of its orders takes much longer than expected."""
        return any(pending.late for pending in self.pending)

    @property
    def takes_order(self) -> bool:
        """Whether another order may be sent to it."""
        most = 1 if self.sends_pieces or self.outgrown else QUEUED_ORDERS
        return bool(self.agents) and len(self.pending) < most

    def seated(self, order: Order) -> Order:
        """An order for its agents as one for its seats."""
        if self.seats == self.agents:
            return order
        results = dict(zip(self.agents, order.results, strict=True))
        return replace(order, results=tuple(results.get(agent, 0) for agent in self.seats))

    def unseated(self, order: Order) -> Order:
        """An order for its seats as one for its agents."""
        results = dict(zip(self.seats, order.results, strict=True))
        return replace(order, results=tuple(results[agent] for agent in self.agents))

    def __str__(self) -> str:
        agents = self.agents or self.seats
        return f"runner {self.number} (agents {agents[0]} to {agents[-1]})"
