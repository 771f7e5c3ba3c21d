"""DQN learns CartPole-v1 on experience from parallel runners: the main job of `really`, through its public API.

`python examples/dqn_cartpole.py [--seed N] [--out DIR]` trains for at most 80,000 steps, stops early at weights that
play 120 perfect episodes, else goes back to the best weights seen, and plays 100 greedy episodes with the model saved
and loaded again. DIR (by default `runs/dqn_cartpole_<seed>`) then has `result.json`, `progress/` with the curves and
`models/`.

The update is that of double DQN (van Hasselt et al. 2016) with a target network that follows slowly (Lillicrap et al.
2016); a target goes on through a time limit, as `terminal` is 1 at true termination only. Rewards are scaled so that
values stay near 1, where a squared error and Adam's default steps are of the right size.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up lines would hide the progress bar

import numpy as np  # noqa: E402
import ray  # noqa: E402
import tensorflow as tf  # noqa: E402
from tqdm import tqdm  # noqa: E402

from really import SampleManager  # noqa: E402

ENV_STEPS = 80_000
AGENTS, STEPS_A_CALL = 8, 256  # a call collects this many rows, from all agents together
UPDATES_A_CALL, BATCH = 128, 64  # updates run inside one compiled call
GAMMA, REWARD_SCALE, TARGET_RATE = 0.99, 0.02, 0.01
LEARNING_RATE_START, LEARNING_RATE_END = 1e-3, 5e-5
EPSILON_START, EPSILON_END, EPSILON_STEPS = 1.0, 0.04, 8_000
EVALUATE_EVERY, EVALUATION_EPISODES, CONFIRMATION_EPISODES, SOLVED = 1_024, 20, 100, 499.0


class QNetwork(tf.keras.Model):
    """Two hidden layers; the output is a dict, as `really` asks of every model."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.hidden = [tf.keras.layers.Dense(128, activation="relu") for _ in range(2)]
        self.q = tf.keras.layers.Dense(num_actions)

    def call(self, state: tf.Tensor) -> dict[str, tf.Tensor]:
        for layer in self.hidden:
            state = layer(state)
        return {"q_values": self.q(state)}


def make_update(model: tf.keras.Model, target: tf.keras.Model, optimizer: tf.keras.optimizers.Optimizer):
    """A compiled function that does one update per leading row of a batch `[update, row, ...]`."""
    optimizer.build(model.trainable_variables)

    def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        best = tf.argmax(model(batch["state_new"])["q_values"], axis=-1)
        next_q = tf.gather(target(batch["state_new"])["q_values"], best, batch_dims=1)
        goal = REWARD_SCALE * batch["reward"] + GAMMA * (1.0 - batch["terminal"]) * next_q
        with tf.GradientTape() as tape:
            q = tf.gather(model(batch["state"])["q_values"], batch["action"], batch_dims=1)
            loss = tf.reduce_mean(tf.square(goal - q))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        for slow, fast in zip(target.trainable_variables, model.trainable_variables, strict=True):
            slow.assign_add(TARGET_RATE * (fast - slow))
        return loss

    @tf.function(jit_compile=True)
    def update(batches: dict[str, tf.Tensor]) -> tf.Tensor:
        losses = tf.TensorArray(tf.float32, size=UPDATES_A_CALL)
        for at in tf.range(UPDATES_A_CALL):
            losses = losses.write(at, step({name: rows[at] for name, rows in batches.items()}))
        return losses.stack()

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="folder for results (default: runs/dqn_cartpole_<seed>)")
    arguments = parser.parse_args()
    out = arguments.out or Path("runs") / f"dqn_cartpole_{arguments.seed}"
    tf.keras.utils.set_random_seed(arguments.seed)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    ray.init(include_dashboard=False, log_to_driver=False)

    manager = SampleManager(
        model=QNetwork,
        environment="CartPole-v1",
        num_parallel=AGENTS,
        total_steps=STEPS_A_CALL,
        action_sampling_type="epsilon_greedy",
        model_kwargs={"num_actions": 2},
        num_steps=STEPS_A_CALL // AGENTS,
        epsilon=EPSILON_START,
        seed=arguments.seed,
    )
    with manager:
        result = train(manager, out)
        result = {"task": "CartPole-v1", "seed": arguments.seed, **result}
        result |= finish(manager, out, result["env_steps"])
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"100 greedy episodes: {result['mean_return']:.1f} ± {result['std_return']:.1f} steps")
    print(f"learning curve: {manager.aggregator.plot()}")


def train(manager: SampleManager, out: Path) -> dict[str, float]:
    """Trains until the budget is used or the task is solved; the best weights seen stay in the manager."""
    manager.initilize_buffer(ENV_STEPS)
    manager.initialize_aggregator(out / "progress", saving_after=100, aggregator_keys=["loss", "reward", "epsilon"])
    agent = manager.get_agent()
    target = agent.copy()
    decay = ENV_STEPS // STEPS_A_CALL * UPDATES_A_CALL
    rate = tf.keras.optimizers.schedules.PolynomialDecay(LEARNING_RATE_START, decay, LEARNING_RATE_END)
    update = make_update(agent.model, target.model, tf.keras.optimizers.Adam(rate))
    best, best_weights, updates, env_steps = -np.inf, agent.get_weights(), 0, 0
    with tqdm(total=ENV_STEPS, unit="step") as bar:
        while env_steps < ENV_STEPS and best < SOLVED:
            epsilon = float(np.interp(env_steps, [0, EPSILON_STEPS], [EPSILON_START, EPSILON_END]))
            manager.set_epsilon(epsilon)
            data = manager.get_data()
            manager.store_in_buffer(data)
            env_steps += len(data["reward"])
            losses = update(sample_for_updates(manager))
            updates += UPDATES_A_CALL
            manager.set_agent(agent.get_weights())
            length = len(data["reward"]) / max(1.0, len(data["reward"]) - data["not_done"].sum())
            manager.update_aggregator(loss=losses, reward=length, epsilon=epsilon)
            if env_steps % EVALUATE_EVERY < STEPS_A_CALL and (score := evaluate(manager)) > best:
                best, best_weights = score, agent.get_weights()
            bar.update(len(data["reward"]))
            bar.set_postfix(
                reward=f"{length:.0f}", best=f"{best:.0f}", epsilon=f"{epsilon:.2f}", loss=f"{losses[-1]:.4f}"
            )
    manager.set_agent(best_weights)
    return {"env_steps": env_steps, "updates": updates, "wall_seconds": time.perf_counter() - STARTED}


def sample_for_updates(manager: SampleManager) -> dict[str, np.ndarray]:
    """Batches for all updates of a call at once, `[update, row, ...]`."""
    rows = manager.sample(UPDATES_A_CALL * BATCH)
    return {name: column.reshape(UPDATES_A_CALL, BATCH, *column.shape[1:]) for name, column in rows.items()}


def evaluate(manager: SampleManager) -> float:
    """Mean return of a few greedy episodes, or of many where the few were perfect."""
    score = np.mean(manager.test(500, EVALUATION_EPISODES, evaluation_measure="reward"))
    if score >= SOLVED:
        score = np.mean(manager.test(500, CONFIRMATION_EPISODES, evaluation_measure="reward"))
    return float(score)


def finish(manager: SampleManager, out: Path, env_steps: int) -> dict[str, float]:
    """Saves the model, loads it again, and plays 100 greedy episodes with what was loaded."""
    manager.save_model(out / "models", env_steps)
    manager.load_model(out / "models")
    returns = manager.test(500, test_episodes=100, evaluation_measure="reward", do_print=True)
    return {"mean_return": float(np.mean(returns)), "std_return": float(np.std(returns))}


if __name__ == "__main__":
    main()
