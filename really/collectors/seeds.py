"""Seeds: one entropy per manager, and a spawn key for every random stream derived from it.

The same entropy gives the same streams in any process, for any number of processes.
"""

from __future__ import annotations

import numpy as np

# Streams of an agent. The spawn key is (agent, stream, restart of the runner).
ENVIRONMENT_STREAM, ACTION_STREAM = 0, 1
# Streams of the manager. The first number of the spawn key is the stream, which no agent's number can equal.
MODEL_STREAM, BUFFER_STREAM, AGENT_STREAM, EVALUATION_STREAM = (2**31 + stream for stream in range(4))


def agent_seed(entropy: int, agent: int, stream: int, restart: int = 0) -> np.random.SeedSequence:
    """The seed of one agent's stream, which does not depend on the process that runs the agent."""
    return np.random.SeedSequence(entropy, spawn_key=(agent, stream, restart))


def manager_seed(entropy: int, stream: int, *number: int) -> np.random.SeedSequence:
    """The seed of one of the manager's own streams; `number` tells apart several seeds of one stream."""
    return np.random.SeedSequence(entropy, spawn_key=(stream, *number))
