"""Models with computed shapes, whose memory LiteRT moves during a call; test_inference runs this as a process.

python moving_memory.py NAME HEIGHT WIDTH DTYPE
"""

import itertools
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from really.agents.tensorflow import export as exporting
from really.policies.inference import load
from really.policies.model_state import ModelState


class CountedLarge(keras.layers.Layer):
    """Outputs the number of large inputs of the first state, after a copy whose length depends on the data."""

    def call(self, x):
        kept = tf.boolean_mask(x[0], x[0] > 0.5)
        return tf.reduce_sum(tf.ones_like(kept)) * 0.01 * tf.ones_like(x[:, :1])


def model_named(name, shape):
    inputs = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Flatten()(x)
    if name == "hidden":
        x = keras.layers.Dense(64, "relu")(x)
    if name == "data-dependent":
        x = keras.layers.Concatenate()([x, CountedLarge()(x)])
    q_values = keras.layers.Dense(6)(x)
    return keras.Model(inputs, {"q_values": keras.layers.Reshape((6,))(q_values) if name == "reshaped" else q_values})


def expect_agreement(candidate, model, leaves_of):
    """Compares call after call with Keras, for several sets of weights and several batch sizes."""
    rng = np.random.default_rng(1)
    for rows in (1, 2, 5):
        forward = load(candidate, rows)
        for _ in range(3):
            weights = exporting._random_weights(ModelState(model), rng)
            forward.set_weights(weights)
            for share in (0.0, 0.2, 1.0):
                leaves = leaves_of(rng, rows, share)
                expected = exporting._expected(model, ModelState(model), weights, leaves[0])
                np.testing.assert_allclose(forward(leaves)["q_values"], expected["q_values"], rtol=1e-4, atol=1e-4)


def check(name, size, dtype):
    shape = (4, size, size)
    space = spaces.Box(0, 255, shape, np.dtype(dtype).type)
    model, leaves = model_named(name, shape), exporting.model_leaves(space)
    function, trials = (
        exporting._trace(model, ModelState(model), space, leaves),
        exporting._trials(model, ModelState(model), space, 2),
    )
    base = exporting.Exported("eager", b"", leaves, ("q_values",), [tuple(weight.shape) for weight in model.weights])
    static = exporting._static(function, base, trials[1].weights)
    for candidate in (replace(base, kind="litert", payload=exporting._convert(function)), static):
        exporting._verify_and_time(candidate, trials, 2)
        expect_agreement(
            candidate, model, lambda rng, n, share: [(rng.random((n, *shape)) * 255 * share).astype(dtype)]
        )
        print(name, size, dtype, candidate.kind, flush=True)


if __name__ == "__main__":
    for case in itertools.product(("plain", "hidden", "reshaped", "data-dependent"), (3, 84), ("uint8", "float32")):
        check(*case)
