"""Keras models as users write them, for the tests of all wings."""

import keras
import numpy as np
import tensorflow as tf

L = keras.layers


class QNet(keras.Model):
    """Two hidden layers; outputs `q_values`, and `v_estimate` with `value=True`."""

    def __init__(self, num_actions=2, hidden=64, value=False):
        super().__init__()
        self.hidden = [L.Dense(hidden, activation="relu"), L.Dense(hidden, activation="relu")]
        self.q = L.Dense(num_actions)
        self.value = L.Dense(1) if value else None

    def call(self, x):
        for layer in self.hidden:
            x = layer(x)
        outputs = {"q_values": self.q(x)}
        if self.value is not None:
            outputs["v_estimate"] = self.value(x)
        return outputs


class DecoratedCall(keras.Model):
    def __init__(self, num_actions=2):
        super().__init__()
        self.q = L.Dense(num_actions)

    @tf.function
    def call(self, x):
        return {"q_values": self.q(x)}


class OwnCall(keras.Model):
    """Overrides `__call__`, as scripts of the published API do."""

    def __init__(self, num_actions=2):
        super().__init__()
        self.dense, self.q = L.Dense(16, activation="tanh"), L.Dense(num_actions)

    def __call__(self, x):
        return {"q_values": self.q(self.dense(x))}


class DecoratedOwnCall(OwnCall):
    @tf.function
    def __call__(self, x):
        return {"q_values": self.q(self.dense(x))}


class DecoratedLayer(L.Layer):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(8)

    @tf.function
    def call(self, x):
        return self.features(x)

    @tf.function
    def features(self, x):
        return tf.nn.relu(self.dense(x))


class NestedDecorated(keras.Model):
    def __init__(self, num_actions=2):
        super().__init__()
        self.inner, self.q = DecoratedLayer(), L.Dense(num_actions)

    def call(self, x):
        return {"q_values": self.q(self.inner(x))}


class ActorCritic(keras.Model):
    """`mu`, a `sigma` without a batch axis, and `value_estimate`."""

    def __init__(self, dimensions=2):
        super().__init__()
        self.hidden, self.mu, self.value = L.Dense(32, activation="tanh"), L.Dense(dimensions), L.Dense(1)
        self.log_sigma = self.add_weight(shape=(dimensions,), initializer="zeros", name="log_sigma")

    def call(self, x):
        hidden = self.hidden(x)
        return {
            "mu": self.mu(hidden),
            "sigma": keras.ops.exp(self.log_sigma),
            "value_estimate": self.value(hidden),
        }


class Policy(keras.Model):
    """`policy` logits and `v_estimate`."""

    def __init__(self, num_logits=2):
        super().__init__()
        self.hidden, self.logits, self.value = L.Dense(32, activation="tanh"), L.Dense(num_logits), L.Dense(1)

    def call(self, x):
        hidden = self.hidden(x)
        return {"policy": self.logits(hidden), "v_estimate": self.value(hidden)}


class NatureCNN(keras.Model):
    """The network of Mnih et al. 2015 on uint8 frames [84, 84, stack]."""

    def __init__(self, num_actions=6):
        super().__init__()
        self.convolutions = [
            L.Conv2D(32, 8, 4, activation="relu"),
            L.Conv2D(64, 4, 2, activation="relu"),
            L.Conv2D(64, 3, 1, activation="relu"),
        ]
        self.flatten, self.dense, self.q = L.Flatten(), L.Dense(512, activation="relu"), L.Dense(num_actions)

    def call(self, x):
        x = tf.cast(x, tf.float32) / 255.0
        for layer in self.convolutions:
            x = layer(x)
        return {"q_values": self.q(self.dense(self.flatten(x)))}


class DictModel(keras.Model):
    """Takes {"image": uint8 [8, 8, 1], "speed": float [3]}."""

    def __init__(self, num_actions=3):
        super().__init__()
        self.convolution, self.flatten, self.q = L.Conv2D(4, 3), L.Flatten(), L.Dense(num_actions)

    def call(self, x):
        image = self.flatten(self.convolution(tf.cast(x["image"], tf.float32) / 255.0))
        return {"q_values": self.q(tf.concat([image, x["speed"]], axis=-1))}


class Normalised(keras.Model):
    """Batch normalisation: its statistics are not trained, and a converter folds them into other weights."""

    def __init__(self, num_actions=2):
        super().__init__()
        self.dense, self.norm, self.q = L.Dense(16), L.BatchNormalization(), L.Dense(num_actions)

    def call(self, x):
        return {"q_values": self.q(tf.nn.relu(self.norm(self.dense(x))))}


class OneHot(keras.Model):
    """For a Discrete observation space."""

    def __init__(self, states=6, num_actions=2):
        super().__init__()
        self.states, self.q = states, L.Dense(num_actions)

    def call(self, x):
        return {"q_values": self.q(tf.one_hot(x, self.states))}


class Dropping(keras.Model):
    """Dropout while acting."""

    def __init__(self, num_actions=2):
        super().__init__()
        self.drop, self.q = L.Dropout(0.5), L.Dense(num_actions)

    def call(self, x):
        return {"q_values": self.q(self.drop(x, training=True))}


class Noisy(keras.Model):
    """Draws from TensorFlow's global generator while acting."""

    def __init__(self, num_actions=2):
        super().__init__()
        self.q = L.Dense(num_actions)

    def call(self, x):
        q = self.q(x)
        return {"q_values": q + tf.random.normal(tf.shape(q))}


class Counting(keras.Model):
    """Its output depends on a Python side effect."""

    def __init__(self, num_actions=2):
        super().__init__()
        self.q, self.calls = L.Dense(num_actions), 0

    def call(self, x):
        self.calls += 1
        return {"q_values": self.q(x) + float(self.calls)}


class Branching(keras.Model):
    """Data-dependent control flow, which AutoGraph converts because `call` is decorated."""

    def __init__(self, num_actions=2):
        super().__init__()
        self.q = L.Dense(num_actions)

    @tf.function
    def call(self, x):
        if tf.reduce_sum(x) > 0:
            x = x * 2.0
        return {"q_values": self.q(x)}


class InNumPy(keras.Model):
    """Computes partly in NumPy, which no graph can follow."""

    def __init__(self, num_actions=2):
        super().__init__()
        self.q = L.Dense(num_actions)

    def call(self, x):
        return {"q_values": tf.constant(np.sort(self.q(x).numpy(), axis=-1))}


class Frozen(keras.Model):
    """Has weights that do not affect its output."""

    def __init__(self, num_actions=2):
        super().__init__()
        self.q, self.num_actions = L.Dense(num_actions), num_actions

    def call(self, x):
        self.q(x)
        return {"q_values": tf.stack([tf.reduce_sum(x, -1)] * self.num_actions, -1)}


class IntegerWeights(keras.Model):
    def __init__(self, num_actions=2):
        super().__init__()
        self.q = L.Dense(num_actions)
        self.shift = self.add_weight(shape=(num_actions,), dtype="int32", initializer="ones", trainable=False)

    def call(self, x):
        return {"q_values": self.q(x) + keras.ops.cast(self.shift, "float32")}


class NoDict(keras.Model):
    def __init__(self, num_actions=2):
        super().__init__()
        self.q = L.Dense(num_actions)

    def call(self, x):
        return self.q(x)


class Table:
    """Tabular Q-values in plain NumPy: one state at a time, without Keras and without an input shape."""

    def __init__(self, states=6, num_actions=2):
        self.table = np.zeros((states, num_actions), np.float32)

    def __call__(self, state):
        return {"q_values": self.table[int(np.ravel(state)[0])][None]}

    def get_weights(self):
        return [self.table.copy()]

    def set_weights(self, weights):
        self.table = np.array(weights[0], np.float32)


def functional(num_actions=2, inputs=4):
    """A function that returns a model."""
    x = keras.Input((inputs,))
    hidden = L.Dense(16, activation="relu")(x)
    return keras.Model(x, {"q_values": L.Dense(num_actions)(hidden), "v_estimate": L.Dense(1)(hidden)})
