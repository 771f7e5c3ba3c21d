"""Claim: collecting with an LSTM of 128 at 8 agents keeps 70 % of a bare loop of the same model and environments.

`python -m bench.recurrent`. Both run in one process without Ray, each in a fresh one, in turn, and CPU time is what is
compared: it hardly depends on what else the machine does. The bare loop has the same exported model, resets states
where episodes end, and writes the same columns, the states included.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from bench.bare_loop import EPSILON, columns

AGENTS, HIDDEN, STEPS = 8, 128, 40_000
LEAVES = ("recurrent_state.0", "recurrent_state.1")


def lstm() -> Any:
    """Q-values of CartPole by an LSTM."""
    import keras

    class Recurrent(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.q = keras.layers.LSTM(HIDDEN, return_state=True), keras.layers.Dense(2)

        def call(self, observation: Any, recurrent_state: Any = None) -> dict[str, Any]:
            hidden, *state = self.core(observation[:, None], initial_state=recurrent_state)
            return {"q_values": self.q(hidden), "recurrent_state": state}

    return Recurrent


def ours(stored: bool) -> float:
    """CPU seconds per row of `get_data()` after a first call, with the states as columns or without them."""
    import really

    options = {"num_steps": 128, "action_sampling_type": "epsilon_greedy", "epsilon": EPSILON, "use_ray": False}
    returns = ["recurrent_state"] if stored else []
    with really.SampleManager(lstm(), "CartPole-v1", AGENTS, STEPS, returns=returns, seed=0, **options) as manager:
        manager.get_data()
        began = time.process_time()
        rows = len(manager.get_data()["reward"])
        return (time.process_time() - began) / rows


def bare(stored: bool) -> float:
    """CPU seconds per row of the loop that somebody would write."""
    import gymnasium

    forward = exported()
    env = gymnasium.make_vec("CartPole-v1", AGENTS, vectorization_mode="vector_entry_point")
    run(env, forward, STEPS // 4, stored)
    began = time.process_time()
    run(env, forward, STEPS, stored)
    return (time.process_time() - began) / STEPS


def exported() -> Any:
    """The forward pass that a runner uses for this model."""
    import really
    from really.agents.frameworks.protocol import ExportRequest
    from really.agents.models import ModelBuilder
    from really.policies.inference import load

    options = {"num_steps": 128, "action_sampling_type": "epsilon_greedy", "use_ray": False}
    with really.SampleManager(lstm(), "CartPole-v1", AGENTS, AGENTS, seed=0, **options) as manager:
        agent = manager.get_agent()
        space = agent.observation_space
        build = ModelBuilder(lstm(), {}, None, space, agent.model, agent.framework.name, agent.recurrent)
        names = ["q_values", *agent.recurrent.names]
        request = ExportRequest(agent.input_space, AGENTS, build, True, agent.forms, names)
        forward = load(agent.framework.export(agent.model, request), AGENTS)
        forward.set_weights(agent.get_weights())
        return forward


def run(env: Any, forward: Any, steps: int, stored: bool) -> None:
    """Steps all environments `steps / AGENTS` times."""
    rng, times = np.random.default_rng(0), steps // AGENTS
    states, actions, rewards, next_states, terminals = columns(times, AGENTS)
    memory = [np.zeros((AGENTS, HIDDEN), np.float32) for _ in LEAVES]
    kept = [np.empty((times, AGENTS, HIDDEN), np.float32) for _ in LEAVES if stored]
    state, _ = env.reset(seed=0)
    for at in range(times):
        for column, leaf in zip(kept, memory, strict=False):
            column[at] = leaf
        outputs = forward([state, *memory])
        action = outputs["q_values"].argmax(1)
        explore = rng.random(AGENTS) < EPSILON
        action[explore] = rng.integers(0, 2, int(explore.sum()))
        states[at], actions[at] = state, action
        state, rewards[at], terminals[at], truncated, _ = env.step(action)
        next_states[at] = state
        memory = [np.array(outputs[leaf]) for leaf in LEAVES]
        ended = (terminals[at] > 0) | truncated
        for leaf in memory:
            leaf[ended] = 0


def main() -> None:
    """Prints medians of the rows per CPU second, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("WHO", "STORED"))
    asked = parser.parse_args()
    if asked.one:
        print({"ours": ours, "bare": bare}[asked.one[0]](asked.one[1] == "stored"))
        return
    for stored in ("stored", "left"):
        found: dict[str, list[float]] = {"ours": [], "bare": []}
        for at in range(asked.rounds):
            for who in ("ours", "bare") if at % 2 else ("bare", "ours"):
                command = [sys.executable, "-m", "bench.recurrent", "--one", who, stored]
                said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
                found[who].append(float(said.split()[-1]))
        mine, loop = (statistics.median(found[who]) for who in ("ours", "bare"))
        print(
            f"states {stored}: ours {1 / mine:,.0f}, bare loop {1 / loop:,.0f} rows/CPU s: {loop / mine:.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
