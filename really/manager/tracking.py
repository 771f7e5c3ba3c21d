"""The verbs of a SampleManager that track training progress: they make its aggregator and give it values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from really.errors import ReallyError
from really.metrics.aggregator import Aggregator


class Tracking:
    """What `SampleManager` inherits: its aggregator. `aggregator` is None before `initialize_aggregator`."""

    aggregator: Aggregator | None

    def initialize_aggregator(
        self,
        path: str | os.PathLike[str],
        saving_after: int = 10,
        aggregator_keys: Sequence[str] = ("loss",),
        max_size: int = 5,
        init_epoch: int = 0,
        tensorboard: str | os.PathLike[str] | bool | None = None,
        units: Mapping[str, str] | None = None,
    ) -> None:
        """Makes the aggregator: it smooths over `max_size` updates and plots into `path` after every `saving_after`.

        With `tensorboard` (a folder, or True for one below `path`) it also writes every value into event files there.
        `units`, as in `{"reward": "points"}`, label the axes.
        """
        self.aggregator = Aggregator(path, saving_after, aggregator_keys, max_size, init_epoch, tensorboard, units)

    def update_aggregator(self, **kwargs: Any) -> None:
        """Adds a point to each key: the average of a number, array, tensor, or of nested lists of these."""
        if self.aggregator is None:
            raise ReallyError("update_aggregator: expected initialize_aggregator() to be called first")
        self.aggregator.update(**kwargs)
