"""The sampler of a half-life: a row's probability falls exponentially with its age."""

from __future__ import annotations

from typing import Any, SupportsIndex

from really._utils.checks import checked_integer
from really.replay import arguments
from really.replay._ring import Ring
from really.replay.samplers import Sampler, UniformSampler


class HalfLifeSampler(UniformSampler):
    """P(row) in proportion to 2^(-a / half_life), where a is how many rows were put after it; over all rows held.

    Args:
        half_life: rows after which a row is half as likely as the newest one.
    """

    HALF_LIFE = 2
    """`RecencyKind` of the ring (csrc/rows/recency.pxd)."""

    def __init__(self, half_life: SupportsIndex) -> None:
        self.half_life = checked_integer("half_life", half_life, 1, arguments.MOST_ROWS)

    def options(self) -> dict[str, Any]:
        """`half_life`."""
        return {"half_life": self.half_life}

    def prepare(self, ring: Ring) -> None:
        """Sets the half-life of the ring's draws."""
        ring.set_recency(self.HALF_LIFE, self.half_life)

    def check(self, replace: bool, beta: Any) -> None:
        """Refuses draws without replacement, and beta."""
        Sampler.check(self, replace, beta)
