"""walks: environments step at random, as runners step them: speed, ends of episodes, whether equal seeds agree."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.spaces import action_bounds, shape_of
from really.envs.batch import EnvironmentBatch
from really.envs.make import make_batch
from really.envs.spec import EnvironmentSpec
from really.errors import EnvironmentFailedError

AGENTS = 8


@dataclass
class Walk:
    """What a walk gave.

    Attributes:
        seconds: the time that the environments took to step.
        steps, terminated, truncated: of all environments together.
        rows: for each step the final observations, leaf by leaf, and the rewards; none if they are not to be kept.
    """

    seconds: float = 0.0
    steps: int = 0
    terminated: int = 0
    truncated: int = 0
    rows: list[tuple[NDArray[Any], ...]] = field(default_factory=list)


def walked(envs: EnvironmentBatch, steps: int, *, keeps_rows: bool = False) -> Walk:
    """Resets the environments and takes `steps` random steps in all of them together.

    Raises:
        EnvironmentFailedError: an environment raised, or returned what ends a run.
    """
    walk, rng = Walk(), np.random.default_rng(0)
    envs.action_space.seed(0)
    envs.reset()
    _check_observations(envs, envs.observations, "reset")
    for step in range(-(-steps // envs.num_envs)):
        actions = _random_actions(envs, rng, step)
        start = time.perf_counter()
        envs.step(actions)
        walk.seconds += time.perf_counter() - start
        walk.steps += envs.num_envs
        walk.terminated += int(envs.terminated.sum())
        walk.truncated += int((envs.truncated & ~envs.terminated).sum())
        if keeps_rows:
            walk.rows.append((*map(np.array, envs.final_observations), envs.rewards.copy()))
        for observations in (envs.final_observations, envs.observations):
            _check_observations(envs, observations, f"step {step}")
        if not np.isfinite(envs.rewards).all():
            raise EnvironmentFailedError(f"environment {envs.name!r}: expected finite rewards, got {envs.rewards}")
    return walk


def walked_twice(spec: EnvironmentSpec, steps: int) -> dict[str, Any]:
    """What two walks of the same seeds and actions tell of an environment."""
    seeds = np.random.SeedSequence(0).spawn(AGENTS)
    walks = []
    for _ in range(2):
        envs = make_batch(spec, seeds)
        try:
            walks.append(walked(envs, steps, keeps_rows=True))
        finally:
            envs.close()
    first, second = walks
    return {
        "batch": f"{envs.kind}, {AGENTS} environments",
        "columns": {f"state{name}": f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in envs.leaves.items()},
        "steps_per_second": first.steps / max(first.seconds, 1e-9),
        "terminated": first.terminated,
        "truncated": first.truncated,
        "same_seed_same_data": _agreement([f"state{name}" for name in envs.leaves] + ["reward"], first, second),
    }


def _agreement(names: list[str], first: Walk, second: Walk) -> str:
    """Whether the walks have the same rows: "yes", or "no" with the first value in which they differ."""
    for step, rows in enumerate(zip(first.rows, second.rows, strict=True)):
        for name, one, other in zip(names, *rows, strict=True):
            differs = one != other
            if differs.any():
                at = tuple(int(places[0]) for places in differs.nonzero())
                where = f"environment {at[0]}, step {step} of the walk"
                return f"no: {name}, {where}: expected {one[at]} from equal seeds and actions, got {other[at]}"
    return "yes"


def _random_actions(envs: EnvironmentBatch, rng: np.random.Generator, step: int) -> NDArray[Any]:
    """Actions `[env, ...]` that the environments allow."""
    if envs.masks is None:
        return np.stack([envs.action_space.sample() for _ in range(envs.num_envs)])
    everyone = np.arange(envs.num_envs)
    masks = envs.checked_masks(everyone, everyone.tolist(), step)
    parts = np.split(masks, np.cumsum(envs.masks.sizes)[:-1], axis=1)
    chosen = np.array([[rng.choice(np.flatnonzero(part[i])) for part in parts] for i in everyone])
    bounds = action_bounds(envs.action_space)
    assert bounds is not None, "only discrete actions have masks"
    actions: NDArray[Any] = bounds[0] + chosen.reshape(envs.num_envs, *shape_of(envs.action_space))
    return actions


def _check_observations(envs: EnvironmentBatch, observations: list[NDArray[Any]], where: str) -> None:
    """Raises EnvironmentFailedError for NaN, as a run does."""
    for name, values in zip(envs.leaves, observations, strict=True):
        bad = np.isnan(values)
        if bad.any():
            raise EnvironmentFailedError(
                f"environment {envs.name!r}, number {bad.nonzero()[0][0]} of the batch, {where} of the walk: "
                f"expected numbers in 'state{name}', got NaN"
            )
