"""Functions of JAX as programs that runners compute with NumPy: equal outputs, and what has no program."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from really import SampleManager
from really.agents.agent import Agent
from really.agents.models import ModelBuilder, build_model
from really.errors import ModelError
from really.policies.inference import load
from tests.frameworks.programs import check_that_it_runs_without

jax = pytest.importorskip("jax")
jnp = jax.numpy

from really.agents.frameworks.jax_program import as_program  # noqa: E402
from really.agents.frameworks.protocol import ExportRequest  # noqa: E402

BOX, TWO = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2)
RNG = np.random.default_rng(0)
WEIGHTS = {"first": RNG.normal(size=(4, 6)).astype(np.float32), "last": RNG.normal(size=(6, 2)).astype(np.float32)}
WEIGHTS |= {"bias": RNG.normal(size=6).astype(np.float32)}
BODIES = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "leaky": jax.nn.leaky_relu,
    "layer norm": lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5),
    "log softmax": jax.nn.log_softmax,
    "clip": lambda x: jnp.clip(x, -1, 1) ** 3 + x**-2,
    "parts": lambda x: jnp.concatenate([x[:, 1:3], x[:, :4].T.reshape(-1, x.shape[0]).T], 1),
    "one hot": lambda x: x * jax.nn.one_hot(x.argmax(-1), 6),
    "whole numbers": lambda x: jnp.where(x.astype(jnp.int32) % 1 == 0, jnp.floor(x), jnp.sign(x)),
}


def program_of(apply, weights=WEIGHTS, space=BOX):
    agent = Agent(build_model((apply, weights), {}, None, space), space, TWO, "epsilon_greedy")
    build = ModelBuilder((apply, weights), {}, None, space, agent.model, "jax")
    request = ExportRequest(space, 3, build, False, agent.forms, agent.policy.required_outputs)
    return agent, as_program(agent.model, request)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_program_computes_what_the_function_does(name, rows):
    def apply(parameters, x):
        hidden = BODIES[name](x @ parameters["first"] + parameters["bias"])
        return {"q_values": hidden @ parameters["last"]}

    try:
        agent, exported = program_of(apply)
    except ModelError as error:
        pytest.fail(str(error))
    forward = load(exported, rows)
    for scale in (1.0, 40.0):
        weights = [np.asarray(weight * scale, np.float32) for weight in agent.get_weights()]
        agent.set_weights(weights)
        forward.set_weights(weights)
        states = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
        expected = agent.outputs(states, "q_values")["q_values"]
        np.testing.assert_allclose(forward([states])["q_values"], expected, rtol=1e-4, atol=1e-4 * scale)


def test_overflow_is_a_result_and_no_warning():
    agent, exported = program_of(lambda parameters, x: {"q_values": jnp.exp(x @ parameters["first"])[:, :2]})
    forward = load(exported, 1)
    forward.set_weights(agent.get_weights())
    assert np.isin(forward([np.full((1, 4), 1e4, np.float32)])["q_values"], [0, np.inf]).all()


REFUSED = {
    "a loop": (lambda p, x: {"q_values": jax.lax.fori_loop(0, 3, lambda _, y: y * 2, x[:, :2])}, "has the operation"),
    "a kernel": (
        lambda p, x: {"q_values": jax.lax.conv(x[:, None], p["first"][:1, None], (1,), "SAME")[:, 0, :2]},
        "has the operation conv_general_dilated",
    ),
    "a function of errors": (lambda p, x: {"q_values": jax.lax.erf(x[:, :2])}, "has the operation erf"),
    "a size": (
        lambda p, x: {"q_values": jnp.broadcast_to(x[:1], (x.shape[0] + 1, 4))[:-1, :2]},
        "has a size that is 8 for 7 states and 12 for 11",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_program_says_why(name):
    apply, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        program_of(apply)


def test_weights_that_do_not_travel_as_they_are_have_none():
    weights = {"first": jnp.ones((4, 2), jnp.bfloat16)}
    with pytest.raises(ModelError, match=r"its weight \['first'\] is of bfloat16"):
        program_of(lambda parameters, x: {"q_values": x @ parameters["first"].astype(jnp.float32)}, weights)


def mlp(parameters, x):
    return {"q_values": jax.nn.relu(x @ parameters["first"] + parameters["bias"]) @ parameters["last"]}


def test_runners_take_it_and_act_as_the_agent():
    options = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}
    with SampleManager((mlp, WEIGHTS), "CartPole-v1", 2, 40, **options) as manager:
        data, agent, info = manager.get_data(), manager.get_agent(), manager.info()
        np.testing.assert_array_equal(agent.act(data["state"]), data["action"])
        assert {"jax", "numpy"} <= info["inference_report"].keys()
    with SampleManager((mlp, WEIGHTS), "CartPole-v1", 2, 40, seed=0, **options) as manager:
        assert manager.info()["inference"] == "numpy"


def test_a_seed_takes_no_product_whose_last_bit_depends_on_the_number_of_states():
    def apply(parameters, x):
        return {"q_values": jnp.einsum("bi,bj->bij", x, x[:, :2] @ parameters["square"]).sum(1)}

    def outer(parameters, x):
        return {"q_values": (parameters["square"] @ x[:, :2].T).T}

    weights, options = {"square": np.eye(2, dtype=np.float32)}, {"num_steps": 10, "use_ray": False, "seed": 0}
    for function in (apply, outer):
        with SampleManager((function, weights), "CartPole-v1", 2, 40, **options, epsilon=0.0) as manager:
            assert manager.info()["inference"] == "jax"
            assert "rejected" in manager.info()["inference_report"]["numpy"]


def test_it_runs_where_jax_is_not_imported():
    check_that_it_runs_without("jax", *program_of(mlp))
