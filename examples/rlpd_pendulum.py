"""SAC learns to swing up a pendulum from its own rows and from prior data, a Minari dataset of medium quality.

`python examples/rlpd_pendulum.py [--seed N] [--no-prior] [--out FOLDER]` learns for 400 steps, which are two episodes,
from batches that are half its own rows and half those of the dataset; with `--no-prior` for three times as many steps
from its own rows alone. It writes the mean return of 100 greedy episodes to FOLDER/result.json, by default in runs/.
The first run with prior data makes the dataset: it trains until the policy is of medium quality, and stores what that
policy does.

The method is RLPD (Ball et al. 2023): the critics have layer normalisation, the target is the least of two critics of
an ensemble, and each step has many updates. Runs without prior data have all of this.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import minari
import numpy as np

from really import Mixture, ReplayBuffer, SampleManager
from really.learners import Critic, SACLearner

DATASET = "pendulum/medium-v0"
KEYS = ["state", "action", "reward", "state_new", "terminal"]


@dataclass
class Args:
    seed: int = 0
    out: str = ""
    data: str = "runs/minari"  # folder of the dataset
    prior: bool = True
    steps_without_prior: int = 1_200  # a third of them with prior data
    steps_a_call: int = 20
    updates_a_step: int = 6
    learning_starts: int = 40
    batch_size: int = 256
    num_critics: int = 4
    learning_rate: float = 1e-3
    target_rate: float = 0.02  # the targets move by this part of the way in each update
    reward_scale: float = 0.1  # in the updates; rows have the rewards that the environment pays
    gamma: float = 0.99
    steps_a_test: int = 40
    test_episodes: int = 100
    medium: float = -700.0  # mean return at which the policy that makes the dataset has learned enough
    steps_of_dataset: int = 8_000


class Actor(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = [keras.layers.Dense(128, activation="relu") for _ in range(2)]
        self.mu, self.log_sigma = keras.layers.Dense(1), keras.layers.Dense(1)

    def call(self, state):
        for layer in self.hidden:
            state = layer(state)
        return {"mu": self.mu(state), "sigma": keras.ops.exp(keras.ops.clip(self.log_sigma(state), -20.0, 2.0))}


def make_manager(args, seed):
    manager = SampleManager(
        model=Actor,
        environment="Pendulum-v1",
        num_parallel=1,
        total_steps=args.steps_a_call,
        num_steps=args.steps_a_call,
        returns=["truncated", "agent"],
        action_sampling_type="continuous_squashed_normal",
        gamma=args.gamma,
        seed=seed,
        use_ray=False,
    )
    manager.initialize_buffer(args.steps_without_prior, KEYS)
    return manager


def learn(args, manager, source, seed, steps, folder, enough=np.inf):
    """SAC with batches of `source`, until a test is better than `enough`; returns how many updates it has done."""
    learner = SACLearner(
        manager,
        keras.optimizers.Adam(args.learning_rate),
        keras.optimizers.Adam(args.learning_rate),
        temperature_optimizer=keras.optimizers.Adam(args.learning_rate),
        make_critic=lambda: Critic((128, 128), layer_norm=True),
        num_critics=args.num_critics,
        target_critics=2,
        target_rate=args.target_rate,
        temperature=args.reward_scale,
        seed=seed,
    )
    manager.initialize_aggregator(folder / "progress", 10**9, ["reward", "loss"], max_size=1)
    step, score, started = 0, -np.inf, time.time()
    while step < steps and score < enough:
        step += manager.collect()
        if step < args.learning_starts:
            continue
        batches = source.sample((args.steps_a_call * args.updates_a_step, args.batch_size))
        update = learner.update(batches | {"reward": args.reward_scale * batches["reward"]})
        manager.set_agent(learner.agent.get_weights())
        if step % args.steps_a_test == 0:
            returns = manager.test(200, 20, "reward")
            manager.update_aggregator(reward=returns, loss=update.critic_loss, step=step)
            score, speed = np.mean(returns), step / (time.time() - started)
            print(f"step {step}: loss {update.critic_loss.mean():.3f}, return {score:.0f}, {speed:.0f}/s")
    return learner.updates_done


def make_dataset(args, seed=1_000):
    """Trains a policy of medium quality, and stores what it does as a Minari dataset."""
    keras.utils.set_random_seed(seed)
    with make_manager(args, seed) as manager:
        folder = Path(args.data) / "medium"
        learn(args, manager, manager.buffer, seed, args.steps_without_prior, folder, enough=args.medium)
        made = ReplayBuffer(args.steps_of_dataset)
        while len(made) < args.steps_of_dataset:
            made.put(manager.get_data())
    made.to_minari(DATASET, env="Pendulum-v1")


def main(args: Args) -> None:
    os.environ["MINARI_DATASETS_PATH"] = str(Path(args.data).absolute())
    if args.prior and DATASET not in minari.list_local_datasets():
        make_dataset(args)
    keras.utils.set_random_seed(args.seed)
    folder = Path(args.out or f"runs/rlpd_pendulum{'' if args.prior else '_no_prior'}_{args.seed}")
    steps = args.steps_without_prior // 3 if args.prior else args.steps_without_prior
    started = time.time()
    with make_manager(args, args.seed) as manager:
        source = manager.buffer
        if args.prior:
            prior = ReplayBuffer.from_minari(DATASET, seed=args.seed)
            source = Mixture({prior: 0.5, manager.buffer: 0.5}, seed=args.seed)
        updates = learn(args, manager, source, args.seed, steps, folder)
        returns = manager.test(200, args.test_episodes, "reward")
    result = {"task": "Pendulum-v1", "seed": args.seed, "env_steps": steps, "updates": updates}
    result |= {"wall_seconds": time.time() - started, "mean_return": np.mean(returns), "std_return": np.std(returns)}
    print(f"{args.test_episodes} greedy episodes: {np.mean(returns):.1f} ± {np.std(returns):.1f}, seed {args.seed}")
    (folder / "result.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        kind = {"action": argparse.BooleanOptionalAction} if isinstance(value, bool) else {"type": type(value)}
        parser.add_argument(f"--{name.replace('_', '-')}", default=value, **kind)
    main(Args(**vars(parser.parse_args())))
