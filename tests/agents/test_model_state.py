"""The state of a model reaches runners, copies, files and other managers, whatever Keras calls a weight."""

import weakref

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

from really import SampleManager
from really.agents.agent import Agent
from really.agents.models import build_model
from really.errors import ModelError
from really.learners import A2CLearner, DQNLearner
from really.policies.model_state import ModelState
from tests import models

L = keras.layers


class Around(keras.Model):
    """A layer between two dense ones."""

    def __init__(self, layer, shape=(4,)):
        super().__init__()
        self.layer, self.shaped = layer(), L.Reshape(shape)
        self.flat, self.q = L.Flatten(), L.Dense(2)

    def call(self, x):
        return {"q_values": self.q(self.flat(self.layer(self.shaped(x))))}


class Attention(L.Layer):
    def __init__(self):
        super().__init__()
        self.attention = L.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


class Attribute(keras.Model):
    """A variable of TensorFlow is an attribute, as of a standard deviation that does not depend on the state."""

    def __init__(self):
        super().__init__()
        self.q, self.log_scale = L.Dense(2), tf.Variable([0.0, 0.5], name="log_scale")

    def call(self, x):
        return {"q_values": self.q(x) * tf.exp(self.log_scale)}


class Head:
    """No layer, so that Keras does not see the layer and the variables that it holds."""

    def __init__(self):
        self.dense, self.shifts = L.Dense(2), {"up": tf.Variable(1.0), "rows": [tf.Variable([[1.0, 2.0]])]}

    def forward(self, x):
        return self.dense(x) * self.shifts["up"].read_value() + self.shifts["rows"][0]


class Hidden(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.head = L.Dense(8), Head()

    def call(self, x):
        return {"q_values": self.head.forward(self.first(x))}


class Module(tf.Module):
    """No model of Keras, and no `get_weights`."""

    def __init__(self):
        super().__init__()
        self.kernel, self.count = tf.Variable(tf.ones((4, 2))), tf.Variable(3, trainable=False)

    def __call__(self, x):
        return {"q_values": x @ self.kernel * tf.cast(self.count, tf.float32)}


class Counted(keras.Model):
    """An integer that is no weight for Keras."""

    def __init__(self):
        super().__init__()
        self.q, self.count = L.Dense(2), tf.Variable(1, trainable=False)

    def call(self, x):
        return {"q_values": self.q(x) + tf.cast(self.count, tf.float32)}


STATEFUL = {
    "Dense": lambda: L.Dense(4),
    "EinsumDense": lambda: L.EinsumDense("ab,bc->ac", 3, bias_axes="c"),
    "PReLU": L.PReLU,
    "Normalization": L.Normalization,
    "BatchNormalization": L.BatchNormalization,
    "SpectralNormalization": lambda: L.SpectralNormalization(L.Dense(4)),
    "Dropout": lambda: L.Dropout(0.5),
}
SEQUENCES = {
    "Conv1D": lambda: L.Conv1D(3, 2),
    "MultiHeadAttention": Attention,
}
SLOW = {
    "LayerNormalization": lambda: L.LayerNormalization(),
    "GroupNormalization": lambda: L.GroupNormalization(2),
    "RMSNormalization": lambda: L.RMSNormalization(),
    "GaussianNoise": lambda: L.GaussianNoise(0.5),
    "SeparableConv1D": lambda: L.SeparableConv1D(3, 2),
    "LSTM": lambda: L.LSTM(3),
    "GRU": lambda: L.GRU(3),
    "SimpleRNN": lambda: L.SimpleRNN(3),
    "Bidirectional": lambda: L.Bidirectional(L.GRU(3)),
    "TimeDistributed": lambda: L.TimeDistributed(L.Dense(3)),
}
MODELS = {name: lambda layer=layer: Around(layer) for name, layer in STATEFUL.items()}
MODELS |= {name: lambda layer=layer: Around(layer, (2, 2)) for name, layer in {**SEQUENCES, **SLOW}.items()}
MODELS |= {"tf.Variable": Attribute, "variables of an object": Hidden, "tf.Module": Module, "integer": Counted}
CASES = [pytest.param(make, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name, make in MODELS.items()]


def make(model, **changes):
    given = {"num_steps": 20, "use_ray": False, "seed": 0, "returns": ["log_prob"], **changes}
    return SampleManager(model, "CartPole-v1", 2, 40, action_sampling_type="thompson", **given)


def moved(agent, seed):
    """Other values for all of the agent's state; only larger ones, as some are variances, and larger integers."""
    rng = np.random.default_rng(seed)
    weights = [np.asarray(weight) for weight in agent.get_weights()]
    return [w + (1 if w.dtype.kind in "iu" else 0.5 * rng.random(w.shape).astype(w.dtype)) for w in weights]


@pytest.mark.parametrize("model", CASES)
def test_the_state_of_a_model_moves_every_way(model, tmp_path):
    with make(model) as manager:
        manager.set_agent(moved(manager.get_agent(), 0))
        agent, data = manager.get_agent(), manager.get_data()
        states, actions = data["state"], data["action"]

        def is_as(other, expected):
            np.testing.assert_allclose(other.flowing_log_prob(states, actions), expected, rtol=1e-4, atol=1e-5)

        is_as(agent, data["log_prob"])
        is_as(agent.copy(), data["log_prob"])
        target = agent.copy()
        manager.set_agent(moved(agent, 1))
        agent = manager.get_agent()
        new = np.asarray(agent.flowing_log_prob(states, actions))
        assert not np.allclose(new, data["log_prob"], atol=1e-3)
        is_as(target, data["log_prob"])
        with make(model, weights=target.get_weights()) as other:
            is_as(other.get_agent(), data["log_prob"])
            manager.save_model(tmp_path / "models", 1)
            is_as(other.load_model(tmp_path / "models"), new)
            other.kwargs["weights"] = target.get_weights()
            is_as(other.get_agent(), data["log_prob"])
            manager.save_checkpoint(tmp_path / "run", target=target)
            others = agent.copy()
            other.load_checkpoint(tmp_path / "run", target=others)
            is_as(other.get_agent(), new)
            is_as(others, data["log_prob"])
            again = other.get_data()
            is_data = other.get_agent().flowing_log_prob(again["state"], again["action"])
            np.testing.assert_allclose(is_data, again["log_prob"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [models.QNet, models.functional, models.Normalised])
def test_weights_are_those_of_keras_if_there_is_nothing_else(model):
    with make(model) as manager:
        agent = manager.get_agent()
        for got, expected in zip(agent.get_weights(), agent.model.get_weights(), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_other_variables_follow_the_weights_and_may_be_left_out():
    with make(Attribute) as manager:
        agent = manager.get_agent()
        weights = agent.get_weights()
        np.testing.assert_array_equal(weights[-1], [0.0, 0.5])
        assert [variable.name for variable in agent.trainable_variables][-1] == "log_scale:0"
        agent.set_weights([weight + 1 for weight in agent.model.get_weights()])
        np.testing.assert_array_equal(agent.model.log_scale, [0.0, 0.5])
        with pytest.raises(ModelError, match=r"weights\[2\] \(log_scale\): expected shape \[2\], got \[3\]"):
            agent.set_weights([*weights[:-1], np.zeros(3)])
        np.testing.assert_array_equal(agent.get_weights()[0], weights[0] + 1)


def test_an_adapted_layer_acts_with_what_it_was_adapted_to():
    """`Normalization` computes from its weights what its call uses, once, when it is adapted or finalised."""

    def network():
        state = L.Input((4,))
        return keras.Model(state, {"q_values": L.Dense(2)(L.Normalization(name="scale")(state))})

    with make(network) as manager:
        assert manager.info()["inference"].startswith("litert")
        for turn in range(2):
            agent, data = manager.get_agent(), manager.get_data()
            agent.flowing_log_prob(data["state"], data["action"])
            agent.model.get_layer("scale").adapt(data["state"] * (1 + turn))
            manager.set_agent(agent.get_weights())
            data = manager.get_data()
            got = agent.flowing_log_prob(data["state"], data["action"])
            np.testing.assert_allclose(got, data["log_prob"], atol=1e-4)
            q = np.asarray(agent.model(data["state"])["q_values"])
            np.testing.assert_allclose(agent.max_q(data["state"]), q.max(1), rtol=1e-4)


GLOBAL = tf.Variable(2.0, name="shared_scale")


class ReadsGlobal(keras.Model):
    def __init__(self):
        super().__init__()
        self.q = L.Dense(2)

    def call(self, x):
        return {"q_values": self.q(x) * GLOBAL}


REFUSED = {
    "global variable": (ReadsGlobal, r"held by it or by one of its layers, got 'shared_scale:0'"),
    "stateful LSTM": (lambda: Around(lambda: L.LSTM(3, stateful=True), (2, 2)), r"LSTM 'layer' with stateful=True"),
    "stateful cell inside": (
        lambda: Around(lambda: L.Bidirectional(L.GRU(3, stateful=True)), (2, 2)),
        r"got Bidirectional 'layer' with stateful=True",
    ),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_state_that_cannot_travel_is_refused_by_name(model, message):
    with pytest.raises(ModelError, match=message):
        make(model)


def test_boundaries_from_the_constructor_are_fine_and_adapted_ones_are_refused():
    def bins(**options):
        layer = L.Discretization(output_mode="one_hot", **options)
        if "num_bins" in options:
            layer.adapt(np.linspace(-1, 1, 50, dtype=np.float32)[:, None])
        return Around(lambda: L.TimeDistributed(layer), (4, 1))

    ModelState(bins(bin_boundaries=[-1.0, 0.0, 1.0])).check_layers()
    with pytest.raises(ModelError, match=r"expected Discretization .* to have its vocabulary or boundaries"):
        ModelState(bins(num_bins=4)).check_layers()


class PolicyWithAttribute(keras.Model):
    def __init__(self):
        super().__init__()
        self.policy, self.value, self.log_scale = L.Dense(2), L.Dense(1), tf.Variable(0.0, name="log_scale")

    def call(self, x):
        return {"policy": self.policy(x) * tf.exp(self.log_scale), "v_estimate": self.value(x)}


def test_learners_train_variables_that_are_no_weights_for_keras():
    options = {"returns": ["value_estimate", "advantage"], "num_steps": 10, "use_ray": False, "seed": 0}
    with SampleManager(PolicyWithAttribute, "CartPole-v1", 2, 20, **options) as manager:
        learner = A2CLearner(manager, keras.optimizers.SGD(0.1))
        learner.update(manager.get_data())
        assert learner.agent.get_weights()[-1] != 0


def test_a_target_network_follows_variables_that_are_no_weights_for_keras():
    with make(Attribute) as manager:
        learner = DQNLearner(manager, keras.optimizers.SGD(0.1), target_rate=0.5)
        rows = manager.get_data()
        before = learner.target.get_weights()[-1]
        learner.update(rows)
        expected = 0.5 * (before + learner.agent.get_weights()[-1])
        assert not np.array_equal(before, learner.agent.get_weights()[-1])
        np.testing.assert_allclose(learner.target.get_weights()[-1], expected, rtol=1e-5)


class OneArray:
    """An object of the user's own, whose weights are one array; it takes one state at a time."""

    def __init__(self):
        self.table = np.zeros((4, 2), np.float32)

    def __call__(self, state):
        return {"q_values": np.ravel(state)[None] @ self.table}

    def get_weights(self):
        return self.table.copy()

    def set_weights(self, table):
        assert table.shape == (4, 2)
        self.table = np.array(table)


class Named(OneArray):
    """Its weights are a dict."""

    def get_weights(self):
        return {"table": self.table.copy(), "twice": 2 * self.table}

    def set_weights(self, weights):
        self.table = np.array(weights["table"])


@pytest.mark.parametrize("model", [OneArray, Named])
def test_weights_of_an_object_are_what_it_says(model, tmp_path):
    table = np.float32([[1, -1], [0, 0], [0, 0], [0, 0]])
    given = table if model is OneArray else {"table": table, "twice": 2 * table}
    options = {"num_steps": 10, "use_ray": False, "input_shape": False, "action_sampling_type": "epsilon_greedy"}

    def acts(manager, sign):
        data = manager.get_data()
        np.testing.assert_array_equal(data["action"], (sign * data["state"][:, 0] < 0).astype(int))

    with SampleManager(model, "CartPole-v1", 2, 20, weights=given, epsilon=0.0, **options) as manager:
        acts(manager, 1)
        agent, target = manager.get_agent(), manager.get_agent()
        manager.save_model(tmp_path / "models", 1)
        manager.save_checkpoint(tmp_path / "run", target=target)
        agent.model.table *= -1
        manager.set_agent(agent.get_weights())
        acts(manager, -1)
        np.testing.assert_array_equal(target.model.table, table)
        np.testing.assert_array_equal(manager.load_model(tmp_path / "models").model.table, table)
        acts(manager, 1)
        manager.kwargs["weights"] = agent.get_weights()
        acts(manager, -1)
        manager.load_checkpoint(tmp_path / "run", target=target)
        acts(manager, 1)


class FitsItself(keras.Model):
    """Compiled and fitted inside the class, with an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.q = L.Dense(2)
        self.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")

    def call(self, x):
        return {"q_values": self.q(x)}

    def learn(self, states):
        self.fit(states, {"q_values": np.full((len(states), 2), 5.0, np.float32)}, verbose=0)


@pytest.mark.parametrize("model", [FitsItself, FitsItself()], ids=["class", "instance"])
def test_a_model_that_is_fitted_inside_its_class_learns_in_each_epoch(model):
    with make(model) as manager:
        target = manager.get_agent()
        before = target.get_weights()
        for _ in range(2):
            agent, data = manager.get_agent(), manager.get_data()
            agent.model.learn(data["state"])
            manager.set_agent(agent.get_weights())
        assert not np.array_equal(agent.get_weights()[0], before[0])
        np.testing.assert_array_equal(target.get_weights()[0], before[0])
        target.model.learn(data["state"])
        data = manager.get_data()
        got = agent.flowing_log_prob(data["state"], data["action"])
        np.testing.assert_allclose(got, data["log_prob"], rtol=1e-4, atol=1e-5)


def test_double_precision_of_keras():
    before = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        with make(models.QNet) as manager:
            agent, data = manager.get_agent(), manager.get_data()
            assert {weight.dtype for weight in agent.get_weights()} == {np.dtype(np.float64)}
            got = agent.flowing_log_prob(data["state"], data["action"])
            np.testing.assert_allclose(got, data["log_prob"], rtol=1e-4, atol=1e-5)
            manager.set_agent([weight + 0.1 for weight in agent.get_weights()])
            assert len(manager.test(5, 2)) == 2
            assert manager.get_agent().copy().get_weights()[0].dtype == np.float64
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(before)


class Shifted(keras.Model):
    """A model that holds variables in each kind of place that it can be changed in by hand."""

    def __init__(self):
        super().__init__()
        self.q, self._private, self.later, self.head = L.Dense(2), L.Dense(2), None, Head()

    def call(self, x):
        return {"q_values": self.q(x) + self._private(x) + self.head.forward(x)}


def made(layer):
    layer.build((None, 4))
    return layer


def new_shift():
    return tf.Variable([[3.0, 4.0]])


CHANGES = {
    "an attribute": lambda model: setattr(model.head, "dense", made(L.Dense(2))),
    "a private attribute": lambda model: setattr(model.head, "_dense", made(L.Dense(2))),
    "an attribute that was None": lambda model: setattr(model.head, "later", new_shift()),
    "an item of a dict": lambda model: model.head.shifts.update(up=tf.Variable(2.0)),
    "a new item of a dict": lambda model: model.head.shifts.update(down=tf.Variable(2.0)),
    "an item of a list": lambda model: model.head.shifts["rows"].__setitem__(0, new_shift()),
    "a new item of a list": lambda model: model.head.shifts["rows"].append(new_shift()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_state_of_an_agent_is_made_anew_only_when_a_part_was_replaced(change):
    space = gymnasium.spaces.Box(-1, 1, (4,))
    model = build_model(Shifted(), {}, None, space)
    model.head.later = None
    agent = Agent(model, space, gymnasium.spaces.Discrete(2), "epsilon_greedy", epsilon=0.0)
    before = agent.state
    agent.max_q(np.zeros((2, 4), np.float32))
    agent.set_weights([weights + 1 for weights in agent.get_weights()])
    assert agent.state is before
    change(model)
    known = {id(variable) for variable in before.variables}
    assert agent.state is not before
    assert {id(variable) for variable in agent.variables} - known
    assert agent.architecture is not None
    assert agent.state is agent.state


def test_a_model_may_hold_a_mapping_whose_values_have_no_length():
    model = models.QNet()
    model(np.zeros((1, 4), np.float32))
    model.notes = weakref.WeakKeyDictionary({model: [1]})
    state = ModelState(model)
    assert state.is_current()
    model.notes[model] = [2]
    assert not state.is_current()


class Odd(keras.Model):
    """Variables without axes, of bfloat16 and of integers; `get_weights` is Keras's own."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(), initializer="ones")
        self.half = self.add_weight(shape=(3,), dtype="bfloat16", initializer="ones")
        self.count = self.add_weight(shape=(2, 2), dtype="int64", initializer="ones", trainable=False)


class Doubled(Odd):
    """`get_weights` is the user's own."""

    def get_weights(self):
        return [2 * array for array in super().get_weights()]


@pytest.mark.parametrize("model", [Odd, Doubled])
def test_weights_are_what_the_models_own_method_gives_as_arrays_that_nobody_else_has(model):
    made = model()
    expected, got = made.get_weights(), ModelState(made).get()
    assert len(got) == 3
    for one, other in zip(expected, got, strict=True):
        assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape)
        np.testing.assert_array_equal(one.astype(np.float64), other.astype(np.float64))
    assert float(got[0]) == (2 if model is Doubled else 1)
    got[2][...] = 7
    np.testing.assert_array_equal(made.get_weights()[2], expected[2])


def test_weights_are_no_arrays_while_a_graph_is_traced():
    state = ModelState(Odd())
    with pytest.raises(NotImplementedError, match="eager"):
        tf.function(lambda: state.get() and None)()
