"""SAC learns to run: HalfCheetah-v5 of MuJoCo, 300,000 steps with one update each, in one file.

`python examples/sac_half_cheetah.py [--seed N] [--steps N] [--out FOLDER]` plays greedy episodes every 10,000 steps,
and writes the mean return of 20 in the end to FOLDER/result.json, by default in runs/. It needs
`pip install 'really-rl[tensorflow,mujoco]'`. The constants are those of CleanRL's `sac_continuous_action.py`, whose
runs are the usual yardstick.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gymnasium
import keras
import numpy as np

from really import SampleManager
from really.learners import SACLearner


@dataclass
class Args:
    seed: int = 0
    out: str = ""
    env: str = "HalfCheetah-v5"
    steps: int = 300_000
    steps_a_call: int = 50  # between two changes of the policy; each step has one update
    learning_starts: int = 5_000
    batch_size: int = 256
    actor_rate: float = 3e-4
    critic_rate: float = 1e-3  # of the temperature, too
    target_rate: float = 0.005
    gamma: float = 0.99
    steps_a_test: int = 10_000
    test_episodes: int = 5
    last_episodes: int = 20


class Actor(keras.Model):
    """Two hidden layers of 256; the standard deviation depends on the state and stays within [e^-5, e^2]."""

    def __init__(self, dimensions):
        super().__init__()
        self.hidden = [keras.layers.Dense(256, activation="relu") for _ in range(2)]
        self.mu, self.log_sigma = keras.layers.Dense(dimensions), keras.layers.Dense(dimensions)

    def call(self, state):
        for layer in self.hidden:
            state = layer(state)
        return {"mu": self.mu(state), "sigma": keras.ops.exp(keras.ops.clip(self.log_sigma(state), -5.0, 2.0))}


def make_manager(args):
    manager = SampleManager(
        model=Actor,
        model_kwargs={"dimensions": gymnasium.make(args.env).action_space.shape[0]},
        environment=args.env,
        num_parallel=1,
        total_steps=args.steps_a_call,
        num_steps=args.steps_a_call,
        action_sampling_type="continuous_squashed_normal",
        gamma=args.gamma,
        seed=args.seed,
        use_ray=False,
    )
    manager.initialize_buffer(args.steps, ["state", "action", "reward", "state_new", "terminal"])
    return manager


def main(args: Args) -> None:
    keras.utils.set_random_seed(args.seed)
    folder = Path(args.out or f"runs/sac_half_cheetah_{args.seed}")
    started = time.time()
    with make_manager(args) as manager:
        learner = SACLearner(
            manager,
            keras.optimizers.Adam(args.actor_rate),
            keras.optimizers.Adam(args.critic_rate),
            temperature_optimizer=keras.optimizers.Adam(args.critic_rate),
            target_rate=args.target_rate,
            seed=args.seed,
        )
        manager.initialize_aggregator(folder / "progress", 10**9, ["reward", "loss", "temperature"], max_size=1)
        step = 0
        while step < args.steps:
            step += manager.collect()
            if step < args.learning_starts:
                continue
            update = learner.update(manager.buffer.sample((args.steps_a_call, args.batch_size)))
            manager.set_agent(learner.agent.get_weights())
            if step % args.steps_a_test == 0:
                returns = manager.test(1_000, args.test_episodes, "reward")
                manager.update_aggregator(
                    reward=returns, loss=update.critic_loss, temperature=update.temperature, step=step
                )
                speed = step / (time.time() - started)
                print(f"step {step}: return {np.mean(returns):.0f}, {speed:.0f} steps/s", flush=True)
        returns = manager.test(1_000, args.last_episodes, "reward")
    result = {"task": args.env, "seed": args.seed, "env_steps": step, "updates": learner.updates_done}
    result |= {"wall_seconds": time.time() - started, "mean_return": np.mean(returns), "std_return": np.std(returns)}
    print(f"{args.last_episodes} greedy episodes: {np.mean(returns):.1f} ± {np.std(returns):.1f}, seed {args.seed}")
    (folder / "result.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=value, type=type(value))
    main(Args(**vars(parser.parse_args())))
