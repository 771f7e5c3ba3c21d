"""contract: what an environment returns beside what it declares, part by part.

gymnasium's checkers end at their first finding, take only environments of gymnasium, and tell no step and no value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really.cli.walks import walked
from really.data.spaces import dtype_of, flatten, leaf_spaces
from really.envs.environment import NO_LIMIT, Environment, SeenEnvironment
from really.envs.make import batch_of_instance
from really.envs.received import as_numbers
from really.envs.results import StepResult, fits
from really.envs.spec import EnvironmentSpec, Probe

PARTS = {
    "values_in_space": "really keeps the values",
    "declared_dtype": "really converts them to the declared dtype",
    "finite": "a run ends if the model's outputs are then not finite",
    "new_observations": "really copies each observation at once, as code of yours has to",
}
"""Parts of the contract for which each observation is looked at, and what happens with one that does not keep them."""


def contract(spec: EnvironmentSpec, steps: int) -> dict[str, str]:
    """What a walk of one instance tells: for each part of the contract "yes", or "no" with the first finding.

    Raises:
        EnvironmentFailedError: the environment raised, or returned what ends a run.
    """
    probe, instance = spec.probe(), spec.make()
    findings, limit = Findings(probe), TimeLimit(probe.max_episode_steps, instance.limit)
    envs = batch_of_instance(spec, np.random.SeedSequence(0), Observed(instance, findings, limit))
    try:
        walk = walked(envs, steps)
    finally:
        envs.close()
    ended = walk.terminated + walk.truncated
    return {
        **findings.told(),
        "time_limit": limit.told(steps),
        "suggestion": "num_episodes or num_steps" if ended else f"num_steps: no episode ended within {steps} steps",
    }


class Observed(SeenEnvironment):
    """An environment whose observations and ends of episodes are looked at, as it returns them."""

    def __init__(self, environment: Environment, findings: Findings, limit: TimeLimit) -> None:
        super().__init__(environment)
        self._findings, self._limit = findings, limit
        self._count, self._episode = 0, -1

    def see_start(self, observation: Any) -> None:
        """Looks at the first observation of an episode."""
        self._count, self._episode = 0, self._episode + 1
        self._findings.see(observation, f"reset of episode {self._episode}")

    def see_step(self, result: StepResult) -> None:
        """Looks at what a step returned."""
        self._findings.see(result[0], f"step {self._count} of episode {self._episode}")
        self._count += 1
        self._limit.see(self._count, is_truncated=bool(result[3]))


class Findings:
    """What observations of an environment tell of its contract."""

    def __init__(self, probe: Probe) -> None:
        self._space, self._declared = probe.seen_space, probe.declared_space
        self._leaves = leaf_spaces(probe.seen_space)
        self._fits = self._declared is not None and fits(self._declared, probe.observation)
        self._first: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._seen = 0
        # The observation before, and its values when it was returned.
        self._before: tuple[Any, list[NDArray[Any]]] | None = None

    def see(self, observation: Any, where: str) -> None:
        """Looks at what `reset` or `step` returned. What ends a run is left to the batch, which raises the error."""
        if not fits(self._space, observation):
            return
        self._seen += 1
        found: dict[str, str] = {}
        for part, text in self._found(observation):
            found.setdefault(part, f"{where}: {text}")
        self._counts.update(found.keys())
        self._first = found | self._first
        self._before = observation, [np.array(part) for part in flatten(self._space, observation)]

    def told(self) -> dict[str, str]:
        """For each part of the contract "yes", or "no" with the first finding."""
        told = {part: self._part(part) for part in PARTS}
        if not self._fits:
            why = "no space is declared"
            if self._declared is not None:
                why = "observations do not fit the declared space, as the warning tells"
            told |= dict.fromkeys(("values_in_space", "declared_dtype"), f"no: {why}; really takes {self._space}")
        return told

    def _part(self, part: str) -> str:
        if part not in self._first:
            return "yes"
        return f"no: {self._first[part]} ({self._counts[part]:,} of {self._seen:,} observations); {PARTS[part]}"

    def _found(self, observation: Any) -> Iterator[tuple[str, str]]:
        if self._is_overwritten():
            yield "new_observations", "expected a new observation, got the one before overwritten"
        for (name, leaf), part in zip(self._leaves.items(), flatten(self._space, observation), strict=True):
            values = as_numbers(name, part)
            for kind, expected, got in (*_dtype(leaf, part, values), *_outside(leaf, values)):
                yield kind, f"expected {expected} in 'state{name}', got {got}"

    def _is_overwritten(self) -> bool:
        if self._before is None:
            return False
        observation, values = self._before
        if not fits(self._space, observation):
            return True
        parts = flatten(self._space, observation)
        return not all(np.array_equal(*pair, equal_nan=True) for pair in zip(parts, values, strict=True))


class TimeLimit:
    """Whether an environment keeps the time limit that it declares, and who ends the episodes.

    Args:
        declared: the number of steps; None if it declares none.
        own: steps after which really truncates; NO_LIMIT if it does not.
    """

    def __init__(self, declared: int | None, own: int) -> None:
        self._declared, self._is_own = declared, own != NO_LIMIT
        self._longest, self._truncated_at = 0, 0

    def see(self, steps: int, is_truncated: bool) -> None:
        """Takes the number of steps of the episode so far, and whether the environment truncated it."""
        self._longest = max(self._longest, steps)
        if is_truncated and not self._truncated_at:
            self._truncated_at = steps

    def told(self, steps: int) -> str:
        """What a walk of `steps` steps has shown."""
        declared, truncated = self._declared, self._truncated_at
        seen = f"no episode in {steps:,} steps"
        if truncated:
            seen = f"an episode after {truncated:,} steps"
        if declared is None:
            return f"none is declared; the environment truncated {seen}"
        if self._is_own:
            return f"{declared:,} steps; really truncates episodes then"
        if self._longest > declared:
            expected = f"expected an end after {declared:,} steps, as declared"
            return f"no: {expected}, got an episode of {self._longest:,}; really does not truncate it"
        return f"{declared:,} steps are declared; the environment truncated {seen}"


def _dtype(leaf: spaces.Space[Any], part: Any, values: NDArray[Any]) -> Iterator[tuple[str, str, str]]:
    """What is another dtype than the declared one. Discrete spaces take integers of any dtype."""
    if not isinstance(leaf, spaces.Box):
        if values.dtype.kind == "f":
            yield "declared_dtype", "integers", str(values.dtype)
    elif values.shape and not isinstance(part, np.ndarray):
        yield "declared_dtype", f"an array of {leaf.dtype}", f"a {type(part).__name__}"
    elif values.dtype != leaf.dtype:
        yield "declared_dtype", str(leaf.dtype), str(values.dtype)


def _outside(leaf: spaces.Space[Any], values: NDArray[Any]) -> Iterator[tuple[str, str, str]]:
    """What is not finite, or outside the bounds of a Box. Other numbers than those of discrete spaces end a run."""
    if values.dtype.kind == "f" and np.isinf(values).any():
        yield "finite", "finite numbers", str(values[np.isinf(values)][0])
    if not isinstance(leaf, spaces.Box):
        return
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(dtype_of(leaf))
    outside = (values < leaf.low) | (values > leaf.high)
    if outside.any():
        at = tuple(int(places[0]) for places in outside.nonzero())
        yield "values_in_space", f"{leaf.low[at]} to {leaf.high[at]}", str(values[at])
