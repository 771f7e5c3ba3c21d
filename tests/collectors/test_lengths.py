"""No length of episode is over-represented: chi-square of delivered lengths against those of the environment.

Short episodes end first, so a collector that takes what ends first, or drops what ends last, delivers too many of them.
Collectors with such defects fail the same check.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from really import SampleManager
from really.collectors.demand import Demand, Part

LONGEST, LEAST_P = 12, 1e-6
# A short episode is as likely as all longer ones together at first; long ones are rare.
SHARES = np.array([8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]) / 32
CALLS, AGENTS, ROWS = 200, 6, 20


class Drawn(gymnasium.Env[Any, Any]):
    """Episodes whose lengths have the probabilities `SHARES`."""

    observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,), np.float32), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 1 + int(self.np_random.choice(LONGEST, p=SHARES))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


class Policy:
    """A policy with a weight, so that each call has other weights than the one before."""

    def __init__(self) -> None:
        self.weight = np.zeros(1, np.float32)

    def __call__(self, state: Any) -> Any:
        return {"q_values": np.zeros((len(state), 2), np.float32) + self.weight}

    def get_weights(self) -> Any:
        return [self.weight]

    def set_weights(self, weights: Any) -> None:
        (self.weight,) = weights


def lengths_of(data: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Lengths of the episodes in delivered rows, of which each agent's are whole."""
    return np.diff(np.flatnonzero(data["not_done"] == 0), prepend=-1)


def delivered(**options: Any) -> NDArray[np.int64]:
    """Lengths of all episodes that many calls deliver, each with new weights."""
    found = []
    how = {"action_sampling_type": "thompson", "seed": None, "use_ray": False} | options
    with SampleManager(Policy, Drawn, AGENTS, ROWS, **how) as manager:
        for call in range(CALLS):
            found.append(lengths_of(manager.get_data()))
            manager.set_agent([np.full(1, call + 1, np.float32)])
    return np.concatenate(found)


def check(lengths: NDArray[np.int64]) -> None:
    """Raises AssertionError if the lengths have not the environment's probabilities."""
    counts = np.bincount(lengths - 1, minlength=LONGEST)
    assert counts.sum() * SHARES.min() >= 20, "too few episodes to tell"
    p = stats.chisquare(counts, SHARES * counts.sum()).pvalue
    assert p >= LEAST_P, f"p = {p:.2g}; mean length {lengths.mean():.2f}, of the environment {mean_length():.2f}"


def mean_length() -> float:
    return float(SHARES @ np.arange(1, LONGEST + 1))


@pytest.mark.parametrize(
    "options",
    [
        {"num_episodes": 1},
        {"num_episodes": 1, "max_staleness": 0},
        {"num_episodes": 1, "max_staleness": 0, "remote_min_returns": AGENTS},
        {"num_episodes": 1, "returns": ["log_prob"], "seed": 0},
    ],
    ids=lambda options: ",".join(map(str, options)),
)
def test_delivered_episodes_have_the_lengths_of_the_environment(options: dict[str, Any]) -> None:
    check(delivered(**options))


@pytest.mark.usefixtures("ray_runtime")
@pytest.mark.parametrize("max_staleness", [0, None])
def test_several_processes_deliver_the_lengths_of_the_environment(max_staleness: int | None) -> None:
    check(delivered(use_ray=True, num_workers=2, num_episodes=1, max_staleness=max_staleness))


def test_steps_cut_no_episode_short() -> None:
    how = {"action_sampling_type": "thompson", "num_steps": 5, "max_staleness": 0, "use_ray": False}
    with SampleManager(Policy, Drawn, AGENTS, ROWS, **how) as manager:
        for call in range(CALLS):
            manager.get_data()
            manager.set_agent([np.full(1, call + 1, np.float32)])
        check(manager.episodes["length"])


def test_a_collector_that_takes_the_episodes_that_end_first_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_ended(self: Demand, parts: list[Part]) -> tuple[list[Part], list[Part]]:
        """Takes results in the order in which they end, and drops the others."""
        results = sorted(itertools.chain.from_iterable(map(singles, parts)), key=lambda result: result.rows)
        rows = np.cumsum([result.rows for result in results])
        return results[: 1 + np.searchsorted(rows, self.rows)], []

    monkeypatch.setattr(Demand, "fewest", first_ended)
    with pytest.raises(AssertionError, match="p = "):
        check(delivered(num_episodes=1, max_staleness=0, remote_min_returns=AGENTS))


def singles(part: Part) -> Iterator[Part]:
    """Each result of a part as a part of its own."""
    while part.count > 1:
        first, part = part.split(1)
        yield first
    yield part


def first_to_end(rng: np.random.Generator, awaited: int) -> Iterator[NDArray[np.int64]]:
    """The published code of this API: agents start at once, the first that end are taken, and all start anew."""
    for _ in range(CALLS):
        lengths = 1 + rng.choice(LONGEST, AGENTS, p=SHARES)
        yield np.sort(lengths)[:awaited]


def first_rows(rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Agents play episode after episode; those that go on when there are enough rows are dropped."""
    for _ in range(CALLS):
        ends = [np.cumsum(1 + rng.choice(LONGEST, ROWS, p=SHARES)) for _ in range(AGENTS)]
        yield np.concatenate([np.diff(end[end <= ROWS // AGENTS], prepend=0) for end in ends])


@pytest.mark.parametrize("defect", [lambda rng: first_to_end(rng, AGENTS - 2), first_rows])
def test_collectors_that_drop_what_has_not_ended_fail(defect: Any) -> None:
    with pytest.raises(AssertionError, match="p = "):
        check(np.concatenate(list(defect(np.random.default_rng(0)))))
    check(np.concatenate(list(first_to_end(np.random.default_rng(0), AGENTS))))
