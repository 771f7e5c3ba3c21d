"""One walk in three APIs, an echo of actions, and composite observations, importable for runners."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from really.envs.real_gym import import_gym
from tests.environments import Counter

gym = import_gym()


class GymWalk(gym.Env):  # type: ignore[misc]
    """The API of gym 0.26: a seed in `reset`, five values from `step`, gym's own spaces."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-100, 100, (2,), np.float32)

    def __init__(self, length: int = 8) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.at = self.time = 0
        return self._show(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.at += 1 if action else -1
        return self._show(), float(action), self.at >= 4, self.at < 4 and self.time >= self.length, {}

    def _show(self) -> np.ndarray:
        return np.array([self.at, self.time], np.float32)


class OldWalk:
    """The same with the API before 0.26: `reset() -> obs`, four values, the time limit in `info`."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-100, 100, (2,), np.float32)

    def __init__(self, length: int = 8) -> None:
        self.walk = GymWalk(length)

    def reset(self) -> np.ndarray:
        return self.walk.reset()[0]

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self.walk.step(action)
        info = {"TimeLimit.truncated": truncated} if terminated or truncated else {}
        return observation, reward, terminated or truncated, info


class Walk(gymnasium.Env):  # type: ignore[misc]
    """The same with gymnasium's API."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-100, 100, (2,), np.float32)

    def __init__(self, length: int = 8) -> None:
        self.walk = GymWalk(length)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self.walk.reset()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.walk.step(action)


class Echo(gymnasium.Env):  # type: ignore[misc]
    """Takes actions of any space, refuses actions outside it, and observes the action."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.action_space, self.width = space, int(np.prod(space.shape, dtype=int))
        self.observation_space = spaces.Box(-100, 100, (self.width,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(self.width, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        shown = np.asarray(action, np.float32).reshape(-1)
        return shown, float(shown.sum()), False, False, {}


class Nested(Counter):
    """Observations in a Dict or Tuple space; Discrete actions."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(length=5)
        self.observation_space, self.action_space = space, spaces.Discrete(3)

    def _show(self) -> Any:
        return self._part(self.observation_space)

    def _part(self, space: spaces.Space[Any]) -> Any:
        if isinstance(space, spaces.Dict):
            return {name: self._part(part) for name, part in space.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._part(part) for part in space)
        return self.count if isinstance(space, spaces.Discrete) else np.full(space.shape, self.count, space.dtype)
