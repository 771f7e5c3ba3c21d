"""Viewer: the base class of all ways to watch an evaluation; by itself it shows nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from really.envs.batch import EnvironmentBatch
from really.envs.environment import Environment, SeenEnvironment
from really.envs.make import batch_of_instance, make_batch
from really.envs.results import StepResult
from really.envs.spec import EnvironmentSpec

# Environments that an evaluation steps together: more would only take more memory.
EVALUATION_ENVS = 128


log = logging.getLogger("really")


class Notices:
    """Warnings about what cannot be shown; each is logged once in the life of a manager."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def warn(self, kind: str, text: str) -> None:
        """Logs a text, unless one of this kind was logged before."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning("%s", text)


class Viewer:
    """Base class of all viewers; it shows nothing, so episodes are stepped as one batch."""

    at_once = EVALUATION_ENVS
    """Number of environments that are stepped together; 1 if they are shown."""
    path: Path | None = None
    """The path of the film, or None."""

    def batch(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str = "auto"
    ) -> EnvironmentBatch:
        """Makes the environments to step, one for each seed."""
        return make_batch(spec, seeds, vector=vector)

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Context manager in which the episodes are played."""
        yield

    def after_step(self) -> None:
        """Called after each step of the batch."""

    def unseen(self, error: Exception) -> Viewer | None:
        """The viewer with which to play again after an environment's error that showing it may have caused."""
        return None


class Watcher:
    """Observer of one environment: its methods are called with each state."""

    def see(self, environment: Environment, is_start: bool) -> None:
        """Called after each reset (`is_start`) and each step of the environment."""

    def leave(self) -> None:
        """Called after the environment has been closed."""


class Watched(SeenEnvironment):
    """An environment that shows each state to a watcher, the last state of an episode included."""

    def __init__(self, environment: Environment, watcher: Watcher) -> None:
        super().__init__(environment)
        self._watcher = watcher

    def close(self) -> None:
        """Closes the environment, then calls the watcher's `leave`."""
        super().close()
        self._watcher.leave()

    def see_start(self, observation: Any) -> None:
        """Shows the first state of an episode."""
        self._watcher.see(self.inner, is_start=True)

    def see_step(self, result: StepResult) -> None:
        """Shows the state after a step."""
        self._watcher.see(self.inner, is_start=False)


def watched_batch(
    spec: EnvironmentSpec, seed: np.random.SeedSequence, environment: Environment, watcher: Watcher
) -> EnvironmentBatch:
    """A batch of one plain instance that `watcher` observes."""
    return batch_of_instance(spec, seed, Watched(environment, watcher))
