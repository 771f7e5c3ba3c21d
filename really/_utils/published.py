"""Names of the published versions of this API (course code of winter 2020/21), which the seed's README does not have.

Scripts of that time use them. Each class here is a base of the class that it completes, and each name does what another
name of the API does; `docs/migration.md` has a line for each. Arguments of that time are checked here too:

- `SampleManager(is_tf=...)`: `model_call` says what it means for the model's first call;
- `SampleManager(returns=[...])`: `column_name` takes the seed's names in any case;
- `load_model(path, model_name, compile)`: `compile` is ignored, because a loaded model keeps the agent's own class;
- `get_agent(test=True)`: an agent that acts greedily.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.errors import InvalidTypeError

VALUE_OUTPUTS = ("v_estimate", "value_estimate")
"""Outputs that are values of states, by their published names."""


def model_call(is_tf: Any, input_shape: Any) -> Any:
    """`input_shape` of a model: with `is_tf=False` the object has its weights without a call, so it is False.

    Raises InvalidTypeError if `is_tf` is no bool.
    """
    if not isinstance(is_tf, bool):
        raise InvalidTypeError(f"is_tf: expected True or False, got {is_tf!r} ({type(is_tf).__name__})")
    return False if not is_tf and input_shape is None else input_shape


def column_name(name: Any) -> Any:
    """The name of a requested column in lower case: scripts also write 'Monte_Carlo' and 'LOG_PROB'."""
    return name.lower() if isinstance(name, str) else name


class PublishedManager:
    """What `SampleManager` inherits: `env_instance`, `agg`, and arguments of the constructor as attributes."""

    _env_instance: Any = None

    @property
    def model(self: Any) -> Any:
        """The argument `model`."""
        return self.kwargs["model"]

    @property
    def environment(self: Any) -> Any:
        """The argument `environment`."""
        return self.kwargs["environment"]

    @property
    def num_parallel(self: Any) -> int:
        """The argument `num_parallel`."""
        return int(self.kwargs["num_parallel"])

    @property
    def returns(self: Any) -> list[str]:
        """The argument `returns`, in lower case."""
        return list(self.kwargs["returns"])

    @property
    def total_steps(self: Any) -> int:
        """The setting `kwargs["total_steps"]`, which may be set."""
        return int(self.kwargs["total_steps"])

    @total_steps.setter
    def total_steps(self: Any, steps: int) -> None:
        self.kwargs["total_steps"] = steps

    @property
    def env_instance(self: Any) -> Any:
        """An environment of the manager's kind, made when it is first asked for; `close` closes it.

        An environment that is given by its id has the API of that time: `reset` returns the observation, and `step`
        returns four values. Another is as its class makes it. Runners have environments of their own.
        """
        if self._env_instance is None:
            made = self._builder.environment.make()
            self._env_instance = FourValueSteps(made) if isinstance(self.kwargs["environment"], str) else made.env
        return self._env_instance

    @property
    def agg(self: Any) -> Any:
        """The aggregator: another name of `aggregator`."""
        return self.aggregator

    def _close_env_instance(self) -> None:
        """Closes the environment of `env_instance`, if it was made and can be closed."""
        made, self._env_instance = self._env_instance, None
        if callable(getattr(made, "close", None)):
            made.close()


class PublishedAgent:
    """What `Agent` inherits: `v_estimate`, `act_experience`, settings, and the agent of `get_agent(test=True)`."""

    @property
    def action_sampling_type(self: Any) -> str:
        """How `act` samples."""
        return str(self.policy.sampling_type)

    @property
    def epsilon(self: Any) -> float:
        """The probability of a random action in `epsilon_greedy`; `manager.set_epsilon` sets that of later agents."""
        return float(self.policy.epsilon)

    @property
    def temperature(self: Any) -> float:
        """The temperature of `thompson`; `manager.set_temperature` sets that of later agents."""
        return float(self.policy.temperature)

    def act_experience(self: Any, state: Any, return_log_prob: bool = False) -> dict[str, Any]:
        """Acts in states `[n, ...]` as the environment returns them; returns the columns that a runner would store.

        They are NumPy arrays: `action`, as `act` returns it; with `return_log_prob` `log_probability`, [n] float32; and
        `value_estimate`, [n] float32, if the model has a value output.
        """
        seen = self.normalize(state)
        action = self.act(seen, normalized=True)
        output = {"action": action}
        if return_log_prob:
            output["log_probability"] = np.asarray(self.flowing_log_prob(seen, action))
        if any(name in self.output_names for name in VALUE_OUTPUTS):
            output["value_estimate"] = np.asarray(self.v(seen))
        return output

    def v_estimate(self: Any, state: Any) -> Any:
        """The value of each state, [n] float32: another name of `v`."""
        return self.v(state)

    def greedy_copy(self: Any) -> Any:
        """A copy whose `act` takes the best action in every call."""
        agent = self.copy()
        agent.greedy = True
        return agent


class PublishedAggregator:
    """What `Aggregator` inherits: `save_graphic`."""

    def save_graphic(self: Any) -> Any:
        """Draws the plot: another name of `plot`."""
        return self.plot()


class PublishedBuffer:
    """What `ReplayBuffer` inherits: `buffer` and `size`."""

    @property
    def buffer(self) -> RowsByKey:
        """The rows by key, oldest first: `buffer.buffer["reward"]` is an array [n, ...]."""
        return RowsByKey(self)

    @property
    def size(self: Any) -> int:
        """How many rows are kept: another name of `capacity`."""
        return int(self.capacity)


class RowsByKey(Mapping[str, NDArray[Any]]):
    """A mapping from the keys of a buffer to all of its rows of that key, [n, ...], oldest first.

    Each access copies the rows that the buffer holds then. The arrays are read-only, because writing to them would not
    change the buffer.
    """

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def __getitem__(self, key: str) -> NDArray[Any]:
        if key not in tuple(self):
            raise KeyError(key)
        if self._buffer.spec is None:
            return np.empty(0)
        with self._buffer.open_reader(keeps=True) as reader:
            rows: NDArray[Any] = reader.read(reader.num_left, [key])[key]
        rows.flags.writeable = False
        return rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffer.keys or ())

    def __len__(self) -> int:
        return len(self._buffer.keys or ())


class FourValueSteps:
    """An environment with the API of gym before 0.26. Attributes that it does not have are those of the environment.

    Args:
        made: an environment that returns five values, and leaves its time limit `limit` to its caller.
    """

    def __init__(self, made: Any) -> None:
        self._made, self._steps = made, 0

    def reset(self) -> Any:
        """Starts an episode and returns its first observation."""
        self._steps = 0
        return self._made.reset()

    def step(self, action: Any) -> tuple[Any, Any, bool, dict[str, Any]]:
        """(observation, reward, done, info); `info["TimeLimit.truncated"]` is True if the time limit ended it."""
        observation, reward, terminated, truncated, info = self._made.step(action)
        self._steps += 1
        truncated = bool(truncated) or self._steps >= self._made.limit
        if truncated and not terminated:
            info = {**(info or {}), "TimeLimit.truncated": True}
        return observation, reward, bool(terminated) or truncated, info

    def render(self, mode: str = "human") -> Any:
        """Renders a frame."""
        return self._made.render(mode)

    def close(self) -> None:
        """Closes the environment."""
        self._made.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_made":
            raise AttributeError(name)
        return getattr(self._made.env, name)
