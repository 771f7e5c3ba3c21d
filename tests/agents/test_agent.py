"""The agent: values and log-probabilities against slow references, gradients, shapes, and refused arguments."""

import math
import pickle

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from scipy import stats

from really.agents.agent import Agent
from really.agents.models import build_model
from really.errors import InvalidTypeError, InvalidValueError, ModelError
from really.policies.policy import make_policy
from tests import models

BOX = spaces.Box(-np.inf, np.inf, (4,))
TWO = spaces.Discrete(2)
STATES = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
IMAGE_AND_SPEED = spaces.Dict(image=spaces.Box(0, 255, (8, 8, 1), np.uint8), speed=spaces.Box(-1, 1, (3,)))

POLICIES = [
    (models.QNet, {"num_actions": 3}, spaces.Discrete(3, start=5), "epsilon_greedy"),
    (models.OwnCall, {"num_actions": 3}, spaces.Discrete(3, start=5), "thompson"),
    (models.Policy, {"num_logits": 3}, spaces.Discrete(3, start=5), "discrete_policy"),
    (models.Policy, {"num_logits": 5}, spaces.MultiDiscrete([2, 3]), "discrete_policy"),
    (models.Policy, {"num_logits": 3}, spaces.MultiBinary(3), "discrete_policy"),
    (models.ActorCritic, {"dimensions": 2}, spaces.Box(-1, 1, (2,)), "continous_normal_diagonal"),
    (models.ActorCritic, {"dimensions": 2}, spaces.Box(-1, 3, (2,)), "continuous_squashed_normal"),
]
IDS = [f"{kind}-{type(space).__name__}" for _, _, space, kind in POLICIES]


def agent_of(maker, action_space=TWO, kind=None, space=BOX, seed=0, **kwargs):
    tf.keras.utils.set_random_seed(seed)
    make = lambda: build_model(maker, kwargs, None, space)  # noqa: E731
    rng = np.random.default_rng(seed)
    return Agent(make(), space, action_space, kind, epsilon=0.3, temperature=0.5, rng=rng, make_model=make)


def plain(state):
    """A model of plain Python."""
    return {"q_values": state[:, :2]}


NO_OBSERVATIONS = [
    ((np.zeros(4), {}), "got a tuple of ndarray, dict; the observation is the first part of what reset"),
    ((np.zeros(4), 1.0, False, False, {}), "got a tuple of ndarray, float, bool, bool, dict; the observation is"),
    ("abcd", "got 'abcd' \\(str\\)$"),
    ([[0.0, 1.0], [2.0]], "got a list of list, list$"),
    ({"x": 1.0}, "got {'x': 1.0} \\(dict\\)$"),
]


@pytest.mark.parametrize("model", [models.functional, lambda: plain], ids=["tensorflow", "callable"])
@pytest.mark.parametrize(("state", "told"), NO_OBSERVATIONS)
def test_what_is_no_observation_is_named(model, state, told):
    agent = agent_of(model)
    for call in (agent.act, agent.max_q):
        with pytest.raises(InvalidTypeError, match=rf"state: expected an observation of Box\(.*or a batch.*{told}"):
            call(state)


def test_there_is_no_pickle_of_an_agent_and_the_error_says_what_travels():
    told = r"^Agent: expected weights, .*get_weights\(\).*save_model.* which Agent\.load\(path\) reads.*agent\.copy\(\)"
    for dump in (pickle.dumps, cloudpickle.dumps):
        with pytest.raises(InvalidTypeError, match=told):
            dump(agent_of(lambda: plain))


def test_none_is_no_observation():
    for model, error in ((models.functional, InvalidTypeError), (lambda: plain, InvalidValueError)):
        with pytest.raises(error, match=r"^state: expected .*, got (None|\[\])"):
            agent_of(model).act(None)


def test_a_dict_without_a_part_is_no_observation():
    agent = agent_of(lambda state: {"q_values": state["a"][:, :2]}, space=spaces.Dict(a=BOX))
    for given in ({"b": np.zeros(4)}, ({"a": np.zeros(4)}, {})):
        with pytest.raises(InvalidTypeError, match="state: expected an observation of Dict"):
            agent.act(given)


@pytest.mark.parametrize(
    "maker", [models.QNet, models.functional, models.DecoratedCall, models.OwnCall, models.DecoratedOwnCall]
)
def test_values_equal_the_models_and_change_with_its_weights(maker):
    agent = agent_of(maker)
    for _ in range(2):
        q = agent.model(STATES)["q_values"].numpy()
        np.testing.assert_allclose(agent.max_q(STATES), q.max(1), rtol=1e-5)
        np.testing.assert_allclose(agent.q_val(STATES, [0, 1, 1, 0, 1]), q[range(5), [0, 1, 1, 0, 1]], rtol=1e-5)
        np.testing.assert_array_equal(agent.act(STATES, greedy=True), q.argmax(1))
        before = agent.max_q(STATES[:1]).numpy()
        agent.set_weights([weight + 0.1 for weight in agent.get_weights()])
        assert not np.array_equal(agent.max_q(STATES[:1]), before)


@pytest.mark.parametrize(("maker", "kwargs", "action_space", "kind"), POLICIES, ids=IDS)
def test_log_prob_equals_the_policys_for_a_batch_and_for_one_state(maker, kwargs, action_space, kind):
    agent = agent_of(maker, action_space, kind, **kwargs)
    actions = agent.act(STATES)
    outputs = {name: value.numpy() for name, value in agent.model(STATES).items()}
    expected = make_policy(kind, action_space, 0.3, 0.5).log_prob(outputs, actions)
    got = agent.flowing_log_prob(STATES, actions)
    assert got.shape == (5,)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    one = agent.flowing_log_prob(STATES[2], actions[2])
    assert one.shape == ()
    assert float(one) == pytest.approx(expected[2], rel=1e-4)


@pytest.mark.parametrize(("maker", "kwargs", "action_space", "kind"), POLICIES, ids=IDS)
def test_entropy_is_the_expected_negative_log_prob(maker, kwargs, action_space, kind):
    """Compared with the mean over many sampled actions, which uses no formula of the entropy."""
    agent = agent_of(maker, action_space, kind, **kwargs)
    states = np.repeat(STATES[:1], 20_000, axis=0)
    log_prob, entropy = agent.flowing_log_prob(states, agent.act(states), return_entropy=True)
    error = 6 * float(tf.math.reduce_std(log_prob)) / math.sqrt(20_000)
    assert entropy.shape == (20_000,)
    assert float(entropy[0]) == pytest.approx(-float(tf.reduce_mean(log_prob)), abs=error + 1e-3)


def test_entropy_of_the_normal_adds_dimensions():
    agent = agent_of(models.ActorCritic, spaces.Box(-1, 1, (3,)), dimensions=3)
    weights = agent.get_weights()
    at = [weight.path.endswith("log_sigma") for weight in agent.model.weights].index(True)
    weights[at] = np.log([0.5, 1.0, 3.0]).astype(np.float32)
    agent.set_weights(weights)
    _, entropy = agent.flowing_log_prob(STATES, np.zeros((5, 3)), return_entropy=True)
    np.testing.assert_allclose(entropy, sum(stats.norm(0, s).entropy() for s in (0.5, 1.0, 3.0)), rtol=1e-5)


@pytest.mark.parametrize(("maker", "kwargs", "action_space", "kind"), POLICIES[1:], ids=IDS[1:])
def test_gradients_of_log_prob_equal_finite_differences(maker, kwargs, action_space, kind):
    agent = agent_of(maker, action_space, kind, **kwargs)
    actions, last = agent.act(STATES), agent.model.trainable_variables[0]

    def value():
        log_prob, entropy = agent.flowing_log_prob(STATES, actions, return_entropy=True)
        return tf.reduce_sum(log_prob + 0.1 * entropy)

    with tf.GradientTape() as tape:
        loss = value()
    gradient = tape.gradient(loss, last.value).numpy()
    direction = np.random.default_rng(1).standard_normal(gradient.shape).astype(np.float32)
    start, h = last.numpy(), 1e-2
    last.assign(start + h * direction)
    above = float(value())
    last.assign(start - h * direction)
    below = float(value())
    assert (above - below) / (2 * h) == pytest.approx(float((gradient * direction).sum()), rel=0.05, abs=0.02)


def test_methods_work_inside_a_compiled_training_step():
    agent, target = agent_of(models.QNet, value=True), agent_of(models.QNet, seed=1, value=True)
    optimizer = keras.optimizers.Adam(1e-2)

    @tf.function
    def step(states, actions):
        with tf.GradientTape() as tape:
            error = agent.q_val(states, actions) - 0.9 * target.max_q(states)
            loss = tf.reduce_mean(error**2) + tf.reduce_mean(agent.v(states) ** 2)
        variables = agent.model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [float(step(STATES, np.array([0, 1, 0, 1, 1]))) for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(("maker", "kwargs", "action_space", "kind"), POLICIES, ids=IDS)
def test_each_shape_is_traced_once(maker, kwargs, action_space, kind):
    agent = agent_of(maker, action_space, kind, **kwargs)
    actions = agent.act(STATES)
    for turn in range(4):
        agent.policy.epsilon, agent.policy.temperature = 0.1 + 0.1 * turn, 1.0 + turn
        agent.set_weights([weight + 0.1 for weight in agent.get_weights()])
        for states in (STATES + turn, tf.constant(STATES), STATES.astype(np.float64)):
            agent.flowing_log_prob(states, actions)
            agent.flowing_log_prob(states, tf.constant(actions), return_entropy=True)
            agent.act(states)
            if kind in ("epsilon_greedy", "thompson"):
                agent.max_q(states)
                agent.v(states)
                agent.q_val(states, actions)
    counts = {function.__name__: made.num_traces for (function, _), made in agent.network.functions.items()}
    assert set(counts.values()) == {1}, counts


def test_many_batch_sizes_cost_two_traces_and_give_the_models_values():
    agent = agent_of(models.QNet, kind="epsilon_greedy")
    for rows in (5, 3, 4, 5, 2, 3):
        states = tf.constant(STATES[:rows])
        q = agent.model(states)["q_values"]
        np.testing.assert_allclose(agent.max_q(states), tf.reduce_max(q, axis=-1), rtol=1e-5)
        np.testing.assert_allclose(agent.q_val(states, tf.ones(rows, tf.int64)), q[:, 1], rtol=1e-5)
    assert {made.num_traces for made in agent.network.functions.values()} == {2}


def test_gradients_reach_states_and_variables_for_a_cached_shape():
    agent, states = agent_of(models.QNet), tf.constant(STATES)
    variables = [variable.value for variable in agent.model.trainable_variables]

    def gradients(values):
        with tf.GradientTape() as tape:
            tape.watch(states)
            result = values()
        return tape.gradient(result, [states, *variables], unconnected_gradients="zero")

    expected = gradients(lambda: tf.reduce_max(agent.model(states)["q_values"], axis=-1))
    for _ in range(3):
        for left, right in zip(gradients(lambda: agent.max_q(states)), expected, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


def test_a_cached_shape_keeps_checks_and_running_as_python():
    agent, states, actions = agent_of(models.QNet), tf.constant(STATES), tf.constant([0, 1, 0, 1, 1])
    before = agent.q_val(states, actions)
    with pytest.raises(InvalidValueError, match=r"action: expected \[n\] with n = 5 states, got \[4\]"):
        agent.q_val(states, actions[:4])
    with pytest.raises(InvalidValueError, match=r"state: expected shape \[4\] or \[n, 4\], got \[5, 3\]"):
        agent.q_val(states[:, :3], actions)
    assert agent.q_val(states[0], actions[0]).shape == ()
    tf.config.run_functions_eagerly(True)
    try:
        np.testing.assert_allclose(agent.q_val(states, actions), before, rtol=1e-5)
    finally:
        tf.config.run_functions_eagerly(False)
    agent.compiled = False
    np.testing.assert_allclose(agent.q_val(states, actions), before, rtol=1e-5)


def test_epsilon_and_temperature_apply_from_the_next_call():
    agent = agent_of(models.QNet, kind="thompson")
    for temperature in (0.5, 2.0, 0.5):
        agent.policy.temperature = temperature
        q = agent.model(STATES)["q_values"].numpy() / temperature
        expected = q[:, 1] - np.log(np.exp(q).sum(1))
        np.testing.assert_allclose(agent.flowing_log_prob(STATES, [1] * 5), expected, rtol=1e-4)


def test_settings_changed_while_a_step_is_traced_apply_outside_of_it():
    agent = agent_of(models.QNet)
    traced = tf.function(lambda: agent.flowing_log_prob(STATES, [1] * 5))()
    np.testing.assert_allclose(agent.flowing_log_prob(STATES, [1] * 5), traced, rtol=1e-5)


@pytest.mark.parametrize(
    ("actions", "got"),
    [
        ([0, 1, 2, 0, 1], "2"),
        ([0, -1, 1, 0, 1], "-1"),
        ([0.5, 1, 0, 0, 1], "0.5"),
        ([math.nan, 1, 0, 0, 1], "nan"),
        (np.array([0, 1, 0, 3, 1], np.int8), "3"),
        (tf.constant([0.0, 1.0, 0.0, 0.0, 0.25]), "0.25"),
    ],
    ids=str,
)
def test_actions_outside_of_the_space_are_refused(actions, got):
    agent = agent_of(models.QNet)
    states = tf.constant(STATES)
    fine = tf.cast([0, 1, 0, 0, 1], tf.convert_to_tensor(actions).dtype)
    for method in (agent.q_val, agent.flowing_log_prob):
        for _ in range(2):
            method(states, fine)  # the second time the method skips checks for these tensors
            with pytest.raises(InvalidValueError, match=f"action: expected whole numbers from 0 to 1, got {got}"):
                method(states, actions)


def test_parts_of_actions_outside_of_the_space_are_refused():
    agent = agent_of(models.Policy, spaces.MultiDiscrete([2, 3]), "discrete_policy", num_logits=5)
    agent.flowing_log_prob(STATES, [[1, 2]] * 5)
    with pytest.raises(InvalidValueError, match=r"whole numbers from \[0, 0\] to \[1, 2\], got 3"):
        agent.flowing_log_prob(STATES, [[1, 2]] * 4 + [[1, 3]])


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_q_val_takes_actions_as_they_are_stored(shape):
    agent = agent_of(models.QNet, spaces.Discrete(2, start=-3))
    actions = np.array([-3, -2, -3, -2, -2])
    q = agent.model(STATES)["q_values"].numpy()
    got = agent.q_val(tf.constant(STATES), tf.constant(actions.reshape(shape)))
    assert got.shape == (5,)
    np.testing.assert_allclose(got, q[range(5), actions + 3], rtol=1e-5)
    assert set(agent.act(STATES).tolist()) <= {-3, -2}


@pytest.mark.parametrize(("maker", "kwargs", "action_space", "kind"), POLICIES, ids=IDS)
def test_one_state_gives_one_action(maker, kwargs, action_space, kind):
    agent = agent_of(maker, action_space, kind, **kwargs)
    for greedy in (False, True):
        assert np.shape(agent.act(STATES[0], greedy=greedy)) == agent.policy.action_shape
        assert agent.act(STATES, greedy=greedy).shape == (5, *agent.policy.action_shape)
        assert agent.act(STATES[0].tolist(), greedy=greedy).dtype == agent.policy.action_dtype


def test_act_samples_with_the_given_generator():
    runs = [[agent.act(STATES).tolist() for _ in range(20)] for agent in map(agent_of, [models.QNet] * 2)]
    assert runs[0] == runs[1]
    assert len({str(actions) for actions in runs[0]}) > 1


def test_v_reads_either_value_output_or_else_the_q_values():
    for maker, action_space, name in [
        (models.Policy, TWO, "v_estimate"),
        (models.ActorCritic, spaces.Box(-1, 1, (2,)), "value_estimate"),
    ]:
        agent = agent_of(maker, action_space)
        np.testing.assert_allclose(agent.v(STATES), agent.model(STATES)[name].numpy()[:, 0], rtol=1e-5)
    agent = agent_of(models.QNet)
    np.testing.assert_array_equal(agent.v(STATES), agent.max_q(STATES))
    assert agent.v(STATES[0]).shape == ()


def test_dict_observations_of_bytes_and_floats():
    agent = agent_of(models.DictModel, spaces.Discrete(3), space=IMAGE_AND_SPEED)
    IMAGE_AND_SPEED.seed(0)
    samples = [IMAGE_AND_SPEED.sample() for _ in range(4)]
    batch = {name: np.stack([sample[name] for sample in samples]) for name in ("image", "speed")}
    expected = agent.model(batch)["q_values"].numpy().max(1)
    np.testing.assert_allclose(agent.max_q(batch), expected, rtol=1e-4)
    np.testing.assert_allclose(agent.max_q(samples[1]), expected[1], rtol=1e-4)
    assert agent.act(samples[1]).shape == ()


def test_discrete_observations():
    agent = agent_of(models.OneHot, space=spaces.Discrete(6))
    assert agent.max_q([0, 5, 2]).shape == (3,)
    assert agent.act(4).shape == ()


def test_nature_cnn_takes_uint8_frames():
    space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    agent = agent_of(models.NatureCNN, spaces.Discrete(6), space=space)
    frames = np.random.default_rng(0).integers(0, 255, (2, 84, 84, 4), np.uint8)
    np.testing.assert_allclose(
        agent.max_q(frames), agent.model(frames)["q_values"].numpy().max(1), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("maker", [models.InNumPy, models.Counting, models.Dropping, models.Branching])
def test_models_that_must_run_as_python_act(maker):
    agent = agent_of(maker)
    agent.compiled = maker is not models.Counting
    assert agent.act(STATES).shape == (5,)
    assert agent.max_q(STATES).shape == (5,)
    assert agent.compiled == (maker in (models.Dropping, models.Branching))


def test_a_table_without_input_shape_or_keras():
    space = spaces.Discrete(6)
    table = build_model(models.Table, {"states": 6}, False, space, [np.eye(6, 2, dtype=np.float32)])
    agent = Agent(table, space, TWO, "epsilon_greedy")
    assert agent.act(1, greedy=True) == 1
    assert float(agent.q_val(1, 1)) == 1.0
    assert agent.get_weights()[0].shape == (6, 2)


def test_input_shape_false_builds_a_model_without_a_call():
    tf.keras.utils.set_random_seed(0)
    calls = []

    class Counted(models.QNet):
        def call(self, x):
            calls.append(x.shape)
            return super().call(x)

    build_model(Counted, {}, False, BOX)
    assert calls == []
    for input_shape in ((4,), None, True):
        build_model(Counted, None, input_shape, BOX)
        assert {tuple(shape) for shape in calls} == {(1, 4)}
        calls.clear()


def test_a_decorated_model_uses_new_weights_for_one_state():
    """If a decorated `call` were traced while its weights are created, it would keep these weights for [1, 4]."""
    model = build_model(models.DecoratedCall, {}, None, BOX)
    model.set_weights([weight * 0 for weight in model.get_weights()])
    np.testing.assert_array_equal(model(STATES[:1])["q_values"], [[0, 0]])


def test_a_decorated_model_that_keras_built_uses_new_weights_for_one_state():
    """Keras builds the model in its first call. That traces `call`, which then keeps the first weights for [1, 4]."""
    model = models.DecoratedCall()
    model(STATES[:1])
    agent = Agent(model, BOX, TWO)
    agent.set_weights([weight * 0 for weight in agent.get_weights()])
    np.testing.assert_array_equal(agent.max_q(STATES[:1]), [0])
    with tf.GradientTape() as tape:
        value = agent.q_val(STATES[:1], [0])
    assert all(gradient is not None for gradient in tape.gradient(value, model.trainable_variables))


def test_a_decorated_model_that_needs_autograph_is_compiled():
    class Branching(models.DecoratedCall):
        @tf.function
        def call(self, x):
            q = self.q(x)
            if tf.reduce_sum(q) > 1e6:
                q = q * 0.0
            return {"q_values": q}

    agent = agent_of(Branching)
    np.testing.assert_allclose(agent.max_q(STATES), agent.model(STATES)["q_values"].numpy().max(1), rtol=1e-5)
    assert agent.compiled


def test_weights_epoch_and_unpacking():
    agent, other = agent_of(models.QNet), agent_of(models.QNet, seed=1)
    agent.set_weights(other.get_weights())
    for mine, theirs in zip(agent.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    agent.epoch = 7
    got, epoch = agent
    assert got is agent
    assert epoch == 7


def test_a_copy_has_the_same_weights_in_a_model_of_its_own():
    agent = agent_of(models.QNet)
    twin = agent.copy()
    np.testing.assert_array_equal(twin.max_q(STATES), agent.max_q(STATES))
    twin.set_weights([weight * 0 for weight in twin.get_weights()])
    assert not np.array_equal(twin.max_q(STATES), agent.max_q(STATES))
    assert twin.policy.epsilon == 0.3
    functional = Agent(models.functional(), BOX, TWO)
    np.testing.assert_array_equal(functional.copy().max_q(STATES), functional.max_q(STATES))
    instance = Agent(build_model(models.QNet(), {}, None, BOX), BOX, TWO)
    np.testing.assert_array_equal(instance.copy().max_q(STATES), instance.max_q(STATES))


def test_weights_of_another_model_are_refused_and_nothing_changes():
    agent = agent_of(models.QNet)
    before = agent.get_weights()
    weights = [weight + 1 for weight in before]
    weights[5] = np.zeros(3, np.float32)
    with pytest.raises(ModelError, match=r"weights\[5\] \(.*bias\): expected shape \[2\], got \[3\]"):
        agent.set_weights(weights)
    for left, right in zip(before, agent.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("maker", "action_space", "kind", "call", "message"),
    [
        (models.Policy, TWO, None, lambda a: a.max_q(STATES), r"agent.max_q: .*'q_values', got .*'policy'"),
        (models.Policy, TWO, None, lambda a: a.q_val(STATES, [0] * 5), "agent.q_val: .*'q_values'"),
        (models.QNet, TWO, "discrete_policy", lambda a: a, "expected 'policy' for 'discrete_policy', got 'q_values'"),
        (models.NoDict, TWO, None, lambda a: a, "model output: expected a dict .* got .*Tensor"),
        (models.QNet, spaces.Discrete(3), None, lambda a: a, r"expected shape \[1, 3\], got \[1, 2\]"),
    ],
)
def test_models_that_lack_an_output_are_refused(maker, action_space, kind, call, message):
    with pytest.raises(ModelError, match=message):
        call(agent_of(maker, action_space, kind))


def test_nan_in_a_model_output_names_the_output():
    agent = agent_of(models.QNet)
    agent.set_weights([weight * np.nan for weight in agent.get_weights()])
    with pytest.raises(ModelError, match="'q_values': expected finite numbers, got nan"):
        agent.act(STATES)


def test_states_and_actions_of_wrong_shape_are_refused():
    agent = agent_of(models.QNet)
    with pytest.raises(InvalidValueError, match=r"state: expected shape \[4\] or \[n, 4\], got \[5, 3\]"):
        agent.max_q(STATES[:, :3])
    with pytest.raises(InvalidValueError, match=r"action: expected \[n\] with n = 5 states, got \[4\]"):
        agent.q_val(STATES, [0, 1, 0, 1])


def test_invalid_models_and_model_kwargs_with_an_instance_are_refused():
    with pytest.raises(InvalidValueError, match="model_kwargs: expected none with a model"):
        build_model(models.QNet(), {"num_actions": 3}, None, BOX)
    with pytest.raises(InvalidValueError, match="model: expected a model, its class or a function, got 'dqn'"):
        build_model("dqn", {}, None, BOX)
    with pytest.raises(InvalidValueError, match="input_shape: expected None or False with Dict"):
        build_model(models.DictModel, {}, (4,), IMAGE_AND_SPEED)


def test_temperature_zero_has_no_log_prob_with_gradients():
    agent = agent_of(models.QNet, kind="thompson")
    agent.policy.temperature = 0.0
    with pytest.raises(InvalidValueError, match="expected a temperature > 0"):
        agent.flowing_log_prob(STATES, [0] * 5)
