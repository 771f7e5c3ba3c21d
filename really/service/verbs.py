"""What a sharded buffer says of itself: its keys and its text."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

from really._utils.published import PublishedBuffer
from really.data.schema import Spec
from really.errors import InvalidTypeError
from really.replay.verbs import RowsOut


class ShardedVerbs(RowsOut, PublishedBuffer):
    """The part of `ShardedBuffer` that describes it: its keys, its text, and the error of pickling it."""

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row)."""
        raise NotImplementedError

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keys in the order of a batch; None until the caller or the first put has named them."""
        return self.options.keys if self.spec is None else tuple(self.spec)

    def __repr__(self) -> str:
        return f"ShardedBuffer({len(self)} of {self.capacity} rows, keys={self.keys})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise InvalidTypeError(
            "pickling: expected a buffer in one process, got one in shards; `save` writes it to a file, and other "
            "processes of its cluster read it by its name (`ShardedBuffer.connect`)"
        )
