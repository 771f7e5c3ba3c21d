"""Batches of native vector environments: CartPole, with the transitions of plain instances, and any other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils._step import convert
from really._utils.interrupts import ends_program
from really.data.spaces import flatten, leaf_spaces
from really.envs.batch import EnvironmentBatch, seed_of
from really.envs.environment import closing_errors_as_warnings, failure, logged_warnings
from really.envs.received import converted
from really.envs.sources import IdSource, gymnasium_spec
from really.envs.spec import EnvironmentSpec
from really.envs.vector_api import DISABLED, SAME_STEP, autoreset_mode, final_observation, no_final_observation
from really.errors import EnvironmentFailedError, InvalidTypeError

CARTPOLE = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
CARTPOLE_VECTOR = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
CARTPOLE_ARGUMENTS = {"max_episode_steps", "sutton_barto_reward"}
# Number of start states that an environment draws at once; drawing each on its own costs 2 us more.
STARTS = 64


def is_classic_cartpole(spec: EnvironmentSpec) -> bool:
    """Whether this is gymnasium's own CartPole, with arguments that both its plain and its vector form accept."""
    if not isinstance(spec.source, IdSource):
        return False
    registered = _registered(spec.source)
    return (
        (registered.entry_point, registered.vector_entry_point) == (CARTPOLE, CARTPOLE_VECTOR)
        and not registered.additional_wrappers
        and set(registered.kwargs) | set(spec.env_config) <= CARTPOLE_ARGUMENTS
    )


def _registered(source: IdSource) -> Any:
    """What gymnasium's registry has of this id."""
    with logged_warnings():
        return gymnasium_spec(source.name)


class CartPoleBatch(EnvironmentBatch):
    """gymnasium's native CartPole, in which each environment resets from its own random stream.

    Its dynamics equal those of the plain environment bit for bit. Its resets draw from one generator for all
    environments and happen a step late. So this class resets by itself, on the public `state` and `steps`: the same
    seeds give the same transitions as plain instances.
    """

    kind = "native"

    def __init__(self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence]) -> None:
        from gymnasium.utils import seeding

        assert isinstance(spec.source, IdSource), "it is the classic CartPole"
        probe = spec.probe()
        super().__init__(probe, len(seeds))
        options: dict[str, Any] = {**_registered(spec.source).kwargs, **spec.env_config}
        options["max_episode_steps"] = probe.max_episode_steps or np.iinfo(np.int32).max
        self._vector = _vector_cartpole(self.num_envs, options)
        self._rngs = [seeding.np_random(seed_of(seed))[0] for seed in seeds]
        self._starts = np.empty((self.num_envs, STARTS, 4))
        self._next_start = np.full(self.num_envs, STARTS)
        self._all = np.arange(self.num_envs)

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Starts new episodes, each at the next start state of its environment's stream."""
        self._begin(self._all if which is None else which)
        self.final_observations = self.observations

    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Steps all environments at once, and restores those that are not active."""
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
        """Returns None: `make_batch` makes plain instances if something is to be rendered."""
        return None

    def close(self) -> None:
        """Closes the vector environment."""
        self._vector.close()

    def _begin(self, which: NDArray[np.intp]) -> None:
        for i in which[self._next_start[which] == STARTS].tolist():
            # Like CartPole's reset, which draws four numbers for an episode from its own generator.
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
    # Every action comes from the policy, and the vector environment never resets by itself.
    for name, value in (("action_space", _AnyAction()), ("np_random", _NoDraws())):
        setattr(vector, name, value)
    return vector


class _AnyAction:
    """Replaces the action space in the vector environment's check of its actions."""

    def contains(self, action: object) -> bool:
        """Returns True: policies give valid actions, and the check costs as much as the dynamics."""
        return True


class _NoDraws:
    """Replaces the generator from which the vector environment would reset environments; it resets none."""

    def uniform(self, low: float, high: float, size: tuple[int, int]) -> NDArray[np.float64]:
        """An empty array of the given size, `[4, 0]`."""
        return np.empty(size)


def can_reset_some(vector: Any) -> bool:
    """Whether `vector` can reset some of its environments alone: in mode SameStep, or with `reset_mask`."""
    return autoreset_mode(vector) in (SAME_STEP, DISABLED) or _takes_reset_mask(vector)


def _takes_reset_mask(vector: Any) -> bool:
    """Whether this is one of the vector environments that are known to reset only those that `reset_mask` names."""
    return _has_workers(vector) or _is_inside(vector, "SyncVectorEnv")


def _has_workers(vector: Any) -> bool:
    """Whether `vector` steps in other processes or threads, which an interrupt leaves in the middle of a step."""
    return _is_inside(vector, "AsyncVectorEnv") or type(vector.unwrapped).__module__ == "ale_py.vector_env"


def _is_inside(vector: Any, kind: str) -> bool:
    import gymnasium.vector

    return isinstance(vector.unwrapped, getattr(gymnasium.vector, kind))


class VectorBatch(EnvironmentBatch):
    """Any gymnasium vector environment for which `can_reset_some` is true, in each of the autoreset modes.

    It always steps all of its environments, so inactive ones continue unseen (`can_idle` is False). If it takes only
    one seed, it gets that of the first environment.

    Args:
        spec: the environment.
        vector: the vector environment.
        seeds: one for each environment.
        make: makes `vector` anew if its processes were interrupted in the middle of a step.
    """

    kind = "native"
    can_idle = False

    def __init__(
        self, spec: EnvironmentSpec, vector: Any, seeds: Sequence[np.random.SeedSequence], make: Callable[[], Any]
    ) -> None:
        probe = spec.probe()
        super().__init__(probe, len(seeds))
        declared = probe.declared_space, self.action_space
        if (vector.single_observation_space, vector.single_action_space) != declared:
            raise InvalidTypeError(
                f"environment {self.name!r}: expected a vector environment with the spaces of the plain one, "
                f"{declared[0]} and {declared[1]}, "
                f"got {vector.single_observation_space} and {vector.single_action_space}"
            )
        self._vector, self._make, self._seeds = vector, make, seeds
        self._mode = autoreset_mode(vector)
        self._takes_reset_mask = _takes_reset_mask(vector)
        self._is_seeded = self._is_broken = False
        self._leaf_spaces = leaf_spaces(self.observation_space)
        self._finals = self._empty()
        self._elapsed = 0

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Starts new episodes; the first call resets all environments, with their seeds."""
        if self._is_broken:
            self._replace()
        if which is None or not self._is_seeded:
            self._show(self._call("reset", seed=None if self._is_seeded else self._first_seeds())[0])
            self._is_seeded = True
        else:
            self._reset_some(which)
        self.final_observations = self.observations

    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Steps all environments, the inactive ones too."""
        batch, rewards, terminated, truncated, info = self._call("step", actions)
        self._show(batch)
        for name, shown, got in (
            ("reward", self.rewards, rewards),
            ("terminated", self.terminated, terminated),
            ("truncated", self.truncated, truncated),
        ):
            if np.shape(got) != shown.shape:
                raise self._wrong_shape(name, shown.shape, got)
            convert(shown, got)
        self.final_observations = self.observations
        ended = (self.terminated | self.truncated).nonzero()[0]
        if ended.size:
            self._end(ended, info)
        self._elapsed += 1

    def render(self) -> Any:
        """Renders environment 0."""
        return self._vector.render()[0]

    def close(self) -> None:
        """Closes the vector environment."""
        if self._is_broken:
            _kill(self._vector)
        else:
            with closing_errors_as_warnings(self.name):
                self._vector.close()

    def _end(self, ended: NDArray[np.intp], info: Any) -> None:
        for final, shown in zip(self._finals, self.observations, strict=True):
            np.copyto(final, shown)
        self.final_observations = self._finals
        for i in ended.tolist():
            last = final_observation(self.observation_space, info, i)
            if last is not None:
                for final, part in zip(self._finals, self._converted(last), strict=True):
                    final[i] = part
            elif self._mode == SAME_STEP:
                raise EnvironmentFailedError(f"{self._where('step')}: {no_final_observation(declared=True)}")
        if self._mode != SAME_STEP:
            self._reset_some(ended)

    def _reset_some(self, which: NDArray[np.intp]) -> None:
        mask = np.zeros(self.num_envs, np.bool_)
        mask[which] = True
        batch, _ = self._call("reset", options={"reset_mask": mask})
        if not (self._takes_reset_mask or mask.all()):
            self._check_others_continue(batch, ~mask)
        self._show(batch, which)

    def _check_others_continue(self, batch: Any, others: NDArray[np.bool_]) -> None:
        """Raises EnvironmentFailedError if a reset of some environments has changed the others too."""
        for shown, part in zip(self.observations, flatten(self.observation_space, batch), strict=True):
            if not np.array_equal(shown[others], np.asarray(part)[others]):
                raise EnvironmentFailedError(
                    f"{self._where('reset')}: expected options['reset_mask'] to reset some environments and to leave "
                    f"the others as they were, got other observations of those too; vector='plain' makes a vector "
                    f"environment of size one for each"
                )

    def _first_seeds(self) -> Any:
        """The environments' seeds, as `reset` of this vector environment takes them."""
        seeds, inner = [seed_of(seed) for seed in self._seeds], self._vector.unwrapped
        if hasattr(inner, "env_fns"):
            return seeds
        return np.array(seeds) if type(inner).__module__ == "ale_py.vector_env" else seeds[0]

    def _show(self, batch: Any, which: NDArray[np.intp] | slice = slice(None)) -> None:
        for name, shown, part in zip(self.leaves, self.observations, self._converted(batch), strict=True):
            if part.shape != shown.shape:
                raise self._wrong_shape(f"observation{name}", shown.shape, part)
            shown[which] = part[which]

    def _converted(self, batch: Any) -> list[NDArray[Any]]:
        """The leaves of observations in the declared dtypes."""
        parts = flatten(self.observation_space, batch)
        try:
            return [converted(*leaf, part) for leaf, part in zip(self._leaf_spaces.items(), parts, strict=True)]
        except (TypeError, ValueError) as error:
            raise failure(self._where("returned"), error) from error

    def _call(self, verb: str, *args: Any, **options: Any) -> Any:
        try:
            return getattr(self._vector, verb)(*args, **options)
        except BaseException as error:
            self._is_broken = _has_workers(self._vector)
            if ends_program(error):
                raise
            raise failure(self._where(verb), error) from error

    def _replace(self) -> None:
        """Makes the vector environment anew, with other seeds, since its processes are in the middle of a step."""
        _kill(self._vector)
        self._vector, self._seeds = self._make(), [seed.spawn(1)[0] for seed in self._seeds]
        self._is_seeded = self._is_broken = False

    def _wrong_shape(self, name: str, expected: tuple[int, ...], got: Any) -> Exception:
        error = ValueError(f"{name}: expected {expected}, got {np.shape(got)}")
        return failure(self._where("returned a wrong shape"), error)

    def _where(self, verb: str) -> str:
        return f"environment {self.name!r}, one of {self.num_envs} in a batch, step {self._elapsed} of it: {verb}"


def _kill(vector: Any) -> None:
    """Ends a vector environment that is in the middle of a step: its `close` would wait for the step."""
    inner = vector.unwrapped
    for process in getattr(inner, "processes", ()):
        process.terminate()
        process.join()
    if hasattr(inner, "processes"):
        inner.closed = True
    else:
        with contextlib.suppress(Exception):
            vector.close()
