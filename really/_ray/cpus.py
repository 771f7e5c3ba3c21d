"""CPU claims: how many CPUs of the Ray cluster the managers of this process hold, and how many are still free.

Ray's own count lags behind actors that have just started or ended. Claims close this gap within one process.
"""

from __future__ import annotations

import logging
import math
import time
import weakref
from dataclasses import dataclass, field
from typing import Protocol

from really._ray.runtime import Session

log = logging.getLogger("really")

# Seconds that a new manager waits for the CPUs of a closed one, since Ray learns of released CPUs with a delay.
RELEASE_WAIT = 2.0
POLL_INTERVAL = 0.02


class Claimant(Protocol):
    """An owner of CPUs, such as a fleet of runners."""

    @property
    def alive(self) -> bool:
        """Whether it still holds its CPUs."""


@dataclass
class _Claims:
    """The claims of this process, as (session, CPUs), and the time of the last release."""

    held: weakref.WeakKeyDictionary[Claimant, tuple[Session, int]] = field(default_factory=weakref.WeakKeyDictionary)
    released: float = -math.inf

    @property
    def settled(self) -> float:
        """The time from which Ray's count is up to date again."""
        return self.released + RELEASE_WAIT


_claims = _Claims()


def claim(claimant: Claimant, session: Session, wanted: int) -> tuple[int, int]:
    """Claims CPUs for `wanted` processes; returns the number of processes to start, and the CPUs of each.

    If fewer CPUs are free, there are fewer processes, with a warning; if none is free, one process without a CPU.
    """
    deadline = time.monotonic() + RELEASE_WAIT
    while (free := _free_cpus(session)) < wanted and time.monotonic() < min(deadline, _claims.settled):
        time.sleep(POLL_INTERVAL)
    count = max(1, min(wanted, free))
    if free < wanted:
        log.warning("%d of the %d CPUs wanted for runners are free: starting %d.", free, wanted, count)
    _claims.held[claimant] = (session, min(count, max(free, 0)))
    return count, 1 if free >= 1 else 0


def note_release() -> None:
    """Records that a claimant has just released its CPUs, which Ray's count does not show yet."""
    _claims.released = time.monotonic()


def cluster_cpus() -> int:
    """All CPUs of the cluster, free or not."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def _free_cpus(session: Session) -> int:
    """CPUs that neither another program (by Ray's count) nor a living claimant of this process holds."""
    import ray

    held = sum(cpus for claimant, (owner, cpus) in _claims.held.items() if owner == session and claimant.alive)
    return int(min(ray.available_resources().get("CPU", 0), ray.cluster_resources().get("CPU", 1) - held))
