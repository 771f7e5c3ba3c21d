"""envpool: environments of EnvPool (C++), stepped in a runner as one batch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from really._utils.packages import needed
from really.data.spaces import flatten
from really.envs.batch import EnvironmentBatch, seed_of
from really.envs.environment import closing_errors_as_warnings, failure, logged_warnings
from really.envs.spec import EnvironmentSpec
from really.errors import InvalidValueError, did_you_mean, summary

# What a runner decides: how many environments there are, in which API, and their seeds.
OWN = ("num_envs", "batch_size", "env_type", "seed", "max_num_players")


@dataclass(frozen=True)
class EnvPool:
    """An environment of EnvPool with its options, as an environment for a manager; made by `envpool`."""

    name: str
    options: tuple[tuple[str, Any], ...]

    @property
    def __name__(self) -> str:
        return f"envpool({self.name!r})"

    def __call__(self, render_mode: str | None = None, **options: Any) -> PoolOfOne:
        """One environment, with the API of gymnasium. `options` go before those of `envpool`."""
        return PoolOfOne(self, options, render_mode)

    def options_with(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the task, of which `others` replace some."""
        return {**dict(self.options), **others}

    def make_pool(self, seeds: Sequence[int], options: Mapping[str, Any]) -> Any:
        """EnvPool's vector environment with one environment for each seed."""
        import envpool as package

        threads = {"num_threads": min(len(seeds), os.cpu_count() or 1)}
        given = {**threads, **self.options_with(options)}
        with logged_warnings():
            pool = package.make(self.name, env_type="gymnasium", num_envs=len(seeds), seed=list(seeds), **given)
            # Bounds in float64 warn when these spaces are made, at their first use.
            _ = pool.observation_space, pool.action_space
        return pool


def envpool(name: str, **options: Any) -> EnvPool:
    """An environment of EnvPool, such as 'Pong-v5', 'CartPole-v1' or 'HalfCheetah-v5'.

    A runner steps all its environments in C++ as one batch. The same seed gives the same transitions, whatever the
    other environments are. An episode's end and the start of the next are two calls of EnvPool within one step, so that
    no row leads from one episode to the next.

    Args:
        name: the task, as `envpool.list_all_envs()` names it.
        options: those of the task, as `envpool.make_spec(name).config` lists them. EnvPool has other defaults than
            `really.atari`: a lost life is no termination and rewards are not clipped (`episodic_life=True` and
            `reward_clip=True` make them so). `num_threads` is by default as many as environments, or processors.

    Raises:
        InvalidValueError: the task is unknown (the message names similar ones), has several players, or lacks an
            option.
        MissingPackageError: EnvPool is not installed.
    """
    where = f"envpool({name!r})"
    with needed(where, "EnvPool for its environments", "envpool"):
        import envpool as package
    known = package.list_all_envs()
    if name not in known:
        raise InvalidValueError(f"envpool: expected a task that EnvPool has, got {name!r}.{did_you_mean(name, known)}")
    if own := sorted(set(options) & set(OWN)):
        raise InvalidValueError(f"{where}: expected options of the task, got {own[0]!r}, which each runner sets itself")
    try:
        config = package.make_spec(name, **options).config
    except Exception as error:
        raise InvalidValueError(f"{where}: expected options that EnvPool takes, got {summary(error)}") from error
    if config.max_num_players != 1:
        raise InvalidValueError(f"{where}: expected a task of one player, got one of {config.max_num_players}")
    return EnvPool(name, tuple(options.items()))


class PoolOfOne(gymnasium.Env[Any, Any]):
    """A pool of one environment as a single environment. EnvPool seeds a pool when it is made."""

    def __init__(self, environment: EnvPool, options: dict[str, Any], render_mode: str | None) -> None:
        import envpool as package

        self._environment, self.render_mode = environment, render_mode
        self._options = options if render_mode is None else {**options, "render_mode": render_mode}
        with logged_warnings():
            spec = package.make_spec(environment.name, **environment.options_with(options))
            self.observation_space, self.action_space = spec.gymnasium_observation_space, spec.gymnasium_action_space
        self.spec = EnvSpec(environment.name, max_episode_steps=spec.config.max_episode_steps)
        self._pool: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; a seed makes the pool anew."""
        if seed is not None or self._pool is None:
            self.close()
            drawn = seed_of(np.random.SeedSequence()) if seed is None else seed
            self._pool = self._environment.make_pool([drawn], self._options)
        batch, _ = self._pool.reset()
        return _first(batch), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        batch, reward, terminated, truncated, _ = self._pool.step(np.asarray(action)[None])
        return _first(batch), float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        """A frame, `[height, width, 3] uint8`."""
        return self._pool.render()[0]

    def close(self) -> None:
        """Closes the pool."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None


def _first(batch: Any) -> Any:
    return {key: _first(part) for key, part in batch.items()} if isinstance(batch, dict) else batch[0]


class PoolBatch(EnvironmentBatch):
    """Environments of one pool.

    EnvPool would reset an environment in the step after its end. This class resets it at once, alone, so that every row
    belongs to one episode.
    """

    kind = "native"

    def __init__(self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence]) -> None:
        super().__init__(spec.probe(), len(seeds))
        self._environment, self._options = spec.environment, dict(spec.env_config)
        self._seeds = list(seeds)
        self._pool = self._make()
        self._all = np.arange(self.num_envs, dtype=np.int32)
        # Whether results of a step may be left in the pool, after an interrupt.
        self._in_flight = False
        self._finals = self._empty()

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Starts new episodes."""
        if self._in_flight:
            self._replace()
        self._begin(self._all if which is None else which.astype(np.int32))
        self.final_observations = self.observations

    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Steps the environments in parallel, then resets those whose episode ended."""
        numbers = self._all if active is None else active.astype(np.int32)
        batch, rewards, terminated, truncated, info = self._received("step", actions[numbers], numbers)
        numbers = info["env_id"]
        self._show(numbers, batch)
        self.rewards[numbers], self.terminated[numbers], self.truncated[numbers] = rewards, terminated, truncated
        self.final_observations = self.observations
        ended = numbers[terminated | truncated]
        if ended.size:
            for final, shown in zip(self._finals, self.observations, strict=True):
                np.copyto(final, shown)
            self.final_observations = self._finals
            self._begin(ended)

    def render(self) -> Any:
        """Returns None: `make_batch` makes plain instances if something is to be rendered."""
        return None

    def close(self) -> None:
        """Closes the pool."""
        with closing_errors_as_warnings(self.name):
            self._pool.close()

    def _make(self) -> Any:
        return self._environment.make_pool([seed_of(seed) for seed in self._seeds], self._options)

    def _replace(self) -> None:
        """Makes the pool anew, with other seeds: an interrupt left it in the middle of a step."""
        self.close()
        self._seeds = [seed.spawn(1)[0] for seed in self._seeds]
        self._pool, self._in_flight = self._make(), False

    def _begin(self, numbers: NDArray[np.int32]) -> None:
        batch, info = self._received("reset", numbers)
        self._show(info["env_id"], batch)

    def _received(self, verb: str, *arguments: Any) -> Any:
        """What a call of the pool returns. Environments of a part of the pool come in any order."""
        self._in_flight = True
        try:
            result = getattr(self._pool, verb)(*arguments)
        except Exception as error:
            where = f"environment {self.name!r}, one of {self.num_envs} in a batch: {verb}"
            raise failure(where, error) from error
        self._in_flight = False
        return result

    def _show(self, numbers: NDArray[np.int32], batch: Any) -> None:
        for shown, part in zip(self.observations, flatten(self.observation_space, batch), strict=True):
            shown[numbers] = part
