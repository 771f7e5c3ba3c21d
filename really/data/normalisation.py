"""Normalisation of observations and rewards: what runners measure, how it is merged, what comes of it.

An observation becomes clip((x - mean) / sqrt(variance + 1e-8)), each number of a floating-point leaf by its own mean
and variance; leaves of integers stay as they are. A reward becomes clip(scale * r / sqrt(variance + 1e-8)) with the
variance of R_t = r_t + gamma * R_{t-1}, the discounted sum of the rewards of an agent's episode so far, as in
Stable-Baselines3's VecNormalize: R begins at 0 with every episode, whatever ended the last one. (gymnasium's
NormalizeReward does not begin anew after a time limit.) Rewards keep their sign: no mean is subtracted.

Statistics are float64, of each `state` and reward that a runner collected (rows that are dropped as stale or kept for
the next call included), new rows weighing no more than old ones. Those that a policy version acts with are frozen with
it, so that learner and policy see the same numbers; what is measured meanwhile takes effect with the next version.
Before anything was measured, mean is 0 and variance 1.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from really.data.moments import Floats, Moments, Statistics
from really.data.returns import running_returns
from really.data.schema import ColumnSpec, Spec
from really.errors import InvalidValueError, ModelError

log = logging.getLogger("really")

Leaves = Sequence[NDArray[Any]]
Forward = Callable[[Leaves], dict[str, NDArray[Any]]]

# The statistics of discounted returns are kept under the name of the column that they normalise.
REWARD = "reward"
# Values that are normalised at a time: their float64 copies stay in cache.
BLOCK_VALUES = 32_768


@dataclass(frozen=True)
class NormalisationOptions:
    """The manager's arguments of these names, checked; picklable. No clipping is infinity."""

    normalize_observations: bool
    observation_clip: float
    normalize_rewards: bool
    reward_scale: float
    reward_clip: tuple[float, float]

    @classmethod
    def of(cls, kwargs: Mapping[str, Any]) -> Self:
        """Those among the manager's arguments."""
        return cls(**{field.name: kwargs[field.name] for field in fields(cls)})

    @property
    def changes_rewards(self) -> bool:
        """Whether delivered rewards are other than the environment's."""
        return self.normalize_rewards or (self.reward_scale, *self.reward_clip) != (1.0, -np.inf, np.inf)

    @property
    def changes_anything(self) -> bool:
        """Whether delivered rows are other than the environment's."""
        return self.normalize_observations or self.changes_rewards

    def shapes(self, leaves: Spec) -> dict[str, tuple[int, ...]]:
        """Of what statistics are kept: column names, and the shape of a mean.

        Raises:
            InvalidValueError: observations are to be normalised, and none of their leaves is of floating point.
        """
        kept = {
            "state" + name: leaf.shape
            for name, leaf in leaves.items()
            if self.normalize_observations and _is_float(leaf)
        }
        if self.normalize_observations and not kept:
            got = ", ".join(f"'state{name}' of {leaf.dtype}" for name, leaf in leaves.items())
            raise InvalidValueError(
                f"normalize_observations: expected an observation space with floating-point numbers, got {got}; "
                f"integers and images are delivered as they are and belong to the model"
            )
        return kept | ({REWARD: ()} if self.normalize_rewards else {})


def _is_float(leaf: ColumnSpec) -> bool:
    return np.issubdtype(leaf.dtype, np.floating)


class Normalisation:
    """How one policy version sees observations, and what it delivers as rewards; never changed once made.

    Attributes:
        statistics: that it was made with.
    """

    def __init__(self, options: NormalisationOptions, leaves: Spec, statistics: Statistics) -> None:
        self.statistics = statistics
        self._leaves, self._clip = leaves, options.observation_clip
        kept = [statistics.get("state" + name) for name in leaves]
        self._scales = [None if moments is None else (moments.mean, moments.factor) for moments in kept]
        self._reward_factor = options.reward_scale * (statistics[REWARD].factor if REWARD in statistics else 1.0)
        self._reward_clip = options.reward_clip

    def observations(self, leaves: Leaves) -> list[NDArray[Any]]:
        """Normalised copies of the leaves `[..., *leaf.shape]`, in the leaves' dtypes; integers as they are."""
        return [
            values if scale is None else self._standardised(values, *scale).astype(leaf.dtype, copy=False)
            for values, leaf, scale in zip(leaves, self._leaves.values(), self._scales, strict=True)
        ]

    def normalise_columns(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Normalises `state` and `state_new` of every leaf in their place, to the same numbers as `observations`."""
        for name, scale in zip(self._leaves, self._scales, strict=True):
            for key in ("state" + name, "state_new" + name):
                if scale is not None:
                    self._normalise(columns[key], *scale)

    def rewards(self, rewards: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rewards `[row]` divided by the returns' deviation, then scaled, then clipped."""
        scaled = rewards * np.float64(self._reward_factor)
        return scaled.clip(*self._reward_clip).astype(np.float32)

    def before(self, forward: Forward) -> Forward:
        """`forward` for observations as environments show them."""
        if not any(self._scales):
            return forward
        return lambda leaves: forward(self.observations(leaves))

    def _normalise(self, rows: NDArray[Any], mean: Floats, factor: Floats) -> None:
        step = max(1, BLOCK_VALUES // max(1, mean.size))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            block[...] = self._standardised(block, mean, factor)

    def _standardised(self, values: NDArray[Any], mean: Floats, factor: Floats) -> Floats:
        # In float64: a float32 mean of 1000 would be off by a hundredth of a deviation of 0.003.
        work: Floats = np.subtract(values, mean, dtype=np.float64)
        work *= factor
        np.minimum(work, self._clip, out=work)
        np.maximum(work, -self._clip, out=work)
        return work


class Normaliser:
    """A runner's part: it normalises with what came with the weights, and measures for the versions to come.

    Attributes:
        names: columns that are measured, and hence have to be finite.
        measured: of the last rollout, `[agent, ...]` for each agent with rows in it, in their order.
    """

    def __init__(self, options: NormalisationOptions, leaves: Spec, num_envs: int, gamma: float) -> None:
        self._options, self._leaves, self._gamma = options, leaves, gamma
        self.names = tuple(options.shapes(leaves))
        self.measured: Statistics = {}
        self._returns = np.zeros(num_envs)

    def freeze(self, statistics: Statistics) -> Normalisation:
        """From now on, normalises with these."""
        self._current = Normalisation(self._options, self._leaves, statistics)
        return self._current

    def begin_episodes(self) -> None:
        """Says that all environments were reset."""
        self._returns[:] = 0.0

    def measure(self, flat: Mapping[str, NDArray[Any]], done: NDArray[np.bool_], lengths: NDArray[np.intp]) -> None:
        """Takes note of raw rows `[row, ...]`, of which each environment has `lengths` `[env]`, one after the other."""
        filled = lengths[lengths > 0]
        self.measured = {name: Moments.measure(flat[name], filled) for name in self.names if name != REWARD}
        if REWARD in self.names:
            found, self._returns = running_returns(flat[REWARD], done, lengths, self._returns, self._gamma)
            self.measured[REWARD] = Moments.measure(found, filled)

    def rewards(self, rewards: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rewards `[row]` as they are delivered."""
        return self._current.rewards(rewards)

    def normalise_columns(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Normalises the observations among the columns in their place."""
        self._current.normalise_columns(columns)


class RunningStatistics:
    """The driver's part: what all runners measured, merged when a policy version comes into being.

    Attributes:
        frozen: what the current version acts with.
    """

    def __init__(self, options: NormalisationOptions, leaves: Spec) -> None:
        self._shapes = options.shapes(leaves)
        self.frozen: Statistics = {name: Moments.none(shape) for name, shape in self._shapes.items()}
        self._measured: list[tuple[int, Statistics]] = []
        self._replaced = False
        # Chunks arrive in a thread of their own while the learner sets weights.
        self._changing = threading.Lock()

    @property
    def changed(self) -> bool:
        """Whether the next version will act with other statistics than this one."""
        return self._replaced or bool(self._measured)

    def add(self, number: int, measured: Statistics) -> None:
        """Takes in what a runner measured while it carried out order `number`."""
        if measured:
            with self._changing:
                self._measured.append((number, measured))

    def freeze(self) -> Statistics:
        """The statistics of a new version: of all that was taken in.

        Merged by order and agent, not as it arrived, so that a seeded run repeats to the bit.
        """
        with self._changing:
            measured = [part for _, part in sorted(self._measured, key=lambda pair: pair[0])]
            self.frozen = {
                name: Moments.merge([moments, *(part[name] for part in measured)])
                for name, moments in self.frozen.items()
            }
            self._measured, self._replaced = [], False
        return self.frozen

    def pending(self) -> Statistics:
        """What was taken in since the current version came into being, merged by order and agent."""
        with self._changing:
            measured = [part for _, part in sorted(self._measured, key=lambda pair: pair[0])]
        return {name: Moments.merge([part[name] for part in measured]) for name in self._shapes if measured}

    def check(self, saved: Statistics, where: str) -> None:
        """Refuses statistics that are not of what this manager normalises; those of rewards are not needed.

        Raises:
            ModelError: a model was saved with normalised observations and would be shown others, or other leaves.
        """
        own, got = ({n: s for n, s in shapes.items() if n != REWARD} for shapes in (self._shapes, _shapes_of(saved)))
        if got and own != got:
            needed = "" if own else "; make the manager with normalize_observations=True"
            raise ModelError(f"{where}: expected observations normalised as {own}, got a model for {got}{needed}")

    def replace(self, saved: Statistics) -> None:
        """Goes on from these, where the manager normalises with them; what was measured so far counts no more.

        What is not among them goes on as it is, and that is said.
        """
        if missing := self._shapes.keys() - saved.keys():
            log.warning("the model was saved without statistics of %s: those measured so far stay.", sorted(missing))
        if found := {name: moments for name, moments in saved.items() if name in self._shapes}:
            with self._changing:
                self.frozen = self.frozen | found
                self._measured, self._replaced = [], True

    def info(self) -> dict[str, Any]:
        """Number of rows, mean and variance that the current version normalises by, column by column."""
        found = {
            name: {"count": int(moments.count), "mean": moments.mean, "variance": moments.variance}
            for name, moments in self.frozen.items()
        }
        return {"normalization": found} if found else {}


def _shapes_of(statistics: Statistics) -> dict[str, tuple[int, ...]]:
    return {name: moments.mean.shape for name, moments in statistics.items()}
