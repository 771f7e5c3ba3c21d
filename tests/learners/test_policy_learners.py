"""PPOLearner and A2CLearner: losses and steps against a slow NumPy reference, minibatches, refused arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from scipy import stats

import really
from really import SampleManager
from really.agents.agent import Agent
from really.agents.models import build_model
from really.errors import InvalidTypeError, InvalidValueError, ModelError
from really.learners import A2CLearner, PPOLearner
from tests import models

BOX = spaces.Box(-np.inf, np.inf, (4,))
CONTINUOUS, DISCRETE = spaces.Box(-1, 1, (2,)), spaces.Discrete(3, start=5)
KINDS = {"continuous": (models.ActorCritic, {}, CONTINUOUS), "discrete": (models.Policy, {"num_logits": 3}, DISCRETE)}
RATE = 0.05


def agent_of(kind="continuous"):
    maker, kwargs, action_space = KINDS[kind]
    tf.keras.utils.set_random_seed(0)
    return Agent(build_model(maker, kwargs, None, BOX), BOX, action_space)


def learner_of(maker=PPOLearner, kind="continuous", optimizer=None, **settings):
    if maker is PPOLearner:
        settings = {"epochs": 1, "minibatch_size": 30, "seed": 0, **settings}
    return maker(agent_of(kind), optimizer or tf.keras.optimizers.SGD(RATE), **settings)


def data_of(kind="continuous", rows=30, seed=0):
    """Rows of a policy that is close to the agent's, so that some ratios are outside of the clip range."""
    rng, agent = np.random.default_rng(seed), agent_of(kind)
    state = rng.standard_normal((rows, 4)).astype(np.float32)
    action = rng.integers(5, 8, rows) if kind == "discrete" else rng.standard_normal((rows, 2)).astype(np.float32)
    log_prob = agent.flowing_log_prob(state, action).numpy() + rng.normal(0, 0.4, rows)
    advantage, value, monte_carlo = rng.normal(1, 2, (3, rows))
    names = ("log_prob", "advantage", "value_estimate", "monte_carlo")
    floats = zip(names, (log_prob, advantage, value, monte_carlo), strict=True)
    return {"state": state, "action": action, **{name: column.astype(np.float32) for name, column in floats}}


def outputs_by_hand(agent, data, row):
    """log pi(a|s), entropy and V(s) of one row, computed by SciPy from the model's outputs."""
    outputs = {name: np.asarray(out, np.float64) for name, out in agent.model(data["state"][row][None]).items()}
    if "mu" in outputs:
        normal = stats.norm(outputs["mu"][0], outputs["sigma"])
        log_prob, entropy = normal.logpdf(data["action"][row]).sum(), normal.entropy().sum()
        return log_prob, entropy, outputs["value_estimate"][0, 0]
    chances = np.exp(outputs["policy"][0]) / np.exp(outputs["policy"][0]).sum()
    return np.log(chances[data["action"][row] - 5]), stats.entropy(chances), outputs["v_estimate"][0, 0]


def ppo_by_hand(agent, data, clip, normalise, advantages, value_coefficient=0.5, entropy_coefficient=0.0):
    """The numbers of a PPOUpdate and the whole loss, computed row by row."""
    value = data["value_estimate"].astype(np.float64)
    returns = value + data["advantage"] if advantages == "gae" else data["monte_carlo"]
    gains = data["advantage"] if advantages == "gae" else data["monte_carlo"] - value
    if normalise:
        gains = (gains - gains.mean()) / gains.std()
    policy, values, entropies, kl, clipped = [], [], [], [], []
    for row, gain in enumerate(gains):
        log_prob, entropy, estimate = outputs_by_hand(agent, data, row)
        ratio = np.exp(log_prob - data["log_prob"][row])
        near = min(max(ratio, 1 - clip), 1 + clip)
        policy.append(-min(ratio * gain, near * gain))
        values.append((estimate - returns[row]) ** 2)
        entropies.append(entropy)
        kl.append(ratio - 1 - np.log(ratio))
        clipped.append(near != ratio)
    found = [np.mean(column) for column in (policy, values, entropies, kl, clipped)]
    return found, found[0] + value_coefficient * found[1] - entropy_coefficient * found[2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("advantages", ["gae", "monte_carlo"])
def test_losses_of_ppo_equal_the_reference(kind, normalise, advantages):
    learner = learner_of(kind=kind, normalize_advantages=normalise, advantages=advantages, clip_range=0.3)
    expected, _ = ppo_by_hand(learner.agent, data_of(kind), 0.3, normalise, advantages)
    found = learner.update(data_of(kind))
    assert 0 < found.clip_fraction[0] < 1
    assert found.policy_loss.shape == (1,)
    np.testing.assert_allclose([column[0] for column in found], expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ppo_step_follows_the_gradient_of_the_whole_loss(kind):
    """Compared with finite differences of the reference, for every element of the weights."""
    coefficients = {"value_coefficient": 0.3, "entropy_coefficient": 0.2}
    learner, other = learner_of(kind=kind, max_gradient_norm=None, **coefficients), agent_of(kind)
    before, data = other.get_weights(), data_of(kind)
    learner.update(data)
    after = learner.agent.get_weights()
    for at in [at for at, weight in enumerate(before) if weight.size <= 3]:
        for number in range(before[at].size):
            losses = []
            for step in (1e-3, -1e-3):
                moved = [weight.copy() for weight in before]
                moved[at].flat[number] += step
                other.set_weights(moved)
                losses.append(ppo_by_hand(other, data, 0.2, True, "gae", **coefficients)[1])
            slope = (losses[0] - losses[1]) / 2e-3
            assert (before[at] - after[at]).flat[number] / RATE == pytest.approx(slope, rel=0.02, abs=2e-3)


@pytest.mark.parametrize("maker", [PPOLearner, A2CLearner])
def test_a_long_gradient_is_scaled_down_to_the_norm(maker):
    steps = []
    for norm in (None, 0.1):
        learner = learner_of(maker, max_gradient_norm=norm)
        before = np.concatenate([weight.ravel() for weight in learner.agent.get_weights()])
        learner.update(data_of())
        after = np.concatenate([weight.ravel() for weight in learner.agent.get_weights()])
        steps.append((before - after) / RATE)
    long, short = (np.linalg.norm(step) for step in steps)
    assert long > 0.2
    assert short == pytest.approx(0.1, rel=1e-3)
    np.testing.assert_allclose(steps[1], steps[0] * short / long, atol=1e-4)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_each_epoch_uses_each_row_once_in_successive_minibatches(jit_compile):
    data = data_of(rows=25)
    together = learner_of(optimizer=tf.keras.optimizers.Adam(0.01), epochs=3, minibatch_size=8, jit_compile=jit_compile)
    orders = learner_of(epochs=3, minibatch_size=8)._orders(25)
    assert orders.shape == (9, 8)
    for epoch in orders.reshape(3, 24):
        assert len(set(epoch)) == 24
    assert len({tuple(epoch) for epoch in orders.reshape(3, 24)}) == 3
    found = together.update(data)
    apart = learner_of(optimizer=tf.keras.optimizers.Adam(0.01), minibatch_size=8)
    singles = [apart.update({name: column[rows] for name, column in data.items()}) for rows in orders]
    for name in found._fields:
        expected = np.concatenate([getattr(single, name) for single in singles])
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-3, atol=1e-4)
    for one, other in zip(together.agent.get_weights(), apart.agent.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_the_seed_decides_the_order_of_rows():
    first, same, other = (learner_of(epochs=2, minibatch_size=8, seed=seed) for seed in (1, 1, 2))
    for learner in (first, same, other):
        learner.update(data_of())
    np.testing.assert_array_equal(first.agent.get_weights()[0], same.agent.get_weights()[0])
    assert not np.array_equal(first.agent.get_weights()[0], other.agent.get_weights()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_a2c_equal_the_reference(kind):
    learner, data = learner_of(A2CLearner, kind, advantages="monte_carlo"), data_of(kind)
    rows = np.array([outputs_by_hand(learner.agent, data, row) for row in range(30)])
    gains = data["monte_carlo"] - data["value_estimate"]
    found = learner.update(data)
    expected = [-np.mean(rows[:, 0] * gains), np.mean((rows[:, 2] - data["monte_carlo"]) ** 2), rows[:, 1].mean()]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a2c_takes_the_first_step_of_ppo(kind):
    """If the ratio is 1, the clipped objective has the gradient of log pi(a|s) A (Huang et al. 2022)."""
    data = data_of(kind)
    data["log_prob"] = agent_of(kind).flowing_log_prob(data["state"], data["action"]).numpy()
    ppo, a2c = learner_of(kind=kind, normalize_advantages=False), learner_of(A2CLearner, kind)
    ppo.update(data)
    del data["log_prob"]
    a2c.update(data)
    for one, other, start in zip(
        ppo.agent.get_weights(), a2c.agent.get_weights(), agent_of(kind).get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert not np.array_equal(one, start)


RETURNS = ["log_prob", "value_estimate", "advantage", "monte_carlo"]


@pytest.mark.parametrize("maker", [PPOLearner, A2CLearner])
@pytest.mark.parametrize("advantages", ["gae", "monte_carlo"])
def test_update_takes_rows_that_a_manager_collected(maker, advantages):
    settings = {"model_kwargs": {"num_logits": 2}, "num_steps": 32, "returns": RETURNS, "seed": 0, "use_ray": False}
    with SampleManager(models.Policy, "CartPole-v1", 2, 64, **settings) as manager:
        learner = maker(manager, tf.keras.optimizers.Adam(), advantages=advantages)
        assert learner.agent is manager.agent
        found = learner.update(manager.get_data())
        assert np.isfinite(found.policy_loss).all()
        if maker is PPOLearner:
            assert found.policy_loss.shape == (10,)
            assert found.approx_kl[0] == pytest.approx(0, abs=1e-5)  # the policy has the weights that acted
        manager.set_agent(learner.agent.get_weights())
        learner.update(manager.get_data(total_steps=128))  # another number of rows


@pytest.mark.parametrize("maker", [PPOLearner, A2CLearner])
@pytest.mark.parametrize(("advantages", "column"), [("gae", "advantage"), ("monte_carlo", "monte_carlo")])
def test_a_manager_without_the_columns_is_refused_at_once(maker, advantages, column):
    returns = [name for name in RETURNS if name != column]
    settings = {"model_kwargs": {"num_logits": 2}, "num_steps": 32, "returns": returns, "use_ray": False}
    refused = pytest.raises(InvalidValueError, match=f"expected a manager that delivers .* missing: '{column}'")
    with SampleManager(models.Policy, "CartPole-v1", 2, 64, **settings) as manager, refused:
        maker(manager, tf.keras.optimizers.Adam(), advantages=advantages)


@pytest.mark.parametrize("rows", [30, 31])
def test_ppo_compiles_once_for_any_number_of_rows(rows):
    learner = learner_of(minibatch_size=10)
    for count in (rows, rows + 17, rows + 40):
        learner.update(data_of(rows=count))
    assert learner._step.experimental_get_tracing_count() == 1


COMPILED = """
import sys
from pathlib import Path
import tensorflow as tf
from tests.learners import test_dqn_learner as dqn, test_policy_learners as policy

q_agent = dqn.agent_of()

@tf.function(jit_compile=True)
def step(state, action):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(q_agent.q_val(state, action))
    return tape.gradient(loss, q_agent.model.trainable_variables[0].value)

def learn_q(seed):
    batch = dqn.batch_of(30, seed=seed)
    step(tf.constant(batch["state"]), tf.constant(batch["action"]))

ppo, a2c = (policy.learner_of(maker, "discrete") for maker in (policy.PPOLearner, policy.A2CLearner))
for learn in (lambda seed: ppo.update(policy.data_of("discrete", seed=seed)),
              lambda seed: a2c.update(policy.data_of("discrete", seed=seed)), learn_q):
    for seed in range(3):
        learn(seed)
    print(len(list(Path(sys.argv[1]).glob("*before_optimizations.txt"))))
"""


@pytest.mark.slow
def test_discrete_actions_are_compiled_once_and_not_for_each_batch(tmp_path):
    """Counts the programs that XLA dumps, one for each compilation."""
    here = Path(__file__).parents[1]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    environment["XLA_FLAGS"] = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"
    command = [sys.executable, "-c", COMPILED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "2", "3"]


SETTINGS = [
    ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
    ({"minibatch_size": 1}, "minibatch_size: expected an integer >= 2, got 1"),
    ({"advantages": "gea"}, "advantages: expected one of 'gae', 'monte_carlo', got 'gea'. Did you mean 'gae'?"),
    ({"clip_range": 0}, "clip_range: expected a number from 1e-06 to 1e+06, got 0"),
    ({"value_coefficient": -1}, "value_coefficient: expected a number from 0 to 1e+06, got -1"),
    ({"entropy_coefficient": -1}, "entropy_coefficient: expected a number from 0 to 1e+06, got -1"),
    ({"max_gradient_norm": 0}, "max_gradient_norm: expected a number from 1e-06 to 1e+06, got 0"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(InvalidValueError) as caught:
        learner_of(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("maker", [PPOLearner, A2CLearner])
def test_models_that_do_not_fit_are_refused(maker):
    name = maker.__name__
    q = Agent(build_model(models.QNet, {}, None, BOX), BOX, spaces.Discrete(2))
    message = f"{name}: expected action_sampling_type 'discrete_policy', 'continuous_normal_diagonal', got 'thompson'"
    with pytest.raises(ModelError, match=message):
        maker(q, tf.keras.optimizers.SGD())

    def no_value():
        state = tf.keras.Input((4,))
        return tf.keras.Model(state, {"policy": tf.keras.layers.Dense(2)(state)})

    with pytest.raises(ModelError, match=f"{name}: expected a model with output 'v_estimate' or 'value_estimate', got"):
        maker(Agent(build_model(no_value, {}, None, BOX), BOX, spaces.Discrete(2)), tf.keras.optimizers.SGD())

    def two_values():
        state = tf.keras.Input((4,))
        heads = {"policy": tf.keras.layers.Dense(2)(state), "v_estimate": tf.keras.layers.Dense(2)(state)}
        return tf.keras.Model(state, heads)

    with pytest.raises(ModelError, match=rf"{name}: model output 'v_estimate': expected shape \[1\], got \[1, 2\]"):
        maker(Agent(build_model(two_values, {}, None, BOX), BOX, spaces.Discrete(2)), tf.keras.optimizers.SGD())
    with pytest.raises(InvalidTypeError, match=f"{name}: expected a SampleManager or an Agent, got NoneType"):
        maker(None, tf.keras.optimizers.SGD())
    optimizer = tf.keras.optimizers.SGD()
    maker(agent_of(), optimizer)
    with pytest.raises(InvalidValueError, match=f"{name}: expected an optimizer that trains nothing yet, got a SGD"):
        maker(agent_of(), optimizer)


def without(name):
    return {key: rows for key, rows in data_of().items() if key != name}


DATA = [
    *(
        (
            {**data_of(), name: np.ones(30, np.float32)},
            {},
            InvalidValueError,
            f"expected rows as they were collected, got columns '{name}' of a replay buffer",
        )
        for name in ("weight", "discount", "index")
    ),
    ([], {}, InvalidTypeError, "PPOLearner.update: expected a dict of columns, got list"),
    (
        without("log_prob"),
        {},
        InvalidValueError,
        "missing: 'log_prob'; ask for ['log_prob'] with SampleManager(returns=...)",
    ),
    (without("advantage"), {}, InvalidValueError, "missing: 'advantage'; ask for ['advantage'] with SampleManager"),
    (without("monte_carlo"), {"advantages": "monte_carlo"}, InvalidValueError, "missing: 'monte_carlo'"),
    (without("value_estimate"), {}, InvalidValueError, "missing: 'value_estimate'"),
    (without("state"), {}, InvalidValueError, "missing: 'state'"),
    (data_of(rows=29), {}, InvalidValueError, "expected at least minibatch_size=30 rows, got 29"),
    (
        {**data_of(), "log_prob": np.zeros((2, 15), np.float32)},
        {},
        InvalidValueError,
        "expected 'log_prob' of shape [row], not empty, got [2, 15]",
    ),
    (
        {**data_of(), "action": np.zeros((30, 3), np.float32)},
        {},
        InvalidValueError,
        "column 'action': expected shape [30, 2], as 'log_prob' has [30], got [30, 3]",
    ),
    (
        {**data_of(), "log_prob": np.full(30, np.nan, np.float32)},
        {},
        InvalidValueError,
        "column 'log_prob': expected finite numbers, got nan",
    ),
    (
        {**data_of("discrete"), "action": np.arange(30)},
        {"kind": "discrete"},
        InvalidValueError,
        "column 'action': expected numbers from 5 to 7, got 0 to 29",
    ),
]


@pytest.mark.parametrize(("data", "settings", "error", "message"), DATA)
def test_invalid_data_are_refused_and_change_nothing(data, settings, error, message):
    learner = learner_of(**settings)
    before = learner.agent.get_weights()
    with pytest.raises(error) as caught:
        learner.update(data)
    assert message in str(caught.value)
    assert isinstance(caught.value, really.ReallyError)
    for old, new in zip(before, learner.agent.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
