"""Recurrent DQN remembers a sign for the 20 steps of a T-maze: stored states, burn-in, sequences as sample unit.

`python examples/t_maze.py [--seed N] [--no-memory] [--out FOLDER]` trains for 48,000 steps, prints how many of 500
greedy episodes turn the right way and writes it to FOLDER/result.json, by default in runs/. The maze is that of Bakker
(2001, Reinforcement learning with long short-term memory); the update is that of R2D2 (Kapturowski et al. 2019) without
its rescaled values, priorities and n-step returns. `--no-memory` has a dense layer where the LSTM is.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import keras
import numpy as np
import tensorflow as tf

from really import SampleManager
from really.replay import Sequences


@dataclass
class Args:
    seed: int = 0
    out: str = ""
    memory: bool = True
    length: int = 20  # steps from the sign to the junction
    total_steps: int = 48_000
    num_envs: int = 16
    steps_a_call: int = 320  # rows of one call, from all environments together
    updates_a_call: int = 40
    batch_size: int = 32
    learn: int = 12  # steps of a sequence to learn from, after those of the burn-in
    burn_in: int = 8
    learning_rate: float = 2e-3  # falls linearly to a twentieth of it
    gamma: float = 0.98
    tau: float = 0.02  # the target moves by this part of the way in each update
    end_epsilon: float = 0.05
    exploration_steps: int = 20_000
    steps_a_test: int = 3_200
    test_episodes: int = 500


class TMaze(gymnasium.Env):
    """A corridor with a junction at its end. The sign at its beginning, 1 or -1, tells the way to turn there."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)  # sign, corridor, junction
    action_space = gymnasium.spaces.Discrete(4)  # on, left, right, back

    def __init__(self, length):
        self.length = length

    def observation(self):
        sign = self.sign if self.time == 0 else 0
        return np.array([sign, self.place < self.length, self.place == self.length], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign, self.place, self.time = self.np_random.choice([-1, 1]), 0, 0
        return self.observation(), {}

    def step(self, action):
        self.time += 1
        turns = self.place == self.length and action in (1, 2)
        if turns:
            reward = 1.0 if (action == 1) == (self.sign == 1) else -1.0
        else:
            before, self.place = self.place, int(np.clip(self.place + {0: 1, 3: -1}.get(action, 0), 0, self.length))
            reward = 0.0 if self.place > before else -0.1
        return self.observation(), reward, turns, self.time == 4 * self.length, {}


class Memory(keras.Model):
    """Q-values of one step, as runners call it, and of sequences, as the update does."""

    def __init__(self, num_actions=4):
        super().__init__()
        self.core = keras.layers.LSTM(32, return_sequences=True, return_state=True)
        self.q = keras.layers.Dense(num_actions)

    def call(self, observation, recurrent_state=None):
        q_values, state = self.unroll(observation[:, None], recurrent_state)
        return {"q_values": q_values[:, 0], "recurrent_state": state}

    def unroll(self, observations, state):
        hidden, *state = self.core(observations, initial_state=state)
        return self.q(hidden), state


class Reactive(keras.Model):
    """The same without a memory."""

    def __init__(self, num_actions=4):
        super().__init__()
        self.core, self.q = keras.layers.Dense(32, "tanh"), keras.layers.Dense(num_actions)

    def call(self, observation):
        return {"q_values": self.q(self.core(observation))}

    def unroll(self, observations, state):
        return self.q(self.core(observations)), None


def main(args: Args) -> None:
    keras.utils.set_random_seed(args.seed)
    more = ["recurrent_state"] if args.memory else []
    manager = SampleManager(
        model=Memory if args.memory else Reactive,
        environment=TMaze,
        env_config={"length": args.length},
        num_parallel=args.num_envs,
        total_steps=args.steps_a_call,
        num_steps=args.steps_a_call // args.num_envs,
        returns=["truncated", "agent", *more],
        action_sampling_type="epsilon_greedy",
        gamma=args.gamma,
        seed=args.seed,
        use_ray=False,
    )
    keys = ["state", "action", "reward", "state_new", "terminal", "truncated", "agent", *more]
    manager.initialize_buffer(args.total_steps, keys, unit=Sequences(args.learn, burn_in=args.burn_in))
    agent = manager.get_agent()
    target = agent.copy()
    optimizer = keras.optimizers.Adam(args.learning_rate)
    optimizer.build(agent.model.trainable_variables)

    @tf.function
    def update(data, state):
        # One step more than the sequence: what is seen after each step is what is seen before the next one.
        observations = tf.concat([data["state"][:, :1], data["state_new"]], axis=1)
        best_action = tf.argmax(agent.model.unroll(observations, state)[0][:, 1:], axis=-1)
        value = tf.gather(target.model.unroll(observations, state)[0][:, 1:], best_action, batch_dims=2)
        td_target = data["reward"] + args.gamma * (1 - data["terminal"]) * value
        with tf.GradientTape() as tape:
            q_values = agent.model.unroll(data["state"], state)[0]
            error = td_target - tf.gather(q_values, data["action"], batch_dims=2)
            loss = tf.reduce_sum(data["mask"] * error**2) / tf.reduce_sum(data["mask"])
        variables = agent.model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        for slow, fast in zip(target.model.trainable_variables, variables, strict=True):
            slow.assign(slow + args.tau * (fast - slow))
        return loss

    folder = Path(args.out or f"runs/t_maze{'' if args.memory else '_no_memory'}_{args.seed}")
    manager.initialize_aggregator(folder / "progress", 10**9, ["success", "loss"], max_size=1)

    def success(episodes):
        return np.mean(np.array(manager.test(4 * args.length, episodes, "reward")) > 0)

    step, started = 0, time.time()
    while step < args.total_steps:
        manager.set_epsilon(np.interp(step, [0, args.exploration_steps], [1.0, args.end_epsilon]))
        optimizer.learning_rate = args.learning_rate * (1 - 0.95 * step / args.total_steps)
        step += manager.collect()
        for _ in range(args.updates_a_call):
            data = manager.sample(args.batch_size)
            state = agent.recurrent_state(data) if args.memory else None  # stored with the first step
            loss = update({key: data[key] for key in [*keys[:5], "mask"]}, state)
        manager.set_agent(agent.get_weights())  # the environments are stepped with these weights from now on
        if step % args.steps_a_test == 0:
            score = success(100)
            manager.update_aggregator(success=score, loss=loss, step=step)
            print(f"step {step}: loss {loss:.4f}, right {score:.2f}, {step / (time.time() - started):.0f}/s")
    result = {"task": f"T-maze of length {args.length}", "seed": args.seed, "success": success(args.test_episodes)}
    result |= {"env_steps": step, "updates": step // args.steps_a_call * args.updates_a_call}
    result |= {"wall_seconds": time.time() - started}
    print(f"{result['success']:.1%} of {args.test_episodes} greedy episodes turn the right way, seed {args.seed}")
    (folder / "result.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        kind = {"action": argparse.BooleanOptionalAction} if isinstance(value, bool) else {"type": type(value)}
        parser.add_argument(f"--{name.replace('_', '-')}", default=value, **kind)
    main(Args(**vars(parser.parse_args())))
