"""DQN with hindsight learns to flip 15 bits into a goal; without hindsight it never sees a reward and learns nothing.

`python examples/bit_flipping.py [--seed N] [--no-hindsight] [--out FOLDER]` trains for 20,000 steps, prints how many of
500 greedy episodes reach their goal and writes it to FOLDER/result.json, by default in runs/.
The task is that of hindsight experience replay (HER: Andrychowicz et al. 2017, section 3.1); the update is double DQN.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import keras
import numpy as np

from really import SampleManager
from really.learners import DQNLearner
from really.replay import Hindsight


@dataclass
class Args:
    seed: int = 0
    out: str = ""
    hindsight: bool = True
    bits: int = 15
    total_steps: int = 20_000
    num_envs: int = 16
    steps_a_call: int = 240  # rows of one call, from all environments together
    updates_a_call: int = 60
    batch_size: int = 128
    learning_rate: float = 1e-3
    gamma: float = 0.98
    tau: float = 0.02  # the target moves by this part of the way in each update
    epsilon: float = 0.2
    steps_a_test: int = 1_200
    test_episodes: int = 500


def reward_of(achieved, desired, info):
    """0 at the goal, -1 elsewhere, of bits `[n, bits]`."""
    return (achieved == desired).all(axis=-1) - np.float32(1)


def at_goal(achieved, desired, info):
    return (achieved == desired).all(axis=-1)


class BitFlipping(gymnasium.Env):
    """An action flips one bit; an episode ends at the goal, or after as many steps as there are bits."""

    def __init__(self, bits):
        goal = gymnasium.spaces.MultiBinary(bits)
        self.observation_space = gymnasium.spaces.Dict({"achieved_goal": goal, "desired_goal": goal})
        self.action_space = gymnasium.spaces.Discrete(bits)

    def observation(self):
        return {"achieved_goal": self.achieved.copy(), "desired_goal": self.desired.copy()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.achieved, self.desired = self.np_random.integers(0, 2, (2, self.action_space.n), np.int8)
        self.steps = 0
        return self.observation(), {}

    def step(self, action):
        self.achieved[action] ^= 1
        self.steps += 1
        reward = float(reward_of(self.achieved, self.desired, {}))
        return self.observation(), reward, reward == 0, bool(self.steps == self.action_space.n), {}


class QNetwork(keras.Model):
    def __init__(self, bits):
        super().__init__()
        self.hidden, self.q = keras.layers.Dense(256, "relu"), keras.layers.Dense(bits)

    def call(self, observation):
        bits = [keras.ops.cast(observation[key], "float32") for key in ("achieved_goal", "desired_goal")]
        return {"q_values": self.q(self.hidden(keras.ops.concatenate(bits, axis=-1)))}


def main(args: Args) -> None:
    keras.utils.set_random_seed(args.seed)
    manager = SampleManager(
        model=QNetwork,
        model_kwargs={"bits": args.bits},
        environment=BitFlipping,
        env_config={"bits": args.bits},
        num_parallel=args.num_envs,
        total_steps=args.steps_a_call,
        num_steps=args.steps_a_call // args.num_envs,
        returns=["truncated", "agent"],
        action_sampling_type="epsilon_greedy",
        epsilon=args.epsilon,
        gamma=args.gamma,
        seed=args.seed,
        use_ray=False,
    )
    keys = ["state", "action", "reward", "state_new", "terminal", "truncated", "agent"]
    unit = Hindsight(reward_of, k=4, terminated=at_goal) if args.hindsight else None
    manager.initialize_buffer(args.total_steps, keys, unit=unit)
    learner = DQNLearner(manager, keras.optimizers.Adam(args.learning_rate), target_rate=args.tau)
    folder = Path(args.out or f"runs/bit_flipping{'' if args.hindsight else '_no_hindsight'}_{args.seed}")
    manager.initialize_aggregator(folder / "progress", 10**9, ["success", "loss"], max_size=1)

    def success(episodes):
        return np.mean(np.array(manager.test(args.bits, episodes, "reward")) > -args.bits)

    step, started = 0, time.time()
    while step < args.total_steps:
        step += manager.collect()
        update = learner.update(manager.sample((args.updates_a_call, args.batch_size)))
        manager.set_agent(learner.agent.get_weights())  # the environments are stepped with these weights from now on
        if step % args.steps_a_test == 0:
            score = success(100)
            manager.update_aggregator(success=score, loss=update.loss, step=step)
            speed = step / (time.time() - started)
            print(f"step {step}: loss {update.loss.mean():.4f}, success {score:.2f}, {speed:.0f}/s")
    result = {"task": f"bit flipping, {args.bits} bits", "seed": args.seed, "success": success(args.test_episodes)}
    result |= {"env_steps": step, "updates": learner.updates_done, "wall_seconds": time.time() - started}
    print(f"{result['success']:.1%} of {args.test_episodes} greedy episodes reach the goal, seed {args.seed}")
    (folder / "result.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        if isinstance(value, bool):
            parser.add_argument(f"--{name.replace('_', '-')}", action=argparse.BooleanOptionalAction, default=value)
        else:
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    main(Args(**vars(parser.parse_args())))
