"""The verbs of a sharded buffer that follow from the others: batches ahead, data sets, Arrow streams, properties."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, cast

from really.data.schema import Spec
from really.replay import arguments, tf_datasets
from really.replay.batches import Batches
from really.replay.io import interchange
from really.replay.options import BufferOptions
from really.replay.rows import Rows, Sampled
from really.replay.samplers import PrioritizedSampler


class ShardedVerbs(Sampled):
    """What `ShardedBuffer` inherits."""

    @property
    def options(self) -> BufferOptions:
        """The options of the whole buffer."""
        raise NotImplementedError

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row)."""
        raise NotImplementedError

    @property
    def capacity(self) -> int:
        """How many rows are kept in all."""
        return self.options.capacity

    @property
    def n_step(self) -> int:
        """Steps of a row of a batch, at most."""
        return self.options.n_step

    @property
    def gamma(self) -> float | None:
        """The discount factor of `n_step`; None with single steps."""
        return self.options.gamma

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keys in the order of a batch; None until the caller or the first put has named them."""
        return self.options.keys if self.spec is None else tuple(self.spec)

    @property
    def is_prioritized(self) -> bool:
        """Whether rows are drawn by priority."""
        return isinstance(self.sampler, PrioritizedSampler)

    def close(self) -> None:
        """Ends the shards."""
        raise NotImplementedError

    def batches(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Batches:
        """An endless iterator over what `sample(n)` gives, drawn up to `prefetch` batches ahead (`batches.Batches`).

        Options: `as_`, `replace`, and `beta` of prioritized replay.
        """
        return Batches(self, n, prefetch, **options)

    def dataset(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Any:
        """An endless `tf.data.Dataset` of what `sample(n)` gives (`tf_datasets.sampled_dataset`).

        Options: `replace`, `batches_per_call`, and `beta` of prioritized replay.
        """
        return tf_datasets.sampled_dataset(self, n, prefetch, **options)

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
