"""Sequences and hindsight of this package against those of others: `python -m bench.units peers`.

Each row is the CPU time of this process for a batch, as a median of turns, and the ratio to ours. A package that is not
installed has no row.

- 64 sequences of 80 narrow steps: torchrl's SliceSampler, with its cache of trajectories, flashbax's trajectory
  buffer, compiled, and rlox's SequenceReplayBuffer;
- 256 rows with goals of 10 dimensions, of which 4 in 5 are relabelled with the strategy `future`: HerReplayBuffer of
  Stable-Baselines3, and HindsightReplayBuffer of cpprb, which relabels when an episode ends.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from time import process_time
from typing import Any

import gymnasium
import numpy as np

from bench.clocks import medians
from really import ReplayBuffer
from really.replay import Hindsight

Call = Callable[[], Any]
NUM, GOAL, EPISODE, ROWS = 20_000, 10, 50, 256
LENGTH, WINDOWS = 80, 64
ROUNDS, SECONDS = 20, 0.02


def process_seconds(calls: dict[str, Call]) -> dict[str, float]:
    """CPU seconds of the process for each call, whose library may have threads: medians over rounds of turns."""
    return medians(calls, process_time, ROUNDS, SECONDS)


def torchrl_sequences(rows: dict[str, Any]) -> Call:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

    num = len(rows["terminal"])
    sampler = SliceSampler(num_slices=WINDOWS, traj_key="episode", cache_values=True)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(num), sampler=sampler, batch_size=WINDOWS * LENGTH)
    episodes = np.cumsum(rows["terminal"]) - rows["terminal"]
    columns = rows | {"episode": episodes.astype(np.int64)}
    data = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}
    buffer.extend(TensorDict(data, [num]))
    return buffer.sample


def flashbax_sequences(rows: dict[str, Any]) -> Call:
    import flashbax
    import jax

    num = len(rows["terminal"])
    buffer = flashbax.make_trajectory_buffer(
        add_batch_size=1,
        sample_batch_size=WINDOWS,
        sample_sequence_length=LENGTH,
        period=1,
        min_length_time_axis=LENGTH,
        max_length_time_axis=num,
    )
    state = buffer.init({name: jax.numpy.asarray(column[0]) for name, column in rows.items()})
    state = buffer.add(state, {name: jax.numpy.asarray(column)[None] for name, column in rows.items()})
    sample, keys = jax.jit(buffer.sample), iter(jax.random.split(jax.random.PRNGKey(0), 200_000))
    return lambda: jax.block_until_ready(sample(state, next(keys)))


def rlox_sequences(rows: dict[str, Any]) -> Call:
    import rlox

    buffer, seeds = rlox.SequenceReplayBuffer(len(rows["terminal"]), rows["state"].shape[1], 1), itertools.count()
    actions = rows["action"].astype(np.float32)[:, None]
    rewards, terminal = rows["reward"].tolist(), (rows["terminal"] != 0).tolist()
    for row in zip(rows["state"], rows["state_new"], actions, rewards, terminal, strict=True):
        buffer.push(*row, False)
    return lambda: buffer.sample_sequences(WINDOWS, LENGTH, next(seeds))


def compute_reward(achieved: Any, desired: Any, info: Any) -> Any:
    """0 at the goal, -1 elsewhere."""
    return (np.linalg.norm(achieved - desired, axis=-1) < 0.05).astype(np.float32) - 1


class Reach(gymnasium.Env):
    """A point that moves; only its spaces and its reward are used."""

    box = gymnasium.spaces.Box(-np.inf, np.inf, (GOAL,), np.float32)
    observation_space = gymnasium.spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), box))
    action_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return compute_reward(achieved, desired, info)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}


def reach_rows() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    paths = {part: rng.normal(size=(NUM + 1, GOAL)).astype(np.float32) for part in Reach.observation_space}
    rows = {f"state.{part}": path[:-1] for part, path in paths.items()}
    rows |= {f"state_new.{part}": path[1:] for part, path in paths.items()}
    ends = np.arange(NUM) % EPISODE == EPISODE - 1
    rows |= {"action": rng.normal(size=(NUM, 4)).astype(np.float32), "reward": np.full(NUM, -1, np.float32)}
    return rows | {"terminal": np.zeros(NUM, np.float32), "truncated": ends.astype(np.float32)}


def really_hindsight(rows: dict[str, Any]) -> Call:
    buffer = ReplayBuffer(NUM, unit=Hindsight(compute_reward), seed=0)
    buffer.put(rows)
    return lambda: buffer.sample(ROWS)


def stable_baselines3_hindsight(rows: dict[str, Any]) -> Call:
    from stable_baselines3 import HerReplayBuffer
    from stable_baselines3.common.vec_env import DummyVecEnv

    spaces = Reach.observation_space, Reach.action_space
    buffer = HerReplayBuffer(NUM, *spaces, env=DummyVecEnv([Reach]), device="cpu", n_sampled_goal=4)
    for at in range(NUM):
        before, after = (
            {part: rows[f"{state}.{part}"][at : at + 1] for part in Reach.observation_space}
            for state in ("state", "state_new")
        )
        done = rows["truncated"][at : at + 1]
        buffer.add(before, after, rows["action"][at : at + 1], rows["reward"][at : at + 1], done, [{}])
    return lambda: buffer.sample(ROWS)


def cpprb_hindsight(rows: dict[str, Any]) -> Call:
    import cpprb

    parts = {"obs": 2 * GOAL, "act": 4, "next_obs": 2 * GOAL}
    buffer = cpprb.HindsightReplayBuffer(
        5 * NUM,
        {name: {"shape": num, "dtype": np.float32} for name, num in parts.items()},
        max_episode_len=EPISODE,
        reward_func=lambda next_obs, act, goal: compute_reward(next_obs[:, GOAL:], goal, {}),
        goal_func=lambda next_obs: next_obs[:, GOAL:],
        goal_shape=GOAL,
        additional_goals=4,
        prioritized=False,
    )
    obs, next_obs = (
        np.concatenate([rows[f"{state}.observation"], rows[f"{state}.achieved_goal"]], axis=1)
        for state in ("state", "state_new")
    )
    for first in range(0, NUM, EPISODE):
        for at in range(first, first + EPISODE):
            buffer.add(obs=obs[at], act=rows["action"][at], next_obs=next_obs[at])
        buffer.on_episode_end(rows["state.desired_goal"][first])
    return lambda: buffer.sample(ROWS)


SEQUENCES = {"torchrl": torchrl_sequences, "flashbax": flashbax_sequences, "rlox": rlox_sequences}
HINDSIGHT = {"stable_baselines3": stable_baselines3_hindsight, "cpprb": cpprb_hindsight}


def peers(sequences: Call, rows: dict[str, Any]) -> dict[str, str]:
    """Both tables by name; `sequences` draws ours, from a buffer of these rows."""
    goals, tables = reach_rows(), {}
    for table, title, ours, others, data in (
        ("sequences, peers", f"{WINDOWS} sequences of {LENGTH}", sequences, SEQUENCES, rows),
        ("hindsight, peers", f"{ROWS} rows with hindsight", really_hindsight(goals), HINDSIGHT, goals),
    ):
        made = {name: make(data) for name, make in others.items() if importlib.util.find_spec(name) is not None}
        found = process_seconds({"really": ours, **made})
        lines = [f"| {title} | µs | times ours |", "| --- | --- | --- |"]
        lines += [
            f"| {name} | {1e6 * seconds:,.0f} | {seconds / found['really']:.1f} |" for name, seconds in found.items()
        ]
        tables[table] = "\n".join(lines)
    return tables
