"""The verbs of a SampleManager that track training progress: they make its aggregator and give it values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from really._utils.names import tells_names
from really.collectors.episodes import EpisodeLog
from really.errors import InvalidStateError
from really.metrics.aggregator import Aggregator

# Keys that the manager gives itself, and the fields of episodes that they are.
EPISODE_KEYS = {"episode_return": "return", "episode_length": "length"}


@tells_names({}, "initialize_aggregator")
class Tracking:
    """What `SampleManager` inherits: its aggregator. `aggregator` is None before `initialize_aggregator`."""

    aggregator: Aggregator | None
    _episodes: EpisodeLog
    # Number of episodes that had ended at the last update.
    _num_tracked = 0

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
        The keys `episode_return` and `episode_length` need no value: they are those of the episodes that ended since
        the update before.
        `units`, as in `{"reward": "points"}`, label the axes.
        """
        self.aggregator = Aggregator(path, saving_after, aggregator_keys, max_size, init_epoch, tensorboard, units)
        self._num_tracked = self._episodes.count

    def update_aggregator(self, **kwargs: Any) -> None:
        """Adds a point to each key: the average of a number, array, tensor, or of nested lists of these.

        `step=manager.steps`, or any other number that does not fall, is the x-axis of plots, CSV and TensorBoard.
        """
        if self.aggregator is None:
            raise InvalidStateError("update_aggregator: expected initialize_aggregator() to be called first")
        # Background collection may log more episodes at any time. They belong to the next point, as all of these do if
        # a value is refused.
        ended, num_ended = self._episodes.since(self._num_tracked)
        own = {key: ended[field] for key, field in EPISODE_KEYS.items() if key in self.aggregator.keys}
        self.aggregator.update(**(own | kwargs))
        self._num_tracked = num_ended
