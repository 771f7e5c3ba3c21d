"""DQN learns an Atari game from pixels, with a replay buffer of a million transitions that outlives the process.

    python examples/dqn_atari.py [--game pong] [--steps N] [--path DIR] [--resume] [--seed N] [--out DIR]

Preprocessing, network, buffer, batch and steps per update are those of the published DQN (Mnih et al. 2015, Methods and
table 1). Optimizer, learning rate, exploration and warm-up are those of CleanRL's dqn_atari.py. The target network is
updated every 1,000 updates, that is 4,000 steps (published: 10,000 updates; CleanRL: 1,000 steps). With `--path` the
buffer lives in files. `--resume` continues a run after any kind of end.

The run writes `result.json`, `checkpoints/`, and `progress/` with curves, CSV and TensorBoard events to the folder
`--out` (by default `runs/dqn_atari_<seed>`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import experiment  # noqa: F401 - must be imported before TensorFlow
import numpy as np
import ray
import tensorflow as tf
from tqdm import tqdm

import really
from really.learners import DQNLearner

AGENTS, CHUNK = 8, 64
BATCH, STEPS_AN_UPDATE, UPDATES_A_CALL = 32, 4, 16
GAMMA, LEARNING_RATE, TARGET_EVERY = 0.99, 1e-4, 1_000
EPSILON_START, EPSILON_END, EPSILON_PART = 1.0, 0.01, 0.1  # epsilon falls during this part of all steps
TEST_EPISODES = 3
KEYS = ("state", "action", "reward", "state_new", "terminal")


class NatureNetwork(tf.keras.Model):
    """The network of the published DQN; observations `[stack, height, width]` uint8 become channels-last floats."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        layers = tf.keras.layers
        self.convolutions = [
            layers.Conv2D(filters, size, strides, activation="relu")
            for filters, size, strides in ((32, 8, 4), (64, 4, 2), (64, 3, 1))
        ]
        self.flat, self.hidden = layers.Flatten(), layers.Dense(512, activation="relu")
        self.q = layers.Dense(num_actions)

    def call(self, state: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden = tf.transpose(tf.cast(state, tf.float32) / 255.0, [0, 2, 3, 1])
        for convolution in self.convolutions:
            hidden = convolution(hidden)
        return {"q_values": self.q(self.hidden(self.flat(hidden)))}


class Training:
    """A run that can end at any time: its manager and learner, its counters, its checkpoints."""

    def __init__(self, arguments: argparse.Namespace, out: Path) -> None:
        self.arguments, self.out = arguments, out
        environment = really.atari(arguments.game)
        self.manager = really.SampleManager(
            NatureNetwork,
            environment,
            AGENTS,
            AGENTS * CHUNK,
            action_sampling_type="epsilon_greedy",
            model_kwargs={"num_actions": int(environment.make_vector(1).single_action_space.n)},
            num_steps=CHUNK,
            gamma=GAMMA,
            epsilon=EPSILON_START,
            seed=arguments.seed,
        )
        self.manager.initialize_buffer(arguments.buffer, KEYS, **({"path": arguments.path} if arguments.path else {}))
        events = out / "progress" / "events"
        self.manager.initialize_aggregator(out / "progress", 5, ["loss", "q_value", "reward"], tensorboard=events)
        optimizer = tf.keras.optimizers.Adam(LEARNING_RATE)
        # Without XLA, whose convolutions are slower on CPUs than oneDNN's.
        options = {"target_every": TARGET_EVERY, "double": False, "jit_compile": False}
        self.learner = DQNLearner(self.manager, optimizer, gamma=GAMMA, **options)
        self.counters: dict[str, Any] = {"env_steps": 0, "updates": 0, "seconds": 0.0}

    def resume(self) -> None:
        """Continues from the newest checkpoint."""
        parts = {"target": self.learner.target, "optimizer": self.learner.optimizer}
        self.counters = dict(self.manager.load_checkpoint(self.out / "checkpoints", **parts))

    def save(self) -> None:
        """Saves a checkpoint."""
        parts = {"target": self.learner.target, "optimizer": self.learner.optimizer}
        self.manager.save_checkpoint(self.out / "checkpoints", **parts, counters=self.counters, keep=2)

    def warm_up(self) -> None:
        """Fills the buffer with random actions up to `learning_starts` rows."""
        buffer = self.manager.buffer
        while len(buffer) < self.arguments.learning_starts:
            self.counters["env_steps"] += self.manager.collect()

    def run(self) -> None:
        """Trains in parts, and tests and saves the agent after each."""
        arguments, began, before = self.arguments, time.perf_counter(), self.counters["seconds"]
        with tqdm(total=arguments.steps, initial=self.counters["env_steps"], unit="step") as bar:
            self.warm_up()
            bar.update(self.counters["env_steps"] - bar.n)
            while self.counters["env_steps"] < arguments.steps:
                self.learn(min(arguments.test_every, arguments.steps - self.counters["env_steps"]), bar)
                self.counters["seconds"] = before + time.perf_counter() - began
                returns = self.manager.test(arguments.max_steps, TEST_EPISODES, evaluation_measure="reward")
                self.manager.update_aggregator(reward=returns)
                self.save()

    def learn(self, steps: int, bar: tqdm) -> None:
        """Trains for about `steps` more steps, collecting and updating in turns."""
        manager, counters, began = self.manager, self.counters, time.perf_counter()
        first, goal = counters["updates"], counters["env_steps"] + steps
        while counters["env_steps"] < goal:
            part = counters["env_steps"] / (EPSILON_PART * self.arguments.steps)
            manager.set_epsilon(float(np.interp(part, [0, 1], [EPSILON_START, EPSILON_END])))
            counters["env_steps"] += manager.collect()
            for _ in range(AGENTS * CHUNK // STEPS_AN_UPDATE // UPDATES_A_CALL):
                found = self.learner.update(manager.buffer.sample((UPDATES_A_CALL, BATCH)))
                counters["updates"] += UPDATES_A_CALL
            manager.set_agent(self.learner.agent.get_weights())
            manager.update_aggregator(loss=found.loss, q_value=found.q_value)
            self.show(bar, (counters["updates"] - first) / (time.perf_counter() - began))

    def show(self, bar: tqdm, updates_a_second: float) -> None:
        """Shows steps (of four frames), updates a second and the memory of the buffer."""
        memory = self.manager.buffer.memory()
        bar.update(self.counters["env_steps"] - bar.n)
        bar.set_postfix(
            frames=f"{4 * (bar.format_dict['rate'] or 0):.0f}/s",
            updates=f"{updates_a_second:.0f}/s",
            buffer=f"{memory['held'] / 1e9:.2f} GB (1/{memory['ratio']:.1f})",
        )


def main() -> None:
    arguments = parse()
    out = arguments.out or Path("runs") / f"dqn_atari_{arguments.seed}"
    tf.keras.utils.set_random_seed(arguments.seed)
    ray.init(include_dashboard=False, log_to_driver=False)
    training = Training(arguments, out)
    with training.manager as manager:
        if arguments.resume:
            training.resume()
        training.run()
        returns = manager.test(arguments.max_steps, arguments.episodes, evaluation_measure="reward", do_print=True)
        memory = manager.buffer.memory()
    result = {
        "task": f"{arguments.game}, pixels",
        "seed": arguments.seed,
        "env_steps": training.counters["env_steps"],
        "updates": training.counters["updates"],
        "warm_up_steps": training.counters["env_steps"] - STEPS_AN_UPDATE * training.counters["updates"],
        "tested": f"{TEST_EPISODES} greedy games a point",
        "wall_seconds": training.counters["seconds"],
        "mean_return": float(np.mean(returns)),
        "std_return": float(np.std(returns)),
        "buffer_rows": len(manager.buffer),
        "buffer_bytes": memory["held"],
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"learning curve: {manager.aggregator.plot()}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--game", default="pong")
    parser.add_argument("--steps", type=int, default=10_000_000, help="environment steps, of four frames each")
    parser.add_argument("--buffer", type=int, default=1_000_000, help="transitions")
    parser.add_argument("--learning-starts", type=int, default=80_000, help="steps before the first update")
    parser.add_argument("--test-every", type=int, default=25_000, help="steps from one test and checkpoint to the next")
    parser.add_argument("--episodes", type=int, default=20, help="games played at the end")
    parser.add_argument("--max-steps", type=int, default=27_000, help="longest game in a test")
    parser.add_argument("--path", type=Path, help="folder for the buffer's files (default: the buffer is in memory)")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for results (default: runs/dqn_atari_<seed>)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
