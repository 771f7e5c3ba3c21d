"""What all buffers have, wherever their rows are: settings, batches ahead, data sets, a `with` that closes them."""

from __future__ import annotations

from typing import Any, Self

from really.replay import arguments, tf_datasets
from really.replay.batches import Batches
from really.replay.options import BufferOptions
from really.replay.rows import Sampled
from really.replay.samplers import PrioritizedSampler


class DrawnRows(Sampled):
    """What `ReplayBuffer` and `ShardedBuffer` inherit."""

    @property
    def options(self) -> BufferOptions:
        """What the buffer was made with."""
        raise NotImplementedError

    def __len__(self) -> int:
        """How many rows can be had."""
        raise NotImplementedError

    def check_open(self, what: str) -> None:
        """Raises ClosedError if the buffer is closed."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what holds the rows; batches stay."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update_priorities(self, index: Any, priorities: Any) -> int:
        """Sets priorities of rows."""
        raise NotImplementedError

    @property
    def shard_names(self) -> tuple[str, ...]:
        """What each shard is called; empty for a buffer in one process."""
        return ()

    @property
    def capacity(self) -> int:
        """How many rows are kept."""
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
    def is_prioritized(self) -> bool:
        """Whether rows are drawn by priority."""
        return isinstance(self.sampler, PrioritizedSampler)

    def batches(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Batches:
        """An endless iterator over what `sample(n)` gives, drawn up to `prefetch` batches ahead (`Batches`).

        Options: `as_`, `replace`, `device` and `pin_memory`, and `beta` of prioritized replay.
        """
        return Batches(self, n, prefetch, **options)

    def dataset(self, n: arguments.Size, prefetch: int = 2, **options: Any) -> Any:
        """An endless `tf.data.Dataset` of what `sample(n)` gives (`sampled_dataset`).

        Options: `replace`, `batches_per_call`, and `beta` of prioritized replay.
        """
        return tf_datasets.sampled_dataset(self, n, prefetch, **options)
