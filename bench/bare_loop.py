"""The floor that runners are held against: a bare Python loop of CartPole step, LiteRT pass, epsilon-greedy, columns.

No manager, no policy class, no checks: what is left is the environment, the model and the writing of five columns
(`state`, `action`, `reward`, `state_new`, `terminal`). One process; `python -m bench.bare_loop N` prints steps/s.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import gymnasium
import numpy as np

EPSILON = 0.1


def q_network(batch_size: int) -> Any:
    """A 64-64 MLP as LiteRT runs it in a runner."""
    import keras

    from really.environments import EnvironmentSpec
    from really.export import export
    from really.inference import Source, load

    layers = [keras.Input((4,)), *(keras.layers.Dense(64, activation="relu") for _ in range(2))]
    x = layers[0]
    for layer in layers[1:]:
        x = layer(x)
    model = keras.Model(layers[0], {"q_values": keras.layers.Dense(2)(x)})
    space = EnvironmentSpec("CartPole-v1").probe().observation_space
    forward = load(export(model, space, batch_size, Source(lambda: model, {}, None, space)), batch_size)
    forward.set_weights(model.get_weights())
    return forward


def columns(rows: int, num_envs: int) -> tuple[np.ndarray, ...]:
    """The five columns, `[time, env, ...]`."""
    narrow = (rows, num_envs)
    return (
        np.empty((*narrow, 4), np.float32),
        np.empty(narrow, np.int64),
        np.empty(narrow, np.float32),
        np.empty((*narrow, 4), np.float32),
        np.empty(narrow, np.float32),
    )


def plain(forward: Any, steps: int) -> None:
    """One environment, freed of gymnasium's wrappers."""
    env = gymnasium.make("CartPole-v1", disable_env_checker=True).unwrapped
    rng = np.random.default_rng(0)
    states, actions, rewards, next_states, terminals = columns(steps, 1)
    random, choices = rng.random(steps), rng.integers(0, 2, steps)
    state, _ = env.reset(seed=0)
    elapsed, batch = 0, state[None]
    for at in range(steps):
        action = int(forward([batch])["q_values"].argmax()) if random[at] >= EPSILON else int(choices[at])
        states[at, 0] = state
        state, reward, terminated, _, _ = env.step(action)
        actions[at, 0], rewards[at, 0], next_states[at, 0], terminals[at, 0] = action, reward, state, terminated
        elapsed += 1
        if terminated or elapsed == 500:
            state, _ = env.reset()
            elapsed = 0
        batch = state[None]


def native(forward: Any, steps: int, num_envs: int) -> None:
    """gymnasium's native vector environment, all columns at once."""
    env = gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="vector_entry_point")
    rng = np.random.default_rng(0)
    times = steps // num_envs
    states, actions, rewards, next_states, terminals = columns(times, num_envs)
    state, _ = env.reset(seed=0)
    for at in range(times):
        action = forward([state])["q_values"].argmax(1)
        explore = rng.random(num_envs) < EPSILON
        action[explore] = rng.integers(0, 2, int(explore.sum()))
        states[at], actions[at] = state, action
        state, rewards[at], terminals[at], _, _ = env.step(action)
        next_states[at] = state


def steps_per_second(num_envs: int, steps: int = 20_000, rounds: int = 3) -> float:
    """The best of a few rounds."""
    forward = q_network(num_envs)
    best = np.inf
    for _ in range(rounds):
        began = time.perf_counter()
        plain(forward, steps) if num_envs == 1 else native(forward, steps, num_envs)
        best = min(best, time.perf_counter() - began)
    return steps // num_envs * num_envs / best


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or ["1", "4", "8", "32", "64"]):
        print(f"{number:4d} environments: {steps_per_second(number):10,.0f} steps/s")
