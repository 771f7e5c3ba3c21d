"""DQN learns CartPole-v1 from parallel runners: the main use of `really`, through its public API.

`python examples/dqn_cartpole.py [--seed N] [--out DIR]` trains for at most 80,000 steps. It stops early at weights that
play 100 perfect episodes, and otherwise returns to the best weights. Then it saves and loads the model and plays 100
greedy episodes. It writes `result.json`, `progress/` with the curves and `models/` to DIR (by default
`runs/dqn_cartpole_<seed>`).

The update is double DQN (van Hasselt et al. 2016) with a slowly moving target network (Lillicrap et al. 2016). Targets
bootstrap through time limits, because `terminal` is 1 only at true termination. Rewards are scaled so that values stay
near 1, where a squared error and Adam's default steps have the right size.
"""

from __future__ import annotations

from typing import Any

import experiment
import numpy as np
import tensorflow as tf

from really import SampleManager
from really.learners import DQNLearner

TASK = experiment.Task("CartPole-v1", env_steps=80_000, max_steps=500, solved=499.0, evaluate_every=1_024)
AGENTS, STEPS_A_CALL = 8, 256  # a call collects this many rows, from all agents together
UPDATES_A_CALL, BATCH = 128, 64  # updates run inside one compiled call
REWARD_SCALE, TARGET_RATE = 0.02, 0.01
LEARNING_RATE_START, LEARNING_RATE_END = 1e-3, 5e-5
EPSILON_START, EPSILON_END, EPSILON_STEPS = 1.0, 0.04, 8_000


class QNetwork(tf.keras.Model):
    """Two hidden layers; the output is a dict, as `really` expects of every model."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.hidden = [tf.keras.layers.Dense(128, activation="relu") for _ in range(2)]
        self.q = tf.keras.layers.Dense(num_actions)

    def call(self, state: tf.Tensor) -> dict[str, tf.Tensor]:
        for layer in self.hidden:
            state = layer(state)
        return {"q_values": self.q(state)}


def make_manager(seed: int, **more: Any) -> SampleManager:
    return SampleManager(
        model=QNetwork,
        environment=TASK.name,
        num_parallel=AGENTS,
        total_steps=STEPS_A_CALL,
        action_sampling_type="epsilon_greedy",
        model_kwargs={"num_actions": 2},
        num_steps=STEPS_A_CALL // AGENTS,
        gamma=0.99,
        reward_scale=REWARD_SCALE,
        epsilon=EPSILON_START,
        seed=seed,
        **more,
    )


def epsilon_at(env_steps: int) -> float:
    """Epsilon falls linearly, then stays constant."""
    return float(np.interp(env_steps, [0, EPSILON_STEPS], [EPSILON_START, EPSILON_END]))


def train(run: experiment.Run) -> None:
    manager = run.manager
    manager.initilize_buffer(TASK.env_steps)
    decay = TASK.env_steps // STEPS_A_CALL * UPDATES_A_CALL
    rate = tf.keras.optimizers.schedules.PolynomialDecay(LEARNING_RATE_START, decay, LEARNING_RATE_END)
    learner = DQNLearner(manager, tf.keras.optimizers.Adam(rate), target_rate=TARGET_RATE, huber_delta=None)
    while run.goes_on():
        epsilon = epsilon_at(run.env_steps)
        manager.set_epsilon(epsilon)
        manager.store_in_buffer(run.collect())
        update = learner.update(manager.buffer.sample((UPDATES_A_CALL, BATCH)))
        manager.set_agent(learner.agent.get_weights())
        run.learned(UPDATES_A_CALL, loss=update.loss, epsilon=epsilon)


if __name__ == "__main__":
    experiment.main(__file__, TASK, make_manager, train, keys=("loss", "epsilon"))
