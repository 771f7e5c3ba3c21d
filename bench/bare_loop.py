"""The floor for runners: bare Python loops of environment and model, without manager, policy class or checks.

The loops of CartPole write five columns (`state`, `action`, `reward`, `state_new`, `terminal`); those of Pong and
HalfCheetah only step and act. Each loop is one process; `collecting.py` starts as many as `really` has runners.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from bench.models import actor, forward_of, pong_network, q_network

EPSILON = 0.1


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


def cartpole(steps: int, num_envs: int) -> Callable[[], None]:
    """One environment without gymnasium's wrappers, or several in gymnasium's native vector environment."""
    forward = forward_of(q_network(), "CartPole-v1", num_envs)
    return lambda: _plain_cartpole(forward, steps) if num_envs == 1 else _native_cartpole(forward, steps, num_envs)


def _plain_cartpole(forward: Any, steps: int) -> None:
    env = gymnasium.make("CartPole-v1", disable_env_checker=True).unwrapped
    rng = np.random.default_rng(0)
    states, actions, rewards, next_states, terminals = columns(steps, 1)
    random, choices = rng.random(steps), rng.integers(0, 2, steps)
    state, _ = env.reset(seed=0)
    elapsed = 0
    for at in range(steps):
        action = int(forward([state[None]])["q_values"].argmax()) if random[at] >= EPSILON else int(choices[at])
        states[at, 0] = state
        state, reward, terminated, _, _ = env.step(action)
        actions[at, 0], rewards[at, 0], next_states[at, 0], terminals[at, 0] = action, reward, state, terminated
        elapsed += 1
        if terminated or elapsed == 500:
            state, _ = env.reset()
            elapsed = 0


def _native_cartpole(forward: Any, steps: int, num_envs: int) -> None:
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


def pong(steps: int, num_envs: int) -> Callable[[], None]:
    """ale_py's native vector environment and the Nature CNN."""
    from ale_py.vector_env import AtariVectorEnv

    import really

    forward = forward_of(pong_network(), really.atari("pong"), num_envs)
    env = AtariVectorEnv("pong", num_envs=num_envs)
    observation, _ = env.reset(seed=0)

    def loop() -> None:
        shown = observation
        for _ in range(steps // num_envs):
            shown, _, _, _, _ = env.step(forward([shown])["q_values"].argmax(1))

    return loop


def halfcheetah(steps: int, num_envs: int) -> Callable[[], None]:
    """MuJoCo environments without gymnasium's wrappers, and a diagonal Gaussian policy."""
    forward = forward_of(actor(), "HalfCheetah-v5", num_envs)
    envs = [gymnasium.make("HalfCheetah-v5", disable_env_checker=True).unwrapped for _ in range(num_envs)]
    observations = np.stack([env.reset(seed=at)[0] for at, env in enumerate(envs)])
    rng = np.random.default_rng(0)

    def loop() -> None:
        for _ in range(steps // num_envs):
            outputs = forward([observations])
            actions = outputs["mu"] + outputs["sigma"] * rng.standard_normal((num_envs, 6))
            for at, env in enumerate(envs):
                observations[at] = env.step(np.clip(actions[at], -1, 1))[0]

    return loop


LOOPS = {"CartPole-v1": cartpole, "Pong": pong, "HalfCheetah-v5": halfcheetah}


def seconds(loop: Callable[[], None]) -> float:
    """Seconds of one round."""
    began = time.perf_counter()
    loop()
    return time.perf_counter() - began
