"""Orders on their way: what a runner has to do, and what the driver knows of the runner that does it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from really.collectors.messages import Order

# Orders per runner: one that it works on, and one queued behind it, so that it never waits for the driver.
QUEUED_ORDERS = 2


class RunnerLost(Exception):  # noqa: N818 - an event that the fleet handles, no caller sees it
    """A runner's process died. `hopeless` says that its constructor raised, as that of a new one would."""

    def __init__(self, cause: str, hopeless: bool = False) -> None:
        super().__init__(cause)
        self.hopeless = hopeless


@dataclass(eq=False)
class PendingOrder:
    """An order whose chunk has not been fetched yet.

    `started_at` is the time at which it became its runner's oldest order.
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
        version: the policy version that was last sent to it.
        has_policy: whether the current exported policy was sent to it.
        started: whether it has delivered a chunk since its last (re)start.
        restarts: how often it was restarted.
        failures: how often in a row it died.
        replaces_lost: whether it takes the place of a runner that was lost.
        sends_pieces: whether a chunk was too large for one message. Orders that are queued would delay its rest.
    """

    number: int
    agents: tuple[int, ...]
    runner: Any
    version: int = -1
    has_policy: bool = False
    started: bool = False
    restarts: int = 0
    failures: int = 0
    replaces_lost: bool = False
    sends_pieces: bool = False
    pending: deque[PendingOrder] = field(default_factory=deque)
    planned: deque[tuple[int, Order]] = field(default_factory=deque)

    @property
    def late(self) -> bool:
        """Whether one of its orders takes much longer than expected."""
        return any(pending.late for pending in self.pending)

    @property
    def takes_order(self) -> bool:
        """Whether another order may be sent to it."""
        return len(self.pending) < (1 if self.sends_pieces else QUEUED_ORDERS)

    def __str__(self) -> str:
        return f"runner {self.number} (agents {self.agents[0]} to {self.agents[-1]})"
