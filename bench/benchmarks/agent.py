"""The agent's methods cost no more than the bare TensorFlow functions: the same model, the same batch, one run."""

import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def network():
    import keras

    state = keras.Input((4,))
    hidden = keras.layers.Dense(64, activation="relu")(state)
    hidden = keras.layers.Dense(64, activation="relu")(hidden)
    outputs = {"q_values": keras.layers.Dense(2)(hidden), "v_estimate": keras.layers.Dense(1)(hidden)}
    return keras.Model(state, outputs)


def bare_functions(model, epsilon):
    """Hand-written functions for this model."""
    import tensorflow as tf

    def log_prob(state, action):
        q = model(state)["q_values"]
        greedy = tf.one_hot(tf.argmax(q, axis=-1), 2)
        return tf.math.log(tf.gather((1.0 - epsilon) * greedy + epsilon / 2, action, batch_dims=1))

    return {
        "max_q": tf.function(lambda state, action: tf.reduce_max(model(state)["q_values"], axis=-1)),
        "q_val": tf.function(lambda state, action: tf.gather(model(state)["q_values"], action, batch_dims=1)),
        "v": tf.function(lambda state, action: tf.reshape(model(state)["v_estimate"], [-1])),
        "flowing_log_prob": tf.function(log_prob),
    }


class Methods:
    """`agent` takes less than `bare`, for tensors and for arrays, with a gradient or without."""

    params = (["max_q", "q_val", "v", "flowing_log_prob"], ["tensors", "arrays"], ["bare", "agent"])
    param_names = ("method", "given", "way")

    def setup(self, method, given, way):
        import tensorflow as tf
        from gymnasium import spaces

        from really.agents.agent import Agent

        draw = np.random.default_rng(0)
        self.model, box = network(), spaces.Box(-np.inf, np.inf, (4,))
        agent = Agent(self.model, box, spaces.Discrete(2), "epsilon_greedy", epsilon=0.3)
        state, action = draw.standard_normal((64, 4)).astype(np.float32), draw.integers(0, 2, 64)
        if given == "tensors":
            state, action = tf.constant(state), tf.constant(action)
        arguments = (state, action) if way == "bare" or method in ("q_val", "flowing_log_prob") else (state,)
        function = bare_functions(self.model, 0.3)[method] if way == "bare" else getattr(agent, method)
        self.call = lambda: function(*arguments)
        self.call()

    def time_call(self, method, given, way):
        self.call()

    def time_gradient(self, method, given, way):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            result = self.call()
        tape.gradient(result, self.model.trainable_variables)


class Lent:
    """An agent that is got again each epoch costs about a call, beside a target too; a new name costs a copy, once."""

    params = (["again", "again beside a target", "copy"],)
    param_names = ("agent",)

    def setup(self, agent):
        from gymnasium import spaces

        from really.agents.agent import Agent
        from really.agents.lending import Lender

        box = spaces.Box(-np.inf, np.inf, (4,))
        self.lender = Lender(Agent(network(), box, spaces.Discrete(2), "epsilon_greedy", make_model=network))
        self.states, self.target = np.zeros((1, 4), np.float32), self.lender.lend()
        if agent == "again":
            self.target = None
        else:
            self.target.max_q(self.states)
        self.agent = self.lender.lend()
        self.call = self.copy if agent == "copy" else self.get

    def get(self):
        self.agent = self.lender.lend()
        self.agent.max_q(self.states)

    def copy(self):
        self.agent.copy()

    def time_get(self, agent):
        self.call()
