"""Batches on gymnasium's own vector environments: CartPole's, equal to plain instances, and any other's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.spaces import flatten
from really.envs.batch import EnvironmentBatch, seed_of
from really.envs.environment import IdSource, failure, gymnasium_spec, logged_warnings
from really.envs.spec import EnvironmentSpec
from really.envs.vector_api import DISABLED, SAME_STEP, autoreset_mode, pick
from really.errors import InvalidTypeError

CARTPOLE = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
CARTPOLE_VECTOR = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
CARTPOLE_ARGUMENTS = {"max_episode_steps", "sutton_barto_reward"}
# Starts drawn at a time for one environment; a draw of its own for each episode costs 2 us more.
STARTS = 64


def is_classic_cartpole(spec: EnvironmentSpec) -> bool:
    """Whether this is gymnasium's CartPole, registered as gymnasium does, with arguments that both its forms take."""
    if not isinstance(spec.source, IdSource):
        return False
    with logged_warnings():
        registered = gymnasium_spec(spec.environment)
    return (
        (registered.entry_point, registered.vector_entry_point) == (CARTPOLE, CARTPOLE_VECTOR)
        and not registered.additional_wrappers
        and set(registered.kwargs) | set(spec.env_config) <= CARTPOLE_ARGUMENTS
    )


class CartPoleBatch(EnvironmentBatch):
    """gymnasium's native CartPole, with resets from each environment's own stream.

    Its dynamics are those of the plain environment bit for bit. Its resets draw from one generator for all
    columns and come a step late, so both are done here, on its public `state` and `steps`: the same seeds
    give the transitions of plain instances.
    """

    kind = "native"

    def __init__(self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence]) -> None:
        from gymnasium.utils import seeding

        probe = spec.probe()
        super().__init__(probe, len(seeds))
        options: dict[str, Any] = dict(spec.env_config)
        options["max_episode_steps"] = probe.max_episode_steps or np.iinfo(np.int32).max
        self._vector = _vector_cartpole(self.num_envs, options)
        self._rngs = [seeding.np_random(seed_of(seed))[0] for seed in seeds]
        self._starts = np.empty((self.num_envs, STARTS, 4))
        self._next_start = np.full(self.num_envs, STARTS)
        self._all = np.arange(self.num_envs)

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Begins new episodes, each at the next start of its environment's stream."""
        self._begin(self._all if which is None else which)
        self.final_observations = self.observations

    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Steps all columns at once; those that are not active are put back."""
        vector, shown = self._vector, self.observations[0]
        state, steps = vector.state, vector.steps
        if active is not None:
            steps = steps.copy()
        final, self.rewards, self.terminated, self.truncated, _ = vector.step(actions)
        self.final_observations = [final]
        done = vector.prev_done
        if active is None:
            shown[...] = final
        else:
            shown[active] = final[active]
            idle = np.ones(self.num_envs, np.bool_)
            idle[active] = False
            vector.state[:, idle] = state[:, idle]
            vector.steps[idle] = steps[idle]
            done = done & ~idle
        if done.any():
            self._begin(done.nonzero()[0])
        elif active is not None:
            vector.prev_done = np.zeros(self.num_envs, np.bool_)

    def render(self) -> Any:
        """Nothing: `make_batch` takes plain instances where something is to be rendered."""
        return None

    def close(self) -> None:
        """Closes the vector environment."""
        self._vector.close()

    def _begin(self, which: NDArray[np.intp]) -> None:
        for i in which[self._next_start[which] == STARTS].tolist():
            # As CartPole's reset draws them: four numbers from its own generator an episode.
            self._starts[i] = self._rngs[i].uniform(-0.05, 0.05, (STARTS, 4))
            self._next_start[i] = 0
        starts = self._starts[which, self._next_start[which]]
        self._next_start[which] += 1
        self._vector.state[:, which] = starts.T
        self._vector.steps[which] = 0
        self._vector.prev_done = np.zeros(self.num_envs, np.bool_)
        self.observations[0][which] = starts


def _vector_cartpole(num_envs: int, options: dict[str, Any]) -> Any:
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

    vector: Any = CartPoleVectorEnv(num_envs, **options)
    vector.reset(seed=0)
    # Every action comes from the policy, and no reset is the vector environment's own.
    for name, value in (("action_space", _AnyAction()), ("np_random", _NoDraws())):
        setattr(vector, name, value)
    return vector


class _AnyAction:
    """Stands for the action space in the vector environment's own check of its actions."""

    def contains(self, action: object) -> bool:
        """True: policies give valid actions, and the check costs as much as the dynamics."""
        return True


class _NoDraws:
    """Stands for the generator from which the vector environment would reset columns: there are none."""

    def uniform(self, low: float, high: float, size: tuple[int, int]) -> NDArray[np.float64]:
        """An empty array of the size asked, `[4, 0]`."""
        return np.empty(size)


def can_reset_some(vector: Any) -> bool:
    """Whether `vector` ends episodes without mixing them up in a batch: by SameStep, or by `reset_mask`."""
    from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

    if autoreset_mode(vector) in (SAME_STEP, DISABLED):
        return True
    inner = vector.unwrapped
    return isinstance(inner, SyncVectorEnv | AsyncVectorEnv) or type(inner).__module__ == "ale_py.vector_env"


class VectorBatch(EnvironmentBatch):
    """Any gymnasium vector environment for which `can_reset_some`, in each of the autoreset modes.

    It steps all of its environments always, so those that are not active go on unseen (`can_idle` is False).
    Where it takes one seed only, that is the first environment's.
    """

    kind = "native"
    can_idle = False

    def __init__(self, spec: EnvironmentSpec, vector: Any, seeds: Sequence[np.random.SeedSequence]) -> None:
        super().__init__(spec.probe(), len(seeds))
        if (vector.single_observation_space, vector.single_action_space) != (
            self.observation_space,
            self.action_space,
        ):
            raise InvalidTypeError(
                f"environment {self.name!r}: expected a vector environment with the spaces of the plain one, "
                f"{self.observation_space} and {self.action_space}, "
                f"got {vector.single_observation_space} and {vector.single_action_space}"
            )
        self._vector = vector
        self._mode = autoreset_mode(vector)
        self._seeds: list[int] | None = [seed_of(seed) for seed in seeds]
        self._finals = self._empty()
        self._elapsed = 0

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Begins new episodes; the first reset is one of all environments, with their seeds."""
        if which is None or self._seeds is not None:
            self._show(self._call("reset", seed=self._take_seeds())[0])
        else:
            self._reset_some(which)
        self.final_observations = self.observations

    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Steps all environments, whichever are active."""
        batch, rewards, terminated, truncated, info = self._call("step", actions)
        self._show(batch)
        self.rewards[:] = rewards
        self.terminated[:] = terminated
        self.truncated[:] = truncated
        self.final_observations = self.observations
        ended = (self.terminated | self.truncated).nonzero()[0]
        if ended.size:
            self._end(ended, info)
        self._elapsed += 1

    def render(self) -> Any:
        """What environment 0 renders."""
        return self._vector.render()[0]

    def close(self) -> None:
        """Closes the vector environment."""
        self._vector.close()

    def _end(self, ended: NDArray[np.intp], info: dict[str, Any]) -> None:
        for final, shown in zip(self._finals, self.observations, strict=True):
            np.copyto(final, shown)
        self.final_observations = self._finals
        if self._mode != SAME_STEP:
            self._reset_some(ended)
            return
        for i in ended.tolist():
            parts = flatten(self.observation_space, pick(self.observation_space, info["final_obs"], i))
            for final, part in zip(self._finals, parts, strict=True):
                final[i] = part

    def _reset_some(self, which: NDArray[np.intp]) -> None:
        mask = np.zeros(self.num_envs, np.bool_)
        mask[which] = True
        batch, _ = self._call("reset", options={"reset_mask": mask})
        self._show(batch, which)

    def _take_seeds(self) -> Any:
        seeds, self._seeds = self._seeds, None
        inner = self._vector.unwrapped
        if seeds is None or hasattr(inner, "env_fns"):
            return seeds
        return np.array(seeds) if type(inner).__module__ == "ale_py.vector_env" else seeds[0]

    def _show(self, batch: Any, which: NDArray[np.intp] | slice = slice(None)) -> None:
        for leaf, shown, part in zip(
            self.leaves, self.observations, flatten(self.observation_space, batch), strict=True
        ):
            if np.shape(part) != shown.shape:
                error = ValueError(f"observation{leaf.name}: expected {shown.shape}, got {np.shape(part)}")
                raise failure(self._where("returned a wrong shape"), error) from error
            shown[which] = part[which]

    def _call(self, verb: str, *args: Any, **options: Any) -> Any:
        try:
            return getattr(self._vector, verb)(*args, **options)
        except Exception as error:
            raise failure(self._where(verb), error) from error

    def _where(self, verb: str) -> str:
        return f"environment {self.name!r}, one of {self.num_envs} in a batch, step {self._elapsed} of it: {verb}"
