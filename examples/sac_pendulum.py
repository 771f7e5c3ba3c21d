"""SAC learns Pendulum-v1: a squashed normal policy, two critics, and a temperature that is learned.

`python examples/sac_pendulum.py [--seed N] [--out DIR]` trains for 10,000 steps, keeps the weights with the best mean
return of 100 greedy episodes, saves and loads the model, and plays 100 greedy episodes. It writes `result.json`,
`progress/` with the curves and `models/` to DIR (by default `runs/sac_pendulum_<seed>`).

Every episode has 200 steps and ends by its time limit, which is no termination: targets bootstrap through it.
"""

from __future__ import annotations

import experiment
import tensorflow as tf

from really import SampleManager
from really.learners import SACLearner

TASK = experiment.Task("Pendulum-v1", env_steps=10_240, max_steps=200, solved=0.0, evaluate_every=1_024)
STEPS_A_CALL, BATCH, START = 64, 256, 512
LEARNING_RATE, TARGET_RATE = 1e-3, 0.005
REWARD_SCALE = 0.1


class Actor(tf.keras.Model):
    """Two hidden layers; the standard deviation depends on the state and is kept within [e^-20, e^2]."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.hidden = [tf.keras.layers.Dense(256, activation="relu") for _ in range(2)]
        self.mu = tf.keras.layers.Dense(dimensions)
        self.log_sigma = tf.keras.layers.Dense(dimensions)

    def call(self, state: tf.Tensor) -> dict[str, tf.Tensor]:
        for layer in self.hidden:
            state = layer(state)
        return {"mu": self.mu(state), "sigma": tf.exp(tf.clip_by_value(self.log_sigma(state), -20.0, 2.0))}


def make_manager(seed: int) -> SampleManager:
    return SampleManager(
        model=Actor,
        environment=TASK.name,
        num_parallel=1,
        total_steps=STEPS_A_CALL,
        action_sampling_type="continuous_squashed_normal",
        model_kwargs={"dimensions": 1},
        num_steps=STEPS_A_CALL,
        gamma=0.99,
        reward_scale=REWARD_SCALE,
        seed=seed,
        use_ray=False,
    )


def train(run: experiment.Run) -> None:
    manager = run.manager
    manager.initialize_buffer(TASK.env_steps)
    optimizers = [tf.keras.optimizers.Adam(LEARNING_RATE) for _ in range(3)]
    learner = SACLearner(
        manager,
        optimizers[0],
        optimizers[1],
        temperature_optimizer=optimizers[2],
        target_rate=TARGET_RATE,
        temperature=REWARD_SCALE,
        seed=manager.kwargs["seed"],
    )
    while run.goes_on():
        manager.store_in_buffer(run.collect())
        if run.env_steps < START:
            continue
        # One update for each step, in one compiled call.
        update = learner.update(manager.buffer.sample((STEPS_A_CALL, BATCH)))
        manager.set_agent(learner.agent.get_weights())
        run.learned(STEPS_A_CALL, loss=update.critic_loss, temperature=update.temperature, entropy=update.entropy)


if __name__ == "__main__":
    experiment.main(__file__, TASK, make_manager, train, keys=("loss", "temperature", "entropy"), use_ray=False)
