"""Seeds: one entropy per manager, and a spawn key for every random stream derived from it.

The same entropy gives the same streams in any process, for any number of processes.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

# Streams of an agent. The spawn key is (agent, stream, restart of the runner). The generators that a process shares
# have the stream of its first agent.
ENVIRONMENT_STREAM, ACTION_STREAM, PROCESS_STREAM = 0, 1, 2
# Streams of the manager. The first number of the spawn key is the stream, which no agent's number can equal.
MODEL_STREAM, BUFFER_STREAM, AGENT_STREAM, EVALUATION_STREAM = (2**31 + stream for stream in range(4))


def agent_seed(entropy: int, agent: int, stream: int, restart: int = 0) -> np.random.SeedSequence:
    """The seed of one agent's stream, which does not depend on the process that runs the agent."""
    return np.random.SeedSequence(entropy, spawn_key=(agent, stream, restart))


def manager_seed(entropy: int, stream: int, *number: int) -> np.random.SeedSequence:
    """The seed of one of the manager's own streams; `number` tells apart several seeds of one stream."""
    return np.random.SeedSequence(entropy, spawn_key=(stream, *number))


class ProcessGenerators:
    """The generators of `random` and `numpy.random`, from which environments draw that have none of their own.

    All code in a process shares them, so only a runner with a process of its own may seed them.
    """

    def __init__(self, seed: np.random.SeedSequence) -> None:
        """Seeds both generators."""
        words = seed.generate_state(16)
        random.seed(words[:8].tobytes())
        np.random.seed(words[8:])  # noqa: NPY002 - environments draw from it
        self.forget()

    def forget(self) -> None:
        """Forgets what was drawn so far: `drawn` is False until something is drawn again."""
        self._state = _process_state()

    @property
    def drawn(self) -> bool:
        """Whether anything was drawn since the seeding or the last `forget`."""
        return self._state != _process_state()


def _process_state() -> tuple[Any, int, bytes]:
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - environments draw from it
    return random.getstate(), state["pos"], state["key"].tobytes()
