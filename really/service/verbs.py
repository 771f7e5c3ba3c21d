"""The verbs of a sharded buffer that follow from the others: Arrow streams, keys, a context that closes it."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, cast

from really.data.schema import Spec
from really.replay.drawn import DrawnRows
from really.replay.io import interchange
from really.replay.rows import Rows


class ShardedVerbs(DrawnRows):
    """What `ShardedBuffer` inherits besides `DrawnRows`."""

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

    def to_arrow(self, keys: Sequence[str] | None = None, *, float16: str = "float16") -> Any:
        """The rows of all shards as a stream of record batches, oldest first (`interchange.to_arrow`).

        Rows of shards that are away when they are read are left out.
        """
        return interchange.to_arrow(cast(Rows, self), keys, float16=float16)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows for whatever reads Arrow streams: DuckDB, Polars, pandas."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        num = len(cast(Rows, self))
        return f"ShardedBuffer({num} of {self.capacity} rows, keys={self.keys})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
