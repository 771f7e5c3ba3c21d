"""PPO learns LunarLanderContinuous-v3: a normal policy with a diagonal covariance, and advantages from the runners.

`python examples/ppo_lunarlander.py [--seed N] [--out DIR]` trains for at most 1,000,000 steps. It stops early at
weights with a mean return of 250 in 100 greedy episodes, and otherwise returns to the best weights. Then it saves and
loads the model and plays 100 greedy episodes. It writes `result.json`, `progress/` with the curves and `models/` to DIR
(by default `runs/ppo_lunarlander_<seed>`). It needs `gymnasium[box2d]`.

`get_data()` delivers all that PPO needs: the sampled actions, their log-probabilities, and generalised advantages.
Greedy episodes take the mean action.
"""

from __future__ import annotations

import experiment
import numpy as np
import tensorflow as tf

from really import SampleManager
from really.learners import PPOLearner

TASK = experiment.Task(
    "LunarLanderContinuous-v3", env_steps=1_000_000, max_steps=1000, solved=250.0, evaluate_every=32_768
)
AGENTS, STEPS_A_CALL = 16, 8_192  # a call collects this many rows, from all agents together
EPOCHS, MINIBATCH = 6, 128
GAMMA, GAE_LAMBDA, CLIP_RANGE = 0.999, 0.98, 0.2
LEARNING_RATE_START, LEARNING_RATE_END = 1e-3, 1e-4
# Returns are in the hundreds. In this unit values have the size of a new network's outputs.
VALUE_UNIT = 100.0


class ActorCritic(tf.keras.Model):
    """Separate networks for the mean action and the value; the standard deviation does not depend on the state."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.actor = [tf.keras.layers.Dense(64, activation="tanh", kernel_initializer=orthogonal()) for _ in range(2)]
        self.critic = [tf.keras.layers.Dense(64, activation="tanh", kernel_initializer=orthogonal()) for _ in range(2)]
        # Initial actions near zero, around which the policy explores (Andrychowicz et al. 2021, section 3.2).
        self.mu = tf.keras.layers.Dense(dimensions, kernel_initializer=orthogonal(0.01))
        self.value = tf.keras.layers.Dense(1, kernel_initializer=orthogonal(1.0))
        self.log_sigma = self.add_weight(shape=(dimensions,), initializer="zeros", name="log_sigma")

    def call(self, state: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden, features = state, state
        for layer in self.actor:
            hidden = layer(hidden)
        for layer in self.critic:
            features = layer(features)
        return {
            "mu": self.mu(hidden),
            "sigma": tf.exp(self.log_sigma),
            "v_estimate": VALUE_UNIT * self.value(features),
        }


def orthogonal(gain: float = np.sqrt(2.0)) -> tf.keras.initializers.Initializer:
    return tf.keras.initializers.Orthogonal(gain)


def make_manager(seed: int) -> SampleManager:
    return SampleManager(
        model=ActorCritic,
        environment=TASK.name,
        num_parallel=AGENTS,
        total_steps=STEPS_A_CALL,
        returns=["log_prob", "value_estimate", "advantage"],
        action_sampling_type="continuous_normal_diagonal",
        model_kwargs={"dimensions": 2},
        num_steps=STEPS_A_CALL // AGENTS,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        seed=seed,
    )


def train(run: experiment.Run) -> None:
    manager = run.manager
    minibatches = EPOCHS * STEPS_A_CALL // MINIBATCH
    decay = TASK.env_steps // STEPS_A_CALL * minibatches
    rate = tf.keras.optimizers.schedules.PolynomialDecay(LEARNING_RATE_START, decay, LEARNING_RATE_END)
    learner = PPOLearner(
        manager,
        tf.keras.optimizers.Adam(rate, epsilon=1e-5),
        epochs=EPOCHS,
        minibatch_size=MINIBATCH,
        clip_range=CLIP_RANGE,
        value_coefficient=0.5 / VALUE_UNIT**2,
        seed=manager.kwargs["seed"],
    )
    while run.goes_on():
        update = learner.update(run.collect())
        manager.set_agent(learner.agent.get_weights())
        run.learned(minibatches, loss=update.value_loss / VALUE_UNIT**2, entropy=update.entropy, kl=update.approx_kl)


if __name__ == "__main__":
    experiment.main(__file__, TASK, make_manager, train, keys=("loss", "entropy", "kl"))
