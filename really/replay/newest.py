"""The sampler of the newest rows: uniform over a window that moves with the buffer's head."""

from __future__ import annotations

from typing import Any, SupportsIndex

from really._utils.checks import checked_integer
from really.replay import arguments
from really.replay._ring import Ring
from really.replay.samplers import UniformSampler


class NewestSampler(UniformSampler):
    """The newest `num_rows` rows, each with the same probability; all rows while fewer are held.

    Args:
        num_rows: how many of the newest rows are drawn from.
    """

    NEWEST = 1
    """`RecencyKind` of the ring (csrc/rows/recency.pxd)."""

    def __init__(self, num_rows: SupportsIndex) -> None:
        self.num_rows = checked_integer("num_rows", num_rows, 1, arguments.MOST_ROWS)

    def options(self) -> dict[str, Any]:
        """`num_rows`."""
        return {"num_rows": self.num_rows}

    def prepare(self, ring: Ring) -> None:
        """Sets the window of the ring's draws."""
        ring.set_recency(self.NEWEST, self.num_rows)
