"""Messages between the driver and its runners, all picklable: the specification, the policy, orders and chunks.

The driver sends an `Order`, with an `ExportedPolicy` and `Weights` whenever these have changed. The runner answers
with a `Chunk` of whole results. A result is the unit in which an agent delivers: `num_steps` rows, or `num_episodes`
episodes, in time order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from really.collectors.episodes import ENDED, Records
from really.data.moments import Statistics
from really.data.normalisation import NormalisationOptions
from really.envs.spec import EnvironmentSpec

if TYPE_CHECKING:
    from really.data.record_batches import RecordBatch
    from really.policies.inference import Exported


# A result in a chunk: its agent, its rows, and the policy version with which they were collected.
RESULT = np.dtype([("agent", np.int32), ("rows", np.int64), ("version", np.int64)])


@dataclass(frozen=True)
class RunnerSpec:
    """The specification from which every runner of a manager is made.

    Attributes:
        environment: the environment that each agent steps.
        returns: the extra columns that runners deliver.
        num_steps: rows of a result; None if a result has whole episodes.
        num_episodes: episodes of a result; None if a result has `num_steps` rows.
        gamma: discount of `monte_carlo` and `advantage`.
        gae_lambda: lambda of `advantage`.
        entropy: the number from which all random streams are derived.
        normalisation: how observations and rewards are normalised, scaled and clipped.
        vector: whether an environment's own vector implementation is used: "auto", "plain" or "native".
        total_steps: rows that a call of the manager asks for; an episode of many times more is taken for endless.
        recurrent_state_every: a row in so many has a recurrent state of its own.
        runners: number of runners that may share this machine's memory.
        message_bytes: limit on the bytes of one chunk; a larger result comes in several.
        seeded: whether the entropy comes from the user's `seed`, so that the data should repeat.
        max_runner_memory: bytes that a runner's process may hold before another one replaces it.
    """

    environment: EnvironmentSpec
    returns: tuple[str, ...]
    num_steps: int | None
    num_episodes: int | None
    gamma: float
    gae_lambda: float
    entropy: int
    normalisation: NormalisationOptions
    vector: str = "auto"
    total_steps: int = 1
    recurrent_state_every: int = 1
    runners: int = 1
    message_bytes: float = math.inf
    seeded: bool = False
    max_runner_memory: float = math.inf


@dataclass(frozen=True)
class ExportedPolicy:
    """The exported model and the way in which actions are sampled from its outputs.

    `value_output` is the name of the output that holds state values, or None if the model has no such output.
    """

    exported: Exported
    sampling_type: str
    value_output: str | None


@dataclass(frozen=True)
class Weights:
    """One policy version: the model's weights, and the normalisation statistics that were frozen with them."""

    arrays: list[NDArray[Any]]
    statistics: Statistics


@dataclass(frozen=True)
class PolicySettings:
    """The sampling parameters of a policy, which may change between two calls without new weights."""

    epsilon: float
    temperature: float

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Reads the current values from the manager's settings."""
        return cls(settings["epsilon"], settings["temperature"])


@dataclass(frozen=True)
class Order:
    """How many results each agent of a runner collects, in the order of the runner's agents, and with which settings.

    Attributes:
        results: how many each agent collects.
        settings: how they act.
        version: the policy version to act with.
        number: the order's number among all orders of the fleet. It sets these three when it sends the order.
        oldest: number of the runner's oldest order whose rows the driver may still request.
    """

    results: tuple[int, ...]
    settings: PolicySettings
    version: int = -1
    number: int = 0
    oldest: int = 0


@dataclass(frozen=True)
class Chunk:
    """One message from a runner: rows of whole results, agent by agent, and the seconds that collecting them took.

    Attributes:
        batch: the rows.
        results: the results, in the order of their rows, as records `[result]` of `RESULT`.
        seconds: how long the runner worked on them.
        more: whether rows are left over, which come with the next message.
        measured: with normalisation, statistics `[agent, ...]` of the rows before they were normalised.
        process_draws: whether environments draw from the generators that their process shares.
        episodes: the episodes that ended in the rows, `[episode]` of `ENDED`.
        memory: bytes that the runner's process holds for itself, or 0 if that is the driver's process.
    """

    batch: RecordBatch
    results: Records
    seconds: float
    more: bool = False
    measured: Statistics = field(default_factory=dict)
    process_draws: bool = False
    episodes: Records = field(default_factory=lambda: np.empty(0, ENDED))
    memory: int = 0


def results_of(agents: ArrayLike, rows: ArrayLike, version: int) -> Records:
    """Results of these agents, which have `rows` rows each and were collected with one policy version."""
    results = np.empty(np.size(rows), RESULT)
    results["agent"], results["rows"], results["version"] = agents, rows, version
    return results
