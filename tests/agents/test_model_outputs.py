"""Outputs in half and double precision, squeezed, for one state at a time, or beside things that are no arrays."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from really import SampleManager
from really.agents.agent import Agent
from really.agents.models import ModelBuilder, build_model
from really.agents.tensorflow import export as exporting
from really.errors import ModelError
from really.learners import A2CLearner, DQNLearner, PPOLearner
from really.policies.inference import load
from really.policies.model_state import ModelState

L = keras.layers
RETURNS = ["log_prob", "value_estimate", "advantage"]
STATES = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
BOX = spaces.Box(-np.inf, np.inf, (3,))
PRECISIONS = ("mixed_float16", "mixed_bfloat16", "float64")


class Squeezing(keras.Model):
    """Squeezes the outputs of the model that `make` returns, if `squeezes`."""

    def __init__(self, make, squeezes=True):
        super().__init__()
        self.inner, self.squeezes = make(), squeezes

    def call(self, x):
        outputs = self.inner(x)
        return {name: tf.squeeze(value) for name, value in outputs.items()} if self.squeezes else outputs


def heads(**sizes):
    """A function that returns a model with these outputs; `sigma` is positive."""

    def make(inputs=3):
        state = keras.Input((inputs,))
        hidden = L.Dense(8, "tanh")(state)
        found = {name: L.Dense(size)(hidden) for name, size in sizes.items()}
        if "sigma" in found:
            found["sigma"] = L.Activation("softplus")(found["sigma"])
        return keras.Model(state, found)

    return make


MODELS = {
    "thompson": (heads(q_values=3, v_estimate=1), spaces.Discrete(3)),
    "epsilon_greedy": (heads(q_values=3), spaces.Discrete(3)),
    "discrete_policy": (heads(policy=3, v_estimate=1), spaces.Discrete(3)),
    "continuous_normal_diagonal": (heads(mu=1, sigma=1, v_estimate=1), spaces.Box(-1, 1, (1,))),
}


@pytest.fixture
def precision(request):
    """Sets Keras's dtype policy for a test."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def agent_of(make, action_space, kind, seed=1):
    tf.keras.utils.set_random_seed(seed)
    model = build_model(make, {}, None, BOX)
    rng = np.random.default_rng(seed)
    return Agent(
        model, BOX, action_space, kind, epsilon=0.3, rng=rng, make_model=lambda: build_model(make, {}, None, BOX)
    )


def results_of(agent, states, actions):
    """Everything that the agent's methods give, and the gradient of their sum with respect to the weights."""
    found = {"greedy": agent.act(states, greedy=True), "act": agent.act(states)}
    with tf.GradientTape() as tape:
        found["log_prob"], found["entropy"] = agent.flowing_log_prob(states, actions, return_entropy=True)
        found["v"] = agent.v(states)
        if "q_values" in agent.output_names:
            found |= {"max_q": agent.max_q(states), "q_val": agent.q_val(states, actions)}
        total = sum(tf.reduce_sum(value) for value in list(found.values())[2:])
    gradients = tape.gradient(total, agent.model.trainable_variables)
    return found, [gradient.numpy() for gradient in gradients]


@pytest.mark.parametrize("kind", MODELS)
def test_squeezed_outputs_give_the_results_of_full_ones(kind):
    make, space = MODELS[kind]
    full, short = (
        agent_of(lambda squeezes=squeezes: Squeezing(make, squeezes), space, kind) for squeezes in (False, True)
    )
    full.compiled = short.compiled = kind != "epsilon_greedy"
    for rows in (1, 5):
        actions = full.act(STATES[:rows])
        short.act(STATES[:rows])
        expected, expected_gradients = results_of(full, STATES[:rows], actions)
        got, gradients = results_of(short, STATES[:rows], actions)
        assert got.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
            assert np.shape(got[name])[0] == rows
        for gradient, other in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["continuous_normal_diagonal", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(MODELS)[:3])]
)
def test_every_kind_of_inference_gives_squeezed_outputs_their_batch_axis(kind, monkeypatch):
    monkeypatch.setattr(exporting, "NOTHING_TO_GAIN", 0)
    monkeypatch.setattr(exporting, "GOOD_WITHOUT_TENSORFLOW", 0)
    make, space = MODELS[kind]
    agent = agent_of(lambda: Squeezing(make), space, kind)
    names = sorted(agent.forms.shapes)
    build = ModelBuilder(lambda: Squeezing(make), {}, None, BOX)
    base = exporting.Exported(
        "eager", b"", exporting.model_leaves(BOX), tuple(names), [tuple(weight.shape) for weight in agent.model.weights]
    )
    model, state = exporting._InForm(agent.model, agent.forms, names), ModelState(agent.model)
    trials = exporting._trials(model, state, BOX, 2)
    found, report = exporting._measure(exporting._trace(model, state, BOX, base.leaves), base, trials, 2)
    assert {candidate.kind for candidate in found} >= {"litert", "xla", "tf.function"}, report
    eager = exporting._as_python(base, build, BOX, {})
    exports = [*found, exporting.replace(eager, forms=agent.forms)]
    for rows in (1, 2, 5):
        expected = agent.forms.arrays(agent.model(STATES[:rows]), rows, names)
        for exported in exports:
            forward = load(exported, rows)
            forward.set_weights(agent.get_weights())
            for name, values in forward([STATES[:rows]]).items():
                assert values.shape == expected[name].shape, exported.kind
                np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5, err_msg=exported.kind)


def collected(make, environment, kind, agents, **options):
    given = {"num_steps": 40, "use_ray": False, "seed": 3, "action_sampling_type": kind, **options}
    with SampleManager(make, environment, agents, 40 * agents, **given) as manager:
        agent = manager.get_agent()
        rng = np.random.default_rng(0)
        manager.set_agent([rng.normal(0, 0.5, weight.shape) for weight in agent.get_weights()])
        data = manager.get_data()
        measured = manager.test(30, test_episodes=3, evaluation_measure="reward")
    return data, measured


@pytest.mark.parametrize("agents", [1, 2])
def test_squeezed_outputs_collect_and_test_as_full_ones(agents):
    sizes, environment, kind = {"mu": 1, "sigma": 1, "v_estimate": 1}, "Pendulum-v1", "continuous_normal_diagonal"
    runs = [
        collected(
            lambda squeezes=squeezes: Squeezing(lambda: heads(**sizes)(), squeezes),
            environment,
            kind,
            agents,
            returns=RETURNS,
        )
        for squeezes in (False, True)
    ]
    for name, column in runs[0][0].items():
        np.testing.assert_allclose(runs[1][0][name], column, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(runs[1][1], runs[0][1], rtol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS, indirect=True)
@pytest.mark.parametrize("kind", ["thompson", "continuous_normal_diagonal"])
def test_half_and_double_precision_give_float32_with_gradients(kind, precision):
    make, space = MODELS[kind]
    agent = agent_of(make, space, kind)
    actions = agent.act(STATES)
    assert actions.dtype == agent.policy.action_dtype
    for agent.compiled in (True, False):
        values, gradients = results_of(agent, STATES, actions)
        for name, value in list(values.items())[2:]:
            assert value.dtype == tf.float32, name
            assert np.isfinite(value).all(), name
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        assert any(np.abs(gradient).max() > 0 for gradient in gradients)
        outputs = agent.forms.arrays(agent.model(STATES), 5, agent.policy.required_outputs)
        np.testing.assert_allclose(values["log_prob"], agent.policy.log_prob(outputs, actions), rtol=1e-2, atol=1e-3)


def exported_for(agent, make):
    build = ModelBuilder(make, {}, None, BOX)
    return exporting.export(agent.model, BOX, 2, build, True, agent.forms, agent.policy.required_outputs)


@pytest.mark.parametrize(
    ("precision", "kind"),
    [
        *((precision, "epsilon_greedy") for precision in ("float64", "float16", "bfloat16")),
        ("mixed_bfloat16", "discrete_policy"),
    ],
    indirect=["precision"],
)
def test_runners_act_with_a_graph_of_half_or_double_precision(precision, kind, capfd):
    """It is not given to the converter of LiteRT, which prints pages about it."""
    make, space = MODELS[kind]
    agent = agent_of(make, space, kind)
    (name,) = agent.policy.required_outputs
    exported = exported_for(agent, make)
    assert "LiteRT knows neither half nor double precision (BiasAdd, MatMul)" in exported.report["litert"]
    assert "LiteRT knows neither half nor double precision" in exported.report["litert_static"]
    assert exported.kind in ("xla", "tf.function"), exported.report
    assert "neither a custom op" not in capfd.readouterr().err
    forward = load(exported, 2)
    for weights in (agent.get_weights(), [weight.astype(np.float32) for weight in agent.get_weights()]):
        forward.set_weights(weights)
        expected = agent.forms.arrays(agent.model(STATES[:2]), 2, [name])[name]
        got = forward([STATES[:2]])[name]
        assert got.dtype == (np.float64 if precision == "float64" else np.float32)
        tolerance = {"float64": 1e-6, "float16": 4e-3}.get(precision, 3e-2)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_runners_compute_q_values_of_mixed_precision_in_float32(precision):
    """They are those of the same weights in a model of float32; the agent's model keeps its precision."""
    make, space = MODELS["epsilon_greedy"]
    agent = agent_of(make, space, "epsilon_greedy")
    exported = exported_for(agent, make)
    assert exported.kind == "litert", exported.report
    assert exported.report["litert"].endswith(", in float32")
    assert {layer.dtype_policy.name for layer in agent.model.layers[1:]} == {precision}
    keras.config.set_dtype_policy("float32")
    single = make()
    forward = load(exported, 2)
    rng = np.random.default_rng(3)
    for weights in (agent.get_weights(), [rng.normal(size=weight.shape) for weight in agent.get_weights()]):
        forward.set_weights(weights)
        single.set_weights(weights)
        np.testing.assert_allclose(forward([STATES[:2]])["q_values"], single(STATES[:2])["q_values"], rtol=1e-5)


class Casting(keras.Model):
    """Says itself in which type it computes, so that float32 raises."""

    def __init__(self):
        super().__init__()
        self.hidden, self.q = L.Dense(8, dtype="mixed_bfloat16"), L.Dense(3, dtype="float32")

    def call(self, x):
        return {"q_values": self.q(tf.cast(x, tf.bfloat16)[:, :1] + self.hidden(x))}


def test_a_model_that_cannot_compute_in_float32_is_exported_as_it_is():
    agent = agent_of(Casting, spaces.Discrete(3), "epsilon_greedy")
    exported = exported_for(agent, Casting)
    assert exported.kind in ("xla", "tf.function"), exported.report
    assert agent.model.hidden.dtype_policy.name == "mixed_bfloat16"
    forward = load(exported, 5)
    forward.set_weights(agent.get_weights())
    np.testing.assert_allclose(forward([STATES])["q_values"], agent.model(STATES)["q_values"], rtol=3e-2, atol=3e-2)


class Transposing(keras.Model):
    """Has an operation that LiteRT lacks: a transposition of 16-bit integers."""

    def __init__(self):
        super().__init__()
        self.q = L.Dense(3)

    def call(self, x):
        pairs = tf.transpose(tf.bitcast(tf.cast(x, tf.int32), tf.uint16), [0, 2, 1])
        return {"q_values": self.q(tf.reshape(tf.cast(pairs, tf.float32), [-1, 6]))}


def test_an_operation_that_litert_lacks_is_told_in_the_report_alone(capfd):
    exported = exported_for(agent_of(Transposing, spaces.Discrete(3), "epsilon_greedy"), Transposing)
    assert exported.kind in ("xla", "tf.function"), exported.report
    assert "'tf.Transpose' op is neither a custom op nor a flex op" in exported.report["litert"]
    assert "Transpose" not in capfd.readouterr().err


def updated(learner, make, space, kind):
    """The update of a learner on rows of random numbers, and the weights before and after it."""
    rng = np.random.default_rng(2)
    rows = {name: rng.standard_normal(20).astype(np.float32) for name in ("reward", "advantage", "value_estimate")}
    rows |= {name: rng.standard_normal((20, 3)).astype(np.float32) for name in ("state", "state_new")}
    rows |= {"terminal": np.zeros(20, np.float32), "log_prob": np.full(20, -1, np.float32)}
    rows["action"] = np.arange(20) % 3 if learner is DQNLearner else np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    options = {
        DQNLearner: {"gamma": 0.9, "target_every": 1},
        PPOLearner: {"minibatch_size": 10, "seed": 0, "epochs": 2},
        A2CLearner: {},
    }
    agent = agent_of(make, space, kind)
    before = agent.get_weights()
    trainer = learner(agent, keras.optimizers.SGD(0.1), jit_compile=False, **options[learner])
    return trainer.update(rows), before, agent.get_weights()


LEARNERS = {DQNLearner: "thompson", PPOLearner: "continuous_normal_diagonal", A2CLearner: "continuous_normal_diagonal"}


@pytest.mark.parametrize(
    "precision", ["mixed_float16", "float64", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.parametrize("learner", [DQNLearner, PPOLearner, pytest.param(A2CLearner, marks=pytest.mark.slow)])
def test_learners_train_models_of_half_and_double_precision(learner, precision):
    update, before, after = updated(learner, *MODELS[LEARNERS[learner]], LEARNERS[learner])
    assert {part.dtype for part in update} == {np.dtype(np.float32)}
    assert all(np.isfinite(part).all() for part in [*update, *after])
    assert any(not np.array_equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("learner", LEARNERS)
def test_learners_update_a_squeezing_model_as_the_full_one(learner):
    make, space = MODELS[LEARNERS[learner]]
    (expected, _, weights), (got, _, others) = (
        updated(learner, lambda squeezes=squeezes: Squeezing(make, squeezes), space, LEARNERS[learner])
        for squeezes in (False, True)
    )
    for one, other in zip([*got, *others], [*expected, *weights], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


class Table:
    """Q-values of the user's own, for one state at a time: a row of a table, and a value that is a number."""

    def __init__(self):
        self.table = np.arange(12.0).reshape(6, 2)

    def __call__(self, state):
        row = self.table[int(np.ravel(state)[0])]
        return {"q_values": row, "v_estimate": row.max(), "name": "table"}

    def get_weights(self):
        return [self.table]

    def set_weights(self, weights):
        (self.table,) = weights


def test_a_model_for_one_state_at_a_time_serves_batches():
    agent = Agent(Table(), spaces.Discrete(6), spaces.Discrete(2), "epsilon_greedy", epsilon=0.0)
    assert agent.act([4, 0, 5]).tolist() == [1, 1, 1]
    for method, expected in ((agent.max_q, [9, 1, 11]), (agent.v, [9, 1, 11])):
        np.testing.assert_array_equal(method([4, 0, 5]), expected)
        assert method([4, 0, 5]).dtype == tf.float32
        assert method(4).shape == ()
    np.testing.assert_array_equal(agent.q_val([4, 0, 5], [0, 1, 0]), [8, 1, 10])
    np.testing.assert_array_equal(agent.flowing_log_prob([4, 0], [1, 1]), [0, 0])


class OneState(keras.Model):
    """Raises for two states, as a model with a fixed batch size does."""

    def __init__(self):
        super().__init__()
        self.q = L.Dense(2)

    def call(self, x):
        return {"q_values": tf.reshape(self.q(x), [2])}


@pytest.mark.parametrize("agents", [1, 3])
def test_a_keras_model_for_one_state_collects_and_learns(agents):
    options = {"num_steps": 20, "use_ray": False, "action_sampling_type": "epsilon_greedy", "epsilon": 0.0}
    with SampleManager(OneState, "CartPole-v1", agents, 20, **options) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        assert "one state at a time" in manager.info()["inference_report"]["eager"]
        q = np.stack([agent.model(state[None])["q_values"] for state in data["state"]])
        np.testing.assert_array_equal(data["action"], q.argmax(1))
        np.testing.assert_allclose(agent.max_q(data["state"]), q.max(1), rtol=1e-5)
        np.testing.assert_allclose(tf.function(agent.max_q)(tf.constant(data["state"])), q.max(1), rtol=1e-5)
        learner = DQNLearner(manager, keras.optimizers.SGD(0.1), target_every=1, jit_compile=False)
        update = learner.update(data)
    np.testing.assert_allclose(update.q_value, q.max(1), rtol=1e-4)


class Talkative(keras.Model):
    """Has outputs besides the one that is asked for."""

    def __init__(self, **more):
        super().__init__()
        self.q, self.more = L.Dense(2), more

    def call(self, x):
        return {"q_values": self.q(x), **self.more}


OTHERS = {"name": "dqn", "nothing": None, "nested": {"a": 1, "b": "c"}, "pair": (1, "x"), 7: "a number as a name"}


@pytest.mark.parametrize("agents", [1, 2])
def test_outputs_that_nobody_asks_for_are_left_alone(agents):
    make = lambda: Talkative(v_estimate="none", **{k: v for k, v in OTHERS.items() if isinstance(k, str)})  # noqa: E731
    with SampleManager(make, "CartPole-v1", agents, 40, num_steps=20, use_ray=False) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        assert agent.max_q(data["state"]).shape == (len(data["reward"]),)
        assert agent.act(data["state"]).shape == (len(data["reward"]),)
        with pytest.raises(ModelError, match=r"agent.v: model output 'v_estimate': expected an array of real numbers"):
            agent.v(data["state"])
        assert len(manager.test(20, test_episodes=2)) == 2
    for returns in (["value_estimate"], ["monte_carlo"]):
        with pytest.raises(ModelError, match=rf"returns=\['{returns[0]}'\]: model output 'v_estimate': expected an"):
            SampleManager(make, "CartPole-v1", 1, 3, returns=returns, use_ray=False)


@pytest.mark.parametrize("odd", ["dqn", None, {"a": 1.0}])
def test_an_output_that_is_needed_and_no_array_is_named(odd):
    class Odd(keras.Model):
        def call(self, x):
            return {"q_values": odd}

    with pytest.raises(ModelError, match="model output 'q_values': expected an array of real numbers, got"):
        SampleManager(Odd, "CartPole-v1", 1, 3, num_steps=3, use_ray=False)


@pytest.mark.parametrize("width", [2, 3])
def test_the_batch_axis_comes_first_also_where_a_batch_has_as_many_states_as_there_are_outputs(width):
    kernel = np.random.default_rng(0).standard_normal((3, width)).astype(np.float32)
    with pytest.raises(ModelError, match=rf"'q_values': expected shape \[\d, {width}\], got \[{width}, \d\]"):
        Agent(lambda state: {"q_values": (state @ kernel).T}, BOX, spaces.Discrete(width), "epsilon_greedy")
    agent = Agent(lambda state: {"q_values": state @ kernel}, BOX, spaces.Discrete(width), "epsilon_greedy")
    np.testing.assert_array_equal(agent.max_q(STATES), (STATES @ kernel).max(1))
