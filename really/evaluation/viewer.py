"""Viewer: the base of all ways to watch an evaluation; by itself it shows nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from really.envs.batch import EnvironmentBatch, PlainBatch
from really.envs.environment import Environment, StepResult
from really.envs.make import make_batch
from really.envs.spec import EnvironmentSpec, Probe

# As many environments as an evaluation steps together: more would only add memory.
EVALUATION_ENVS = 128


class Viewer:
    """Sees nothing: episodes are stepped as one batch. What all viewers have."""

    at_once = EVALUATION_ENVS
    """Environments stepped together; one where somebody watches."""
    path: Path | None = None
    """Where a film is."""

    def batch(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str = "auto"
    ) -> EnvironmentBatch:
        """The environments to step, one a seed."""
        return make_batch(spec, seeds, vector=vector)

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """The time in which the episodes are played."""
        yield

    def after_step(self) -> None:
        """Called after each step of the batch."""


class Watcher:
    """What is told of each state of one environment."""

    def see(self, environment: Environment, is_start: bool) -> None:
        """The environment has been reset (`is_start`) or stepped."""

    def leave(self) -> None:
        """The environment has been closed."""


class Watched(Environment):
    """An environment of which a watcher sees each state, an episode's last one among them.

    A batch resets an environment within the step that ends its episode; from outside that last state is never seen.
    """

    def __init__(self, environment: Environment, watcher: Watcher) -> None:
        super().__init__(environment.env, environment.limit)
        self._inner, self._watcher = environment, watcher
        self.step = self._watched_step
        self.is_known = True

    def reset(self, seed: int | None = None) -> Any:
        """Begins an episode."""
        observation = self._inner.reset(seed)
        self._watcher.see(self._inner, is_start=True)
        return observation

    def close(self) -> None:
        """Closes the environment, and what its watcher has open."""
        self._inner.close()
        self._watcher.leave()

    def _watched_step(self, action: Any) -> StepResult:
        result = self._inner.step(action)
        self._watcher.see(self._inner, is_start=False)
        return result


@dataclass(frozen=True)
class _WatchedSpec(EnvironmentSpec):
    """A spec with one instance, which is there already."""

    spec: EnvironmentSpec | None = None
    made: Environment | None = None

    def probe(self) -> Probe:
        return self.spec.probe()  # type: ignore[union-attr]

    def make(self, render_mode: str | None = None) -> Environment:
        return self.made  # type: ignore[return-value]


def watched_batch(
    spec: EnvironmentSpec, seed: np.random.SeedSequence, environment: Environment, watcher: Watcher
) -> EnvironmentBatch:
    """A batch of one environment that `watcher` sees: a plain instance, whatever vector environments there are."""
    watched = Watched(environment, watcher)
    return PlainBatch(_WatchedSpec(spec.environment, spec.env_config, spec, watched), [seed])
