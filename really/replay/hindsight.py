"""The sample unit of hindsight: goals become those that the episode reached (Andrychowicz et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from really._utils.checks import checked_number
from really.data.schema import ColumnSpec, Spec
from really.errors import InvalidTypeError, InvalidValueError, one_of
from really.replay._ring import Ring
from really.replay._trajectories import STRATEGIES, write_rows
from really.replay.columns import spec_of
from really.replay.trajectories import Trajectories, TrajectoryColumns, agent_columns, check_columns, shaped
from really.replay.units import Batch, SampleUnit

GoalFunction = Callable[[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]], Any]
"""Of achieved goals [n, ...], desired goals [n, ...] and columns [n, ...] of `info`; returns [n] numbers."""
GOAL_FUNCTIONS: dict[str, GoalFunction] = {}
"""Name -> function that gives rewards or terminations. Processes that open a buffer register the same names."""

REWARD, RELABELLED = "reward", "relabelled"
TERMINAL, TRUNCATED, NOT_DONE = "terminal", "truncated", "not_done"
MOST_GOALS = 1e6
PART_BITS = 53
"""Of the random numbers of `TrajectoryIndex.goal_rows`."""


class Hindsight(SampleUnit):
    """Transitions of which k in k + 1 get a goal that their episode reached, with the reward of that goal.

    Andrychowicz et al. 2017 (arXiv:1707.01495), section 3 and 4.5: a transition is stored with its own goal and k goals
    of the strategy. Here nothing is stored; each row of a batch draws whether it is relabelled, with probability
    k / (k + 1), and its goal. The goal is what was achieved after a step of the same episode and agent that is held:
    "future" draws that step from the row's own on, "episode" from all, and "final" takes the last one. Steps in later
    chunks count. An episode that has not ended yet has the steps that are held now.

    Relabelled rows get the goal in `desired` of `state` and `state_new`, and a new `reward`. With `terminated`, their
    `terminal` and `not_done` are computed anew; else they stay as they were put. `relabelled`, bool, tells which rows.

    Args:
        reward: the environment's `compute_reward(achieved, desired, info)`, or a function like it, which gets the
            arrays of all relabelled rows at once: `state_new`'s achieved goals, new goals, and {key: column} of `info`.
            A function is registered in `GOAL_FUNCTIONS` under its name; a name stands for the function there.
        k: goals for each transition, above 0.
        strategy: "future", "final" or "episode".
        terminated: likewise a function that tells where an episode terminates, bool or 0 and 1 [n].
        info: columns that the functions get.
        achieved, desired: columns of goals in observations `state`.
        agent: columns that tell agents apart; by default the column "agent", if there is one.
    """

    in_ring = False

    def __init__(
        self,
        reward: str | GoalFunction,
        k: SupportsFloat = 4,
        strategy: str = "future",
        terminated: str | GoalFunction | None = None,
        info: Sequence[str] = (),
        achieved: str = "state.achieved_goal",
        desired: str = "state.desired_goal",
        agent: str | Sequence[str] | None = None,
    ) -> None:
        if strategy not in STRATEGIES:
            raise InvalidValueError(one_of("strategy", strategy, STRATEGIES))
        self.k = checked_number("k", k, 0, MOST_GOALS)
        if self.k == 0:
            raise InvalidValueError(f"k: expected a number above 0, got {k!r}; without it no goal would be changed")
        self.reward, self.strategy = _name_of("reward", reward), strategy
        self.terminated = None if terminated is None else _name_of("terminated", terminated)
        if isinstance(info, str):
            raise InvalidTypeError(f"info: expected names of columns, got the one name {info!r}; write [{info!r}]")
        self._functions = {"reward": GOAL_FUNCTIONS[self.reward]}
        if self.terminated is not None:
            self._functions["terminated"] = GOAL_FUNCTIONS[self.terminated]
        self.info, self.achieved, self.desired = tuple(info), achieved, desired
        self.agent = agent_columns(agent)
        self._index: Trajectories | None = None

    def options(self) -> dict[str, Any]:
        """The arguments that make this unit again, functions by their names."""
        names = ("reward", "k", "strategy", "terminated", "achieved", "desired")
        agent = None if self.agent is None else list(self.agent)
        return {name: getattr(self, name) for name in names} | {"info": list(self.info), "agent": agent}

    @property
    def goals(self) -> tuple[str, str, str, str]:
        """The columns of goals: achieved and desired, then those of the next state."""
        return self.achieved, self.desired, _after(self.achieved), _after(self.desired)

    def check_keys(self, keys: Sequence[str]) -> None:
        """Raises InvalidValueError if a column is missing that tells where episodes end, or agents apart."""
        check_columns("hindsight", keys, self.agent)

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError if a column is missing, of another dtype or shape, or named as one that is added."""
        missing = [key for key in (*self.goals, REWARD, *self.info) if key not in spec]
        if missing:
            raise InvalidValueError(f"hindsight: expected the keys {missing}, got {list(spec)}")
        if len({spec[key] for key in self.goals}) > 1:
            kinds = ", ".join(f"{key} {spec[key][0]} of {list(spec[key][1])}" for key in self.goals)
            raise InvalidValueError(f"hindsight: expected goals of one dtype and shape, got {kinds}")
        if spec[REWARD].shape != ():
            raise InvalidValueError(
                f"hindsight: key {REWARD!r}: expected one number, got shape {list(spec[REWARD].shape)}"
            )
        if self.terminated is not None and TERMINAL not in spec and NOT_DONE not in spec:
            raise InvalidValueError(
                f"hindsight: expected {TERMINAL!r} or {NOT_DONE!r}, which `terminated` changes, got {list(spec)}"
            )
        if RELABELLED in spec:
            raise InvalidValueError(f"hindsight: expected no key {RELABELLED!r}, which batches add, got {list(spec)}")
        TrajectoryColumns.of(spec, what="hindsight", agent=self.agent)

    def prepare(self, ring: Ring) -> None:
        """Makes the index of the ring's trajectories."""
        self._index = Trajectories(ring, TrajectoryColumns.of(spec_of(ring), what="hindsight", agent=self.agent))

    def batch_spec(self, spec: Spec) -> Spec:
        """The columns and `relabelled`."""
        return spec | {RELABELLED: ColumnSpec(np.dtype(np.bool_))}

    def version(self) -> int:
        """As of `SampleUnit`, by the index of goals."""
        return 0 if self._index is None else self._index.version

    def take(self, ring: Ring, numbers: NDArray[np.int64]) -> Batch | None:
        """The transitions of these rows, some of them with other goals; None if a row is no longer held."""
        flat = np.ascontiguousarray(numbers).reshape(-1)
        batch = super().take(ring, flat)
        if batch is None:
            return None
        assert self._index is not None, "a ring is prepared before it is sampled"
        drawn = ring.draw_below(1 << PART_BITS, 2 * flat.size)
        chosen = self._index.goal_rows(flat, drawn, self.k, STRATEGIES[self.strategy])
        if chosen is None:
            return None
        changed, later, batch[RELABELLED] = chosen
        if changed.size:
            goals = ring.take_column(_after(self.achieved), later)
            if goals is None:
                return None
            self._relabel(batch, changed, goals)
        return shaped(batch, numbers.shape)

    def _relabel(self, batch: Batch, rows: NDArray[np.int64], goals: NDArray[Any]) -> None:
        info = {key: batch[key].take(rows, axis=0) for key in self.info}
        achieved = batch[_after(self.achieved)].take(rows, axis=0)
        rewards = self._values("reward", achieved, goals, info)
        write_rows(batch[REWARD], rows, _fitting_rewards(rewards, batch[REWARD].dtype, self.reward))
        for key in (self.desired, _after(self.desired)):
            write_rows(batch[key], rows, goals)
        if self.terminated is not None:
            _terminate(batch, rows, self._values("terminated", achieved, goals, info) != 0)

    def _values(
        self, what: str, achieved: NDArray[Any], goals: NDArray[Any], info: dict[str, NDArray[Any]]
    ) -> NDArray[Any]:
        """What a function gives for these goals, [n]."""
        values = np.asarray(self._functions[what](achieved, goals, info))
        if values.shape != (len(goals),) or values.dtype.kind not in "biuf":
            raise InvalidValueError(
                f"hindsight: expected {what}={getattr(self, what)!r} to give numbers of shape [{len(goals)}] for "
                f"{len(goals)} goals, got {values.dtype} of shape {list(values.shape)}; it gets all goals at once"
            )
        return values


def _fitting_rewards(rewards: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Rewards of the function `name` as this dtype; raises InvalidValueError if one does not fit. Floats may round."""
    if rewards.dtype == dtype:
        return rewards
    with np.errstate(over="ignore", invalid="ignore"):
        cast = rewards.astype(dtype)
    fits = np.isfinite(cast) | ~np.isfinite(rewards) if "float" in dtype.name else cast == rewards
    if not fits.all():
        raise InvalidValueError(
            f"hindsight: key {REWARD!r}: expected reward={name!r} to give values that fit {dtype}, got "
            f"{rewards.dtype} {rewards[~fits][0]}; put rewards of the function's dtype"
        )
    return cast


def _terminate(batch: Batch, rows: NDArray[np.int64], ends: NDArray[np.bool_]) -> None:
    """Sets `terminal` and `not_done` of these rows; a row that was truncated stays so.

    That is one with `truncated`, or one whose episode ended and did not terminate.
    """
    if NOT_DONE in batch:
        truncated = batch[TRUNCATED][rows] != 0 if TRUNCATED in batch else np.zeros(len(rows), np.bool_)
        if TERMINAL in batch:
            truncated |= (batch[NOT_DONE][rows] == 0) & (batch[TERMINAL][rows] == 0)
        batch[NOT_DONE][rows] = ~(ends | truncated)
    if TERMINAL in batch:
        batch[TERMINAL][rows] = ends


def _name_of(what: str, given: str | GoalFunction) -> str:
    """The name under which a function is registered; registers one that is given itself."""
    if isinstance(given, str):
        if given not in GOAL_FUNCTIONS:
            raise InvalidValueError(one_of(f"{what}: GOAL_FUNCTIONS", given, GOAL_FUNCTIONS))
        return given
    if not callable(given):
        raise InvalidTypeError(f"{what}: expected a function or a name of GOAL_FUNCTIONS, got {given!r}")
    name = f"{getattr(given, '__module__', '')}.{getattr(given, '__qualname__', type(given).__qualname__)}"
    if "<" not in name:
        GOAL_FUNCTIONS[name] = given  # of a cell that runs again, too; buffers that exist keep theirs
    elif GOAL_FUNCTIONS.setdefault(name, given) != given:
        raise InvalidValueError(
            f"{what}: expected one function of the name {name!r}, got another; register it in GOAL_FUNCTIONS under a "
            f"name of its own and give that"
        )
    return name


def _after(key: str) -> str:
    """The column of the next state that belongs to a column of the state."""
    name, dot, leaf = key.partition(".")
    return f"{name}_new{dot}{leaf}"
