"""DQN learns Acrobot-v1: double DQN with a dueling network, a Huber loss and a target network with periodic updates.

`python examples/dqn_acrobot.py [--seed N] [--out DIR]` trains for at most 150,000 steps. It stops early at weights that
need fewer than 82 steps on average in 300 greedy episodes, and otherwise returns to the best weights. Then it saves and
loads the model and plays 100 greedy episodes. It writes `result.json`, `progress/` with the curves and `models/` to DIR
(by default `runs/dqn_acrobot_<seed>`).

Every step costs 1 until the tip is above the line, so a return is minus the number of steps. The time limit of 500
steps is no termination: targets bootstrap through it, else standing still would look like a success.
"""

from __future__ import annotations

import experiment
import numpy as np
import tensorflow as tf

from really import SampleManager
from really.learners import DQNLearner

TASK = experiment.Task(
    "Acrobot-v1", env_steps=150_000, max_steps=500, solved=-82.0, evaluate_every=4_096, few=50, many=300
)
AGENTS, STEPS_A_CALL = 16, 512  # a call collects this many rows, from all agents together
UPDATES_A_CALL, BATCH = 512, 64  # updates run inside one compiled call
REWARD_SCALE, TARGET_EVERY = 0.1, 250
LEARNING_RATE_START, LEARNING_RATE_END = 1e-3, 5e-5
EPSILON_START, EPSILON_END, EPSILON_STEPS = 1.0, 0.05, 20_000


class DuelingNetwork(tf.keras.Model):
    """Q(s, a) = V(s) + A(s, a) - mean over actions of A(s, .) (Wang et al. 2016, equation 9)."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.hidden = [tf.keras.layers.Dense(128, activation="relu") for _ in range(2)]
        self.value, self.advantage = tf.keras.layers.Dense(1), tf.keras.layers.Dense(num_actions)

    def call(self, state: tf.Tensor) -> dict[str, tf.Tensor]:
        for layer in self.hidden:
            state = layer(state)
        advantage = self.advantage(state)
        return {"q_values": self.value(state) + advantage - tf.reduce_mean(advantage, axis=-1, keepdims=True)}


def make_manager(seed: int) -> SampleManager:
    return SampleManager(
        model=DuelingNetwork,
        environment=TASK.name,
        num_parallel=AGENTS,
        total_steps=STEPS_A_CALL,
        action_sampling_type="epsilon_greedy",
        model_kwargs={"num_actions": 3},
        num_steps=STEPS_A_CALL // AGENTS,
        gamma=0.99,
        reward_scale=REWARD_SCALE,
        epsilon=EPSILON_START,
        seed=seed,
    )


def train(run: experiment.Run) -> None:
    manager = run.manager
    manager.initilize_buffer(TASK.env_steps)
    decay = TASK.env_steps // STEPS_A_CALL * UPDATES_A_CALL
    rate = tf.keras.optimizers.schedules.PolynomialDecay(LEARNING_RATE_START, decay, LEARNING_RATE_END)
    learner = DQNLearner(manager, tf.keras.optimizers.Adam(rate), target_every=TARGET_EVERY)
    while run.goes_on():
        epsilon = float(np.interp(run.env_steps, [0, EPSILON_STEPS], [EPSILON_START, EPSILON_END]))
        manager.set_epsilon(epsilon)
        manager.store_in_buffer(run.collect())
        update = learner.update(manager.buffer.sample((UPDATES_A_CALL, BATCH)))
        manager.set_agent(learner.agent.get_weights())
        run.learned(UPDATES_A_CALL, loss=update.loss, epsilon=epsilon)


if __name__ == "__main__":
    experiment.main(__file__, TASK, make_manager, train, keys=("loss", "epsilon"))
