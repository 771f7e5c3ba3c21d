"""SAC with hindsight learns to move the hand of a robot to a goal: FetchReach-v4 of gymnasium-robotics.

`python examples/fetch_reach.py [--seed N] [--no-hindsight] [--out FOLDER]` trains for 3,000 steps, prints in how many
of 100 greedy episodes the hand is at its goal for more than half of the time, and writes it to FOLDER/result.json, by
default in runs/. It needs gymnasium-robotics, and MuJoCo below 3.6; `make reach` installs both. The task is that of
Plappert et al. (2018, Multi-goal reinforcement learning, arXiv:1802.09464); the reward is -1 more than 5 cm from the
goal, and 0 there. Learning rate, discount factor, batch size and share of new goals are those of the RL Zoo of
Stable-Baselines3.
"""

import argparse
import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import gymnasium_robotics
import keras
import numpy as np

from really import SampleManager
from really.learners import Critic, SACLearner
from really.replay import Hindsight

BEGINNING = (1.34, 0.75, 0.53)  # of the hand, in metres


@dataclass
class Args:
    seed: int = 0
    out: str = ""
    hindsight: bool = True
    task: str = "FetchReach-v4"
    max_steps: int = 50
    total_steps: int = 3_000
    num_envs: int = 4
    steps_a_call: int = 200  # rows of one call, from all environments together
    updates_a_call: int = 200
    batch_size: int = 256
    learning_starts: int = 400
    learning_rate: float = 1e-3
    hidden: int = 64
    gamma: float = 0.95
    tau: float = 0.02  # the targets move by this part of the way in each update
    steps_a_test: int = 600
    test_episodes: int = 100


def features(observation):
    """The state of the hand and its goal, with positions in decimetres from where the hand begins, `[row, 13]`."""
    places = [10 * (observation[key] - BEGINNING) for key in ("achieved_goal", "desired_goal")]
    return keras.ops.cast(keras.ops.concatenate([*places, observation["observation"][:, 3:]], axis=-1), "float32")


class GoalCritic(Critic):
    def call(self, inputs):
        observation, action = inputs
        return super().call((features(observation), action))


class Actor(keras.Model):
    def __init__(self, hidden, dimensions):
        super().__init__()
        self.hidden = [keras.layers.Dense(hidden, "relu") for _ in range(2)]
        self.mu, self.log_sigma = keras.layers.Dense(dimensions), keras.layers.Dense(dimensions)

    def call(self, observation):
        x = features(observation)
        for layer in self.hidden:
            x = layer(x)
        return {"mu": self.mu(x), "sigma": keras.ops.exp(keras.ops.clip(self.log_sigma(x), -20, 2))}


def main(args: Args) -> None:
    keras.utils.set_random_seed(args.seed)
    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make(args.task)
    manager = SampleManager(
        model=Actor,
        model_kwargs={"hidden": args.hidden, "dimensions": env.action_space.shape[0]},
        environment=args.task,
        num_parallel=args.num_envs,
        total_steps=args.steps_a_call,
        num_steps=args.steps_a_call // args.num_envs,
        returns=["truncated", "agent"],
        action_sampling_type="continuous_squashed_normal",
        gamma=args.gamma,
        seed=args.seed,
        use_ray=False,
    )
    keys = ["state", "action", "reward", "state_new", "terminal", "truncated", "agent"]
    unit = Hindsight(env.unwrapped.compute_reward, k=4) if args.hindsight else None
    manager.initialize_buffer(args.total_steps, keys, unit=unit)
    learner = SACLearner(
        manager,
        *(keras.optimizers.Adam(args.learning_rate) for _ in range(2)),
        temperature_optimizer=keras.optimizers.Adam(args.learning_rate),
        make_critic=functools.partial(GoalCritic, (args.hidden, args.hidden)),
        temperature=0.1,
        target_rate=args.tau,
        seed=args.seed,
    )
    folder = Path(args.out or f"runs/fetch_reach{'' if args.hindsight else '_no_hindsight'}_{args.seed}")
    manager.initialize_aggregator(folder / "progress", 10**9, ["success", "temperature"], max_size=1)

    def success(episodes):
        return np.mean(np.array(manager.test(args.max_steps, episodes, "reward")) > -args.max_steps / 2)

    step, started = 0, time.time()
    while step < args.total_steps:
        step += manager.collect()
        if step < args.learning_starts:
            continue
        update = learner.update(manager.sample((args.updates_a_call, args.batch_size)))
        manager.set_agent(learner.agent.get_weights())  # the environments are stepped with these weights from now on
        if step % args.steps_a_test == 0:
            score = success(10)
            manager.update_aggregator(success=score, temperature=update.temperature, step=step)
            speed = step / (time.time() - started)
            print(f"step {step}: critic loss {update.critic_loss.mean():.4f}, success {score:.2f}, {speed:.0f}/s")
    result = {"task": args.task, "seed": args.seed, "success": success(args.test_episodes)}
    result |= {"env_steps": step, "updates": learner.updates_done, "wall_seconds": time.time() - started}
    print(f"{result['success']:.1%} of {args.test_episodes} greedy episodes reach the goal, seed {args.seed}")
    (folder / "result.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        kind = {"action": argparse.BooleanOptionalAction} if isinstance(value, bool) else {"type": type(value)}
        parser.add_argument(f"--{name.replace('_', '-')}", default=value, **kind)
    main(Args(**vars(parser.parse_args())))
