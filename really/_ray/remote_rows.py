"""Rows that stay in Ray's store on the node that made them; others know how many they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True)
class RemoteRows:
    """A part of a record batch on another node.

    Attributes:
        num_rows: how many rows.
        node: the id of the node that made them.
        batch: Ray's reference of the batch; None as long as the driver has not set it.
        start: the first row of the part.
    """

    num_rows: int
    node: str
    batch: Any = None
    start: int = 0

    def slice(self, start: int, num: int) -> Self:
        """`num` rows from row `start` of this part on."""
        return replace(self, start=self.start + start, num_rows=num)

    def fetch(self) -> Any:
        """The rows as a record batch in this process; they travel if they are on another node."""
        import ray

        return ray.get(self.batch).slice(self.start, self.num_rows)


def fetched(batch: Any) -> Any:
    """The batch in this process, whether it is here already or not."""
    return batch.fetch() if isinstance(batch, RemoteRows) else batch
