"""Reservations: the CPUs, GPUs and other resources of the Ray cluster that the runners of a manager hold.

A reservation is granted at once or not at all, so that no manager waits for what another one holds. Ray's own count
lags behind processes that have just started or ended; the reservations of this process close that gap.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from really._ray.placement import Placement, affinity
from really._ray.runtime import Session
from really.errors import InvalidValueError

log = logging.getLogger("really")

# Seconds that a new manager waits for the CPUs of a closed one, since Ray learns of released CPUs with a delay.
RELEASE_WAIT = 2.0
POLL_INTERVAL = 0.02
# Seconds in which Ray must grant a reservation. It takes milliseconds unless another driver was faster.
GRANT_WAIT = 2.0
# Added to a quotient of amounts before it is cut off: ten processes with 0.1 GPU each fit on one GPU.
ROUNDING = 1e-6


@dataclass(eq=False)
class Reservation:
    """Resources for a number of processes.

    Attributes:
        session: the session in which it was made.
        count: number of processes.
        needs: what each process holds, as {"CPU": 1, ...}; empty if none of this is free.
        group: Ray's placement group with a bundle for each process, or None if they hold nothing.
    """

    session: Session
    count: int
    needs: Mapping[str, float]
    group: Any = None
    released: bool = False

    def options(self, number: int, placement: Placement, restart: bool) -> dict[str, Any]:
        """Options of the actor for process `number`, or for the one that replaces it; `placement` notes its node."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        # A process that replaces another must not wait for a CPU that went with its node, or still counts as taken.
        options = held_options({**self.needs, **({"CPU": 0.0} if restart else {})})
        if self.group is None or number >= self.count or not any(options.values()):
            return {**options, "scheduling_strategy": affinity(placement.choose(number))}
        placement.nodes[number] = self._nodes().get(number, "")
        return {**options, "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, number)}

    @property
    def is_granted(self) -> bool:
        """Whether Ray holds the resources at the moment. They may be lost with their node, and taken by others then."""
        return self.group is None or self._table()["state"] == "CREATED"

    def held_on(self, node: str) -> int:
        """For how many processes it holds resources on a node. Ray moves those of a node that is lost to others."""
        return 0 if self.group is None else list(self._nodes().values()).count(node)

    def _nodes(self) -> dict[int, str]:
        """The node of each bundle."""
        nodes: dict[int, str] = self._table()["bundles_to_node_id"]
        return nodes

    def _table(self) -> Any:
        import ray

        return ray.util.placement_group_table(self.group)

    def release(self) -> None:
        """Gives the resources back; the processes that hold them must have ended."""
        import ray

        self.released = True
        _ledger.released = time.monotonic()
        if self.group is not None and self.session.is_current:
            ray.util.remove_placement_group(self.group)


@dataclass
class _Ledger:
    """The reservations of this process, and the time of the last release."""

    held: weakref.WeakSet[Reservation] = field(default_factory=weakref.WeakSet)
    released: float = -math.inf
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def settled(self) -> float:
        """The time from which Ray's count is up to date again."""
        return self.released + RELEASE_WAIT


_ledger = _Ledger()


def reserve(session: Session, wanted: int, extra: Mapping[str, float]) -> Reservation:
    """Reserves a CPU and the `extra` resources for each of `wanted` processes.

    If fewer fit, there are fewer processes, with a warning. If no CPU is free, there is one process without a CPU. If
    another program is faster, the processes start without CPUs, with a warning.

    Args:
        session: this process's session.
        wanted: number of processes.
        extra: resources of a process besides its CPU, as {"GPU": 0.5}.

    Raises:
        InvalidValueError: there is not even enough of the extra resources for one process.
    """
    reservation = _claim(session, wanted, {"CPU": 1.0, **extra})
    if reservation.count < wanted:
        log.warning(
            "%d of the %d CPUs wanted for runners are free%s: starting %d.",
            reservation.count,
            wanted,
            f", with {_in_words(extra)}" if extra else "",
            max(1, reservation.count),
        )
    if reservation.count and _grant(reservation):
        return reservation
    reservation.released = True
    count = max(1, reservation.count)
    if reservation.count:
        log.warning("Another program was faster and holds the CPUs: %d runners start without CPUs of their own.", count)
    if not extra:
        return Reservation(session, count, {})
    reservation = _claim(session, count, extra)
    if not reservation.count or not _grant(reservation):
        reservation.released = True
        raise _too_few(extra)
    return reservation


def held_options(needs: Mapping[str, float]) -> dict[str, Any]:
    """What a process holds, as options of a Ray actor."""
    options: dict[str, Any] = {"num_cpus": needs.get("CPU", 0)}
    if "GPU" in needs:
        options["num_gpus"] = needs["GPU"]
    if others := {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU")}:
        options["resources"] = others
    return options


def cluster_cpus() -> int:
    """All CPUs of the cluster, free or not."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def _claim(session: Session, wanted: int, needs: Mapping[str, float]) -> Reservation:
    """A reservation for as many of the wanted processes as fit, which counts as held from now on in this process."""
    deadline = time.monotonic() + RELEASE_WAIT
    while True:
        with _ledger.lock:
            fitting = _fitting(session, needs)
            if fitting >= wanted or time.monotonic() >= min(deadline, _ledger.settled):
                reservation = Reservation(session, min(wanted, fitting), needs)
                _ledger.held.add(reservation)
                return reservation
        time.sleep(POLL_INTERVAL)


def _fitting(session: Session, needs: Mapping[str, float]) -> int:
    """For how many processes there is enough that neither another program nor a reservation of this process holds."""
    import ray

    available, total = ray.available_resources(), ray.cluster_resources()
    held = [other for other in _ledger.held if other.session == session and not other.released]

    def free(name: str) -> float:
        taken = sum(other.count * other.needs.get(name, 0.0) for other in held)
        return float(min(available.get(name, 0.0), total.get(name, 0.0) - taken))

    return max(0, min(int(free(name) / amount + ROUNDING) for name, amount in needs.items()))


def _grant(reservation: Reservation) -> bool:
    """Asks Ray for the resources; returns whether they were granted in time."""
    import ray

    bundles = [dict(reservation.needs) for _ in range(reservation.count)]
    group = ray.util.placement_group(bundles, strategy="SPREAD")
    if not group.wait(GRANT_WAIT):
        ray.util.remove_placement_group(group)
        return False
    reservation.group = group
    return True


def _too_few(extra: Mapping[str, float]) -> InvalidValueError:
    import ray

    available, total = ray.available_resources(), ray.cluster_resources()
    name = next((name for name in extra if available.get(name, 0.0) < extra[name]), next(iter(extra)))
    return InvalidValueError(
        f"{'num_gpus' if name == 'GPU' else 'resources'}: expected {_in_words(extra)} to be free for a runner, got a "
        f"cluster with {total.get(name, 0.0):g} {name}, of which {available.get(name, 0.0):g} are free"
    )


def _in_words(needs: Mapping[str, float]) -> str:
    """The amounts by name, as `0.5 GPU, 1 licence`."""
    return ", ".join(f"{amount:g} {name}" for name, amount in needs.items())
