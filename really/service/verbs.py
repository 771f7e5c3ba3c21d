"""The verbs of a sharded buffer that follow from the others: keys, a context that closes it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from really.data.schema import Spec
from really.replay.verbs import RowsOut


class ShardedVerbs(RowsOut):
    """What `ShardedBuffer` inherits besides `RowsOut`."""

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row)."""
        raise NotImplementedError

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keys in the order of a batch; None until the caller or the first put has named them."""
        return self.options.keys if self.spec is None else tuple(self.spec)

    def close(self) -> None:
        """Ends the shards."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"ShardedBuffer({len(self)} of {self.capacity} rows, keys={self.keys})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
