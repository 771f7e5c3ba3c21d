"""Normalisation of observations and rewards: the runner's part, the driver's statistics, and one version's factors.

An observation becomes clip((x - mean) / sqrt(variance + 1e-8)). Each number of a floating-point leaf has its own mean
and variance; integer leaves do not change. A reward becomes clip(scale * r / sqrt(variance + 1e-8)) with the
variance of R_t = r_t + gamma * R_{t-1}, the discounted sum of the rewards of an agent's episode so far, as in
Stable-Baselines3's VecNormalize: R starts at 0 with every episode, for any reason that ended the last one. (R of
gymnasium's NormalizeReward does not start again after a time limit.) Rewards keep their sign: no mean is subtracted.

Statistics are float64, over each `state` and reward that a runner collected, also over rows that are dropped as stale
or kept for the next call. New rows have the same weight as old ones. A policy version freezes its statistics, so that
learner and policy see the same numbers; new measurements take effect with the next version. Before the first
measurement the mean is 0 and the variance 1.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from really._utils._locks import Lock
from really.data.masks import KEY as MASK
from really.data.moments import Floats, Moments, Statistics
from really.data.returns import running_returns
from really.data.schema import ColumnSpec, Spec
from really.errors import InvalidValueError, ModelError

log = logging.getLogger("really")

Leaves = Sequence[NDArray[Any]]
Forward = Callable[[Leaves], Mapping[str, NDArray[Any]]]

# The statistics of discounted returns are kept under the name of the column that they normalise.
REWARD = "reward"
# Values that are normalised at a time: their float64 copies stay in cache.
BLOCK_VALUES = 32_768


@dataclass(frozen=True)
class NormalisationOptions:
    """The manager's arguments of these names, checked. Infinity means no clipping."""

    normalize_observations: bool
    observation_clip: float
    normalize_rewards: bool
    reward_scale: float
    reward_clip: tuple[float, float]

    @classmethod
    def of(cls, kwargs: Mapping[str, Any]) -> Self:
        """The options among the manager's arguments."""
        return cls(**{field.name: kwargs[field.name] for field in fields(cls)})

    @property
    def changes_rewards(self) -> bool:
        """Whether delivered rewards differ from those of the environment."""
        return self.normalize_rewards or (self.reward_scale, *self.reward_clip) != (1.0, -np.inf, np.inf)

    @property
    def changes_anything(self) -> bool:
        """Whether delivered rows differ from those of the environment."""
        return self.normalize_observations or self.changes_rewards

    def shapes(self, leaves: Spec) -> dict[str, tuple[int, ...]]:
        """Name of each measured column -> shape of its mean.

        Raises:
            InvalidValueError: observations are to be normalised, and no leaf has floating-point numbers.
        """
        kept = {
            "state" + name: leaf.shape
            for name, leaf in leaves.items()
            if self.normalize_observations and _is_float(leaf) and name.rpartition(".")[2] != MASK
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
    """The normalisation of one policy version. It never changes.

    Attributes:
        statistics: the statistics that it normalises with.
        clip: the largest absolute value of a normalised observation.
    """

    def __init__(self, options: NormalisationOptions, leaves: Spec, statistics: Statistics) -> None:
        self.statistics = statistics
        self._leaves, self.clip = leaves, options.observation_clip
        kept = [statistics.get("state" + name) for name in leaves]
        self._scales = [None if moments is None else (moments.mean, moments.factor) for moments in kept]
        self._reward_factor = options.reward_scale * (statistics[REWARD].factor if REWARD in statistics else 1.0)
        self._reward_clip = options.reward_clip

    def observations(self, leaves: Leaves) -> list[NDArray[Any]]:
        """Normalised copies of the leaves `[..., *leaf.shape]`, in the leaves' dtypes; integers do not change."""
        return [
            values if scale is None else self._standardised(values, *scale).astype(leaf.dtype, copy=False)
            for values, leaf, scale in zip(leaves, self._leaves.values(), self._scales, strict=True)
        ]

    def normalise_columns(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Normalises `state` and `state_new` of every leaf in place, to the same numbers as `observations`."""
        for name, scale in zip(self._leaves, self._scales, strict=True):
            for key in ("state" + name, "state_new" + name):
                if scale is not None:
                    self._normalise(columns[key], *scale)

    def rewards(self, rewards: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rewards `[row]`, divided by the deviation of the returns, then scaled, then clipped."""
        scaled = rewards * np.float64(self._reward_factor)
        return scaled.clip(*self._reward_clip).astype(np.float32)

    def before(self, forward: Forward) -> Forward:
        """`forward` for observations that are not normalised."""
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
        np.minimum(work, self.clip, out=work)
        np.maximum(work, -self.clip, out=work)
        return work


class Normaliser:
    """The runner's part: normalises with the statistics that came with the weights, and measures for later versions.

    Attributes:
        names: the measured columns. Their numbers must be finite.
        clips_rewards: whether delivered rewards have a lowest and a highest number.
        measured: moments of the last rollout, `[agent, ...]`, in the order of the agents that have rows in it.
    """

    def __init__(self, options: NormalisationOptions, leaves: Spec, num_envs: int, gamma: float) -> None:
        self._options, self._leaves, self._gamma = options, leaves, gamma
        self.names = tuple(options.shapes(leaves))
        self.clips_rewards = bool(np.isfinite(options.reward_clip).all())
        self.measured: Statistics = {}
        self._returns = np.zeros(num_envs)

    def freeze(self, statistics: Statistics) -> Normalisation:
        """Normalises with these statistics from now on."""
        self._current = Normalisation(self._options, self._leaves, statistics)
        return self._current

    def begin_episodes(self) -> None:
        """Starts the returns of all environments at 0, after a reset."""
        self._returns[:] = 0.0

    def measure(self, flat: Mapping[str, NDArray[Any]], done: NDArray[np.bool_], lengths: NDArray[np.intp]) -> None:
        """Measures raw rows `[row, ...]`, `lengths` `[env]` of each environment, one environment after the other."""
        filled = lengths[lengths > 0]
        self.measured = {name: Moments.measure(flat[name], filled) for name in self.names if name != REWARD}
        if REWARD in self.names:
            found, self._returns = running_returns(flat[REWARD], done, lengths, self._returns, self._gamma)
            self.measured[REWARD] = Moments.measure(found, filled)

    def rewards(self, rewards: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rewards `[row]` as the learner gets them."""
        return self._current.rewards(rewards)

    def normalise_columns(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Normalises the observations among the columns in place."""
        self._current.normalise_columns(columns)


class RunningStatistics:
    """The driver's part: the measurements of all runners, merged when a policy version is made.

    Attributes:
        frozen: the statistics of the current version.
    """

    def __init__(self, options: NormalisationOptions, leaves: Spec) -> None:
        self._shapes = options.shapes(leaves)
        self.frozen: Statistics = {name: Moments.none(shape) for name, shape in self._shapes.items()}
        self._measured: list[tuple[int, Statistics]] = []
        self._replaced = False
        # A thread of its own receives chunks while the learner sets weights.
        self._changing = Lock()

    @property
    def changed(self) -> bool:
        """Whether the next version will have other statistics than the current one."""
        return self._replaced or bool(self._measured)

    def add(self, number: int, measured: Statistics) -> None:
        """Adds what a runner measured during order `number`."""
        if measured:
            with self._changing:
                self._measured.append((number, measured))

    def freeze(self) -> Statistics:
        """The statistics of a new version, over all measurements so far.

        Merged by order and agent, not by arrival, so that a seeded run repeats to the bit.
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
        """The measurements since the current version was made, merged by order and agent."""
        with self._changing:
            measured = [part for _, part in sorted(self._measured, key=lambda pair: pair[0])]
        return {name: Moments.merge([part[name] for part in measured]) for name in self._shapes if measured}

    def check(self, saved: Statistics, where: str) -> None:
        """Checks that a model's statistics are of the observations that this manager normalises. Rewards do not matter.

        Raises:
            ModelError: the model was saved for normalised observations, and would get others, or other leaves.
        """
        own, got = ({n: s for n, s in shapes.items() if n != REWARD} for shapes in (self._shapes, _shapes_of(saved)))
        if got and own != got:
            needed = "" if own else "; make the manager with normalize_observations=True"
            raise ModelError(f"{where}: expected observations normalised as {own}, got a model for {got}{needed}")

    def replace(self, saved: Statistics) -> None:
        """Replaces the statistics of the columns that this manager normalises, and drops its measurements so far.

        Columns without saved statistics keep theirs, with a warning.
        """
        if missing := self._shapes.keys() - saved.keys():
            log.warning("the model was saved without statistics of %s: those measured so far stay.", sorted(missing))
        if found := {name: moments for name, moments in saved.items() if name in self._shapes}:
            with self._changing:
                self.frozen = self.frozen | found
                self._measured, self._replaced = [], True

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Sets all statistics back to what they are now if the block raises."""
        before = self.frozen, list(self._measured), self._replaced
        try:
            yield
        except BaseException:
            with self._changing:
                self.frozen, self._measured, self._replaced = before
            raise

    def info(self) -> dict[str, Any]:
        """Number of rows, mean and variance of each column, as the current version normalises it."""
        found = {
            name: {"count": int(moments.count), "mean": moments.mean, "variance": moments.variance}
            for name, moments in self.frozen.items()
        }
        return {"normalization": found} if found else {}


def _shapes_of(statistics: Statistics) -> dict[str, tuple[int, ...]]:
    return {name: moments.mean.shape for name, moments in statistics.items()}
