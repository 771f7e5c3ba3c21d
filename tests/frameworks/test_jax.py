"""Functions of JAX with their parameters as models: acting, weights, gradients, files, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces

from really import SampleManager
from really.agents.agent import Agent
from really.agents.models import build_model
from really.errors import InvalidTypeError, InvalidValueError, ModelError

jax = pytest.importorskip("jax")
jnp = jax.numpy
from really.agents.frameworks.jax import compiled  # noqa: E402 (it imports JAX)

BOX, TWO = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2)
STATES = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
OPTIONS = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}


def parameters(seed=0, width=2):
    one, two = jax.random.split(jax.random.key(seed))
    return {
        "hidden": {"kernel": jax.random.normal(one, (4, 16)), "bias": jnp.zeros(16)},
        "q": {"kernel": jax.random.normal(two, (16, width)), "bias": jnp.zeros(width)},
    }


def apply(parameters, state):
    hidden = jax.nn.relu(state @ parameters["hidden"]["kernel"] + parameters["hidden"]["bias"])
    return {"q_values": hidden @ parameters["q"]["kernel"] + parameters["q"]["bias"]}


def policy(parameters, state):
    return {"policy": apply(parameters, state)["q_values"]}


def gaussian(parameters, state):
    return {"mu": apply(parameters, state)["q_values"], "sigma": jnp.exp(parameters["q"]["bias"])}


def make(seed=0):
    return apply, parameters(seed)


def agent_of(model, actions=TWO, kind=None, **options):
    return Agent(build_model(model, {}, None, BOX), BOX, actions, kind, **options)


def equal(one, other):
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other))


@pytest.mark.parametrize("model", [make, make()], ids=["function", "pair"])
def test_runners_act_as_the_function(model):
    with SampleManager(model, "CartPole-v1", 3, 60, seed=1, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        expected = apply(agent.parameters(), data["state"])["q_values"].argmax(1)
        np.testing.assert_array_equal(data["action"], expected)
        np.testing.assert_array_equal(agent.act(data["state"]), expected)
        assert (manager.info()["framework"], manager.info()["inference"]) == ("jax", "numpy")
        new = jax.tree.map(lambda array: array * 0, agent.parameters())
        new["q"]["bias"] = jnp.array([0.0, 1.0])
        version = manager.info()["policy_version"]
        for _ in range(2):
            manager.set_agent(new)
        assert manager.info()["policy_version"] == version + 1
        assert manager.get_data()["action"].all()
        assert len(agent.get_weights()) == 4


POLICIES = {
    "epsilon_greedy": ("epsilon_greedy", TWO, apply, 2),
    "thompson": ("thompson", spaces.Discrete(3, start=-1), apply, 3),
    "categorical": ("discrete_policy", TWO, policy, 2),
    "multi-discrete": ("discrete_policy", spaces.MultiDiscrete([2, 3]), policy, 5),
    "multi-binary": ("discrete_policy", spaces.MultiBinary(3), policy, 3),
    "normal": (None, spaces.Box(-9, 9, (2,)), gaussian, 2),
    "squashed": ("continuous_squashed_normal", spaces.Box(-9, 9, (2,)), gaussian, 2),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_log_probability_is_exact_and_has_a_gradient_in_the_parameters(name):
    kind, actions, function, width = POLICIES[name]
    agent = agent_of((function, parameters(width=width)), actions, kind, epsilon=0.3, temperature=2.0)
    taken = agent.act(STATES)
    outputs = {key: np.asarray(value) for key, value in agent.model(STATES).items()}
    np.testing.assert_allclose(
        agent.flowing_log_prob(STATES, taken), agent.policy.log_prob(outputs, taken), rtol=1e-4, atol=1e-5
    )

    @jax.jit
    @jax.grad
    def gradient(given, state, action):
        return agent.with_parameters(given).flowing_log_prob(state, action).sum()

    found = jax.tree.leaves(gradient(agent.parameters(), STATES, taken))
    assert all(np.isfinite(each).all() for each in found)
    assert any(np.abs(each).max() > 0 for each in found) == (name != "epsilon_greedy")


def one_at_a_time(parameters, state):
    assert state.shape[0] == 1
    return policy(parameters, state)


class OtherWhenCompiled:
    """It gives other outputs once it is traced."""

    def __init__(self, function):
        self.function = function

    def __call__(self, parameters, state):
        sign = -1 if isinstance(state, jax.core.Tracer) else 1
        return {name: sign * value for name, value in self.function(parameters, state).items()}


@pytest.mark.parametrize("function", [policy, one_at_a_time])
def test_a_function_that_gives_others_when_compiled_is_refused(function):
    options = {**OPTIONS, "action_sampling_type": "discrete_policy"}
    with SampleManager((function, parameters()), "CartPole-v1", 3, 60, **options) as manager:
        assert manager.info()["inference"] in ("jax", "numpy")
    with pytest.raises(ModelError, match="agrees with the model, but output 'policy' differs from the model's by"):
        SampleManager((OtherWhenCompiled(function), parameters()), "CartPole-v1", 3, 60, **options)


def convolved(parameters, state):
    frames = state.reshape(len(state), 21, 21, 4)
    return jax.lax.conv_general_dilated(frames, parameters, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_runners_compile_convolutions_without_ynnpack_and_agree():
    window, frames = jax.random.normal(jax.random.key(0), (4, 4, 4, 32)), jnp.ones((16, 21 * 21 * 4))
    forms = {"xla": jax.jit(convolved), "runner": compiled(convolved)}
    texts = {name: form.lower(window, frames).compile().as_text() for name, form in forms.items()}
    if "__ynn" not in texts["xla"]:
        pytest.skip("this XLA has no kernels of YNNPACK for a convolution")
    assert "__ynn" not in texts["runner"]
    np.testing.assert_allclose(forms["xla"](window, frames), forms["runner"](window, frames), rtol=1e-5, atol=1e-4)


THREADS = """
import os, pathlib
from really.agents.frameworks.choice import framework_named
before = dict(os.environ)
framework_named("jax").prepare_runner()
import jax
jax.jit(lambda x: x @ x)(jax.numpy.ones((300, 300))).block_until_ready()
names = [task.read_text().strip() for task in pathlib.Path("/proc/self/task").glob("*/comm")]
print(names.count("tf_XLAEigen"), {name for name in os.environ.keys() ^ before.keys()}, os.environ.get("NPROC"))
"""


@pytest.mark.parametrize("number", [None, "3"])
def test_a_runner_computes_with_one_thread_and_leaves_the_environment_as_it_was(number):
    variables = {name: value for name, value in os.environ.items() if name not in ("NPROC", "XLA_FLAGS")}
    if number is not None:
        variables["NPROC"] = number
    command = [sys.executable, "-c", THREADS]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split(maxsplit=1) == ["1", f"{{'XLA_FLAGS'}} {number}\n"]


def test_values_are_those_of_the_function():
    agent = agent_of(make, kind="epsilon_greedy")
    q_values = apply(parameters(), STATES)["q_values"]
    np.testing.assert_allclose(agent.max_q(STATES), q_values.max(1), rtol=1e-5)
    np.testing.assert_allclose(agent.q_val(STATES, np.ones(16, int)), q_values[:, 1], rtol=1e-5)
    with pytest.raises(Exception, match="action: expected whole numbers from 0 to 1"):
        agent.q_val(STATES, np.full(16, 2))


def test_saved_models_and_checkpoints_come_back(tmp_path):
    with SampleManager(make, "CartPole-v1", 2, 20, seed=0, **OPTIONS) as manager:
        before = manager.get_agent().parameters()
        manager.save_model(tmp_path / "models", 3)
        manager.save_checkpoint(tmp_path / "run")
        changed = jax.tree.map(lambda array: array + 1, before)
        for load in (manager.load_model, manager.load_checkpoint):
            manager.set_agent(changed)
            load(tmp_path / ("models" if load == manager.load_model else "run"))
            assert equal(manager.get_agent().parameters(), before)


def test_a_pytree_of_another_structure_changes_nothing():
    agent = agent_of(make)
    before = agent.parameters()
    with pytest.raises(ModelError, match=r"another one: missing: \['q'\]\['bias'\].*; unexpected: \['q'\]\['scale'\]"):
        agent.set_weights({**before, "q": {"kernel": before["q"]["kernel"], "scale": before["q"]["bias"]}})
    for pytree in ([before["hidden"], before["q"]], [tuple(before["q"].values())]):
        with pytest.raises(ModelError, match=r"another one: missing: \['hidden'\]\['bias'\].*; unexpected: \[0\]\["):
            agent.set_weights(pytree)
    with pytest.raises(ModelError, match=r"\['hidden'\]\['bias'\]\): expected shape \[16\], got \[4, 16\]"):
        agent.set_weights(agent.get_weights()[1:2] * 4)
    assert equal(agent.parameters(), before)


def test_given_parameters_are_those_of_the_model():
    agent = agent_of(make)
    given = agent.parameters()
    assert equal(agent.with_parameters(given).max_q(STATES), agent.max_q(STATES))
    message = r"agent.with_parameters: .* another one: missing: \['q'\]\['bias'\], .*; unexpected: \['p'\]\['bias'\], "
    with pytest.raises(ModelError, match=message):
        agent.with_parameters({"hidden": given["hidden"], "p": given["q"]})


def test_parameters_may_be_donated():
    shrunk = jax.jit(lambda tree: jax.tree.map(lambda array: array * 0.5, tree), donate_argnums=0)
    mine = parameters()
    with SampleManager((apply, mine), "CartPole-v1", 2, 20, **OPTIONS) as manager:
        data, before = manager.get_data(), manager.get_agent().get_weights()
        for given in (mine, manager.get_agent().parameters(), manager.get_agent().copy().parameters()):
            shrunk(given)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
        assert equal(manager.get_agent().get_weights(), before)
        manager.get_agent().act(data["state"])
        assert len(manager.test(5, 1)) == 1
        with pytest.raises(ModelError, match=r"weights: .* got an array that was donated .* at \['hidden'\]\['bias'\]"):
            manager.set_agent(mine)
        new = shrunk(parameters())
        manager.set_agent(new)
        shrunk(new)
        assert equal(manager.get_agent().parameters(), jax.tree.map(lambda array: array * 0.5, parameters()))
        assert len(manager.get_data()["action"]) == 20


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        ("relu", r"got str 'relu' at \['name'\]"),
        (jax.random.key(0), r"got a key of jax.random \(jax.random.key_data\(key\) gives its numbers\) at \['name'\]"),
    ],
)
def test_parameters_that_are_no_numbers_are_named(leaf, message):
    with pytest.raises(ModelError, match="^model: expected a pytree of arrays of numbers, " + message):
        agent_of((lambda parameters, state: apply(parameters["net"], state), {"net": parameters(), "name": leaf}))
    agent = agent_of(make)
    with pytest.raises(ModelError, match=r"^weights: .* at \['q'\]\['bias'\]"):
        agent.set_weights({**agent.parameters(), "q": {**agent.parameters()["q"], "bias": leaf}})


@pytest.mark.parametrize(
    ("model", "told"),
    [((parameters(), apply), "a tuple of dict, a function"), ([apply, parameters()], "a list of a function, dict")],
)
def test_what_is_no_pair_is_told_in_a_line(model, told):
    with pytest.raises(InvalidValueError, match=rf"got {told}; with JAX, give the pair \(apply, parameters\)$"):
        agent_of(model)


def test_a_function_that_takes_others_than_parameters_and_a_state_is_told_how_it_is_called():
    def swapped(state, parameters):
        return apply(parameters, state)

    with pytest.raises(ModelError, match=r"expected .*swapped\(parameters, state\) to take observations"):
        build_model((swapped, parameters()), None, None, BOX)
    told = r"arguments of apply\(parameters, state\), .*; a function of JAX comes .* as the pair \(apply, parameters\)$"
    with pytest.raises(InvalidTypeError, match=told):
        build_model(apply, None, None, BOX)


def test_weights_in_half_precision_keep_their_values():
    half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), parameters())
    agent = agent_of((apply, half))
    agent.set_weights(agent.get_weights())
    assert equal(jax.tree.map(np.asarray, agent.parameters()), jax.tree.map(np.asarray, half))
    assert agent.max_q(STATES).dtype == jnp.float32


def test_a_module_of_flax_acts_in_evaluation_mode_and_is_trained_in_place():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, seed=0):
            rngs = nnx.Rngs(seed)
            self.hidden, self.drop, self.q = (
                nnx.Linear(4, 16, rngs=rngs),
                nnx.Dropout(0.5, rngs=rngs),
                nnx.Linear(16, 2, rngs=rngs),
            )

        def __call__(self, x):
            return {"q_values": self.q(self.drop(nnx.relu(self.hidden(x))))}

    with SampleManager(Net, "CartPole-v1", 2, 20, **OPTIONS) as manager:
        agent, data = manager.get_agent(), manager.get_data()
        np.testing.assert_array_equal(agent.act(data["state"]), data["action"])
        module = agent.model.module
        module.q.kernel[...] = module.q.kernel[...] * 0
        module.q.bias[...] = jnp.array([0.0, 1.0])
        manager.set_agent(agent.parameters())
        assert manager.get_data()["action"].all()
        assert agent.copy().model.module is not module
        manager.set_agent(nnx.state(Net(1)))  # with its random streams, which are no weights
        assert equal(agent_of(Net(1)).get_weights(), manager.get_agent().get_weights())
        with pytest.raises(ModelError, match=r"got Net, a module of flax: give nnx.state\(module\)$"):
            manager.set_agent(Net(1))


def test_a_module_of_flax_linen_without_its_parameters_says_what_to_give():
    linen = pytest.importorskip("flax.linen")

    class QNet(linen.Module):
        @linen.compact
        def __call__(self, state, training=False):
            return {"q_values": linen.Dense(2)(state)}

    told = r"expected the pair \(module.apply, module.init\(key, example\)\) .*, got QNet alone"
    for model in (QNet, QNet(), lambda: QNet()):
        with pytest.raises(InvalidTypeError, match=told):
            build_model(model, None, None, BOX)
    bound = QNet().bind(QNet().init(jax.random.key(0), STATES))
    assert build_model(bound, None, None, BOX) is bound


def test_a_module_of_flax_linen_comes_with_its_parameters():
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return {"q_values": linen.Dense(2)(x)}

    net = Net()
    with SampleManager((net.apply, net.init(jax.random.key(0), STATES)), "CartPole-v1", 2, 20, **OPTIONS) as manager:
        assert len(manager.get_data()["action"]) >= 20
