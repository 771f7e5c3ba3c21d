"""Claim: XLA speeds up many updates of a small network in one call; TensorFlow is faster for convolutions.

Seconds of one call with all its updates. `DQNLearner` chooses the faster of the two by default.
"""

import contextlib

import numpy as np

PARTS = {"cartpole": ((4,), np.float32, 128, 64), "atari": ((84, 84, 4), np.uint8, 4, 32)}


class DQNUpdates:
    """`DQNLearner.update`: 128 updates with 64 rows of a 128-128 MLP, 4 with 32 rows of the Nature CNN."""

    params = (("cartpole", "atari"), ("xla", "tensorflow"))
    param_names = ("task", "compiler")
    timeout = 300

    def setup(self, task, compiler):
        import tensorflow as tf
        from gymnasium import spaces

        from really.agents.agent import Agent
        from really.agents.models import build_model
        from really.learners import DQNLearner

        with contextlib.suppress(RuntimeError):  # with `pytest bench` other benchmarks have used TensorFlow before
            tf.config.threading.set_intra_op_parallelism_threads(1)
        shape, dtype, updates, rows = PARTS[task]
        space = spaces.Box(0, 255, shape, dtype)

        def make():
            return build_model(network, {"shape": shape}, None, space)

        agent = Agent(make(), space, spaces.Discrete(6), "epsilon_greedy", make_model=make)
        optimizer = tf.keras.optimizers.Adam(1e-4)
        self.learner = DQNLearner(agent, optimizer, gamma=0.99, target_every=100, jit_compile=compiler == "xla")
        rng = np.random.default_rng(0)
        self.batch = {
            "state": rng.integers(0, 256, (updates, rows, *shape)).astype(dtype),
            "state_new": rng.integers(0, 256, (updates, rows, *shape)).astype(dtype),
            "action": rng.integers(0, 6, (updates, rows)),
            "reward": rng.random((updates, rows), np.float32),
            "terminal": np.zeros((updates, rows), np.float32),
        }
        self.learner.update(self.batch)

    def time_update(self, task, compiler):
        self.learner.update(self.batch)


def network(shape):
    """The Nature CNN (Mnih et al. 2015) for images, two layers of 128 for all else."""
    import keras

    layers = keras.layers
    state = keras.Input(shape)
    hidden = layers.Rescaling(1 / 255)(state)
    if len(shape) == 3:
        for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            hidden = layers.Conv2D(filters, size, stride, activation="relu")(hidden)
        hidden = layers.Dense(512, activation="relu")(layers.Flatten()(hidden))
    else:
        for _ in range(2):
            hidden = layers.Dense(128, activation="relu")(hidden)
    return keras.Model(state, {"q_values": layers.Dense(6)(hidden)})
