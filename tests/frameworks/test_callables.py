"""Plain Python callables on NumPy arrays as models: with weights, without any, in processes, and in files."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from gymnasium import spaces

from really import SampleManager
from really.agents.agent import Agent
from really.agents.models import build_model
from really.errors import InvalidTypeError, ModelError

BOX, TWO = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2)
STATES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
OPTIONS = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}


def lean(state):
    """A heuristic: pushes the cart to the side to which the pole leans."""
    assert type(state) is np.ndarray
    return {"q_values": np.stack([-state[:, 2], state[:, 2]], axis=1)}


class Linear:
    """Weights of the user's own, and both a policy and a value."""

    def __init__(self, scale=1.0):
        self.kernel = scale * np.eye(4, 3, dtype=np.float32)

    def __call__(self, state):
        outputs = np.asarray(state, np.float32) @ self.kernel
        return {"policy": outputs[:, :2], "v_estimate": outputs[:, 2], "q_values": outputs[:, :2]}

    def get_weights(self):
        return [self.kernel.copy()]

    def set_weights(self, weights):
        (self.kernel,) = weights


def make_linear(scale):
    return Linear(scale)


def agent_of(model, space=BOX, actions=TWO, kind=None, **options):
    return Agent(build_model(model, {}, None, space), space, actions, kind, **options)


def test_a_function_of_observations_acts_without_weights():
    with SampleManager(lean, "CartPole-v1", 3, 60, returns=["log_prob"], **OPTIONS) as manager:
        data = manager.get_data()
        np.testing.assert_array_equal(data["action"], data["state"][:, 2] > 0)
        np.testing.assert_array_equal(data["log_prob"], 0)
        assert manager.info()["framework"] == "callable"
        assert manager.get_agent().get_weights() == []
        manager.set_agent([])
        agent = manager.get_agent()
        np.testing.assert_array_equal(agent.max_q(STATES), abs(STATES[:, 2]))
        assert len(manager.test(200, 2)) == 2


def test_weights_reach_the_runners_and_agents_keep_their_own():
    with SampleManager(make_linear, "CartPole-v1", 2, 20, model_kwargs={"scale": 2.0}, **OPTIONS) as manager:
        agent, target = manager.get_agent(), manager.get_agent()
        weights = [np.float32([[1, -1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])]
        agent.set_weights(weights)
        manager.set_agent(agent.get_weights())
        data = manager.get_data()
        np.testing.assert_array_equal(data["action"], data["state"][:, 0] <= 0)
        np.testing.assert_array_equal(target.get_weights()[0], 2 * np.eye(4, 3))


@pytest.mark.parametrize("model", [lean, Linear])
def test_saved_models_and_checkpoints_come_back(model, tmp_path):
    pytest.importorskip("h5py")
    with SampleManager(model, "CartPole-v1", 2, 20, seed=0, **OPTIONS) as manager:
        manager.save_model(tmp_path / "models", 3)
        manager.save_checkpoint(tmp_path / "run", counters={"steps": 1})
        before = manager.get_agent().get_weights()
        manager.set_agent([weight + 1 for weight in before])
        agent, epoch = manager.load_model(tmp_path / "models")
        assert epoch == 3
        np.testing.assert_array_equal(agent.get_weights(), before)
        manager.set_agent([weight + 1 for weight in before])
        assert manager.load_checkpoint(tmp_path / "run") == {"steps": 1}
        np.testing.assert_array_equal(manager.get_agent().get_weights(), before)


POLICIES = {
    "epsilon_greedy": ("epsilon_greedy", TWO, {"q_values": lambda x: x[:, :2]}),
    "thompson": ("thompson", spaces.Discrete(3, start=-1), {"q_values": lambda x: x[:, :3]}),
    "categorical": ("discrete_policy", TWO, {"policy": lambda x: x[:, :2]}),
    "multi-discrete": ("discrete_policy", spaces.MultiDiscrete([2, 2]), {"policy": lambda x: x}),
    "multi-binary": ("discrete_policy", spaces.MultiBinary(3), {"policy": lambda x: x[:, :3]}),
    "squashed": (
        "continuous_squashed_normal",
        spaces.Box(-9, 9, (2,)),
        {"mu": lambda x: x[:, :2], "sigma": lambda x: np.exp(x[:, 2:])},
    ),
    "normal": (None, spaces.Box(-9, 9, (2,)), {"mu": lambda x: x[:, :2], "sigma": lambda x: np.exp(x[:, 2:])}),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_log_probability_is_that_of_the_runners(name):
    kind, actions, outputs = POLICIES[name]

    def model(state):
        return {name: function(state) for name, function in outputs.items()}

    agent = agent_of(model, actions=actions, kind=kind, epsilon=0.3, temperature=2.0)
    states = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    taken = agent.act(states)
    log_prob, entropy = agent.flowing_log_prob(states, taken, return_entropy=True)
    np.testing.assert_allclose(log_prob, agent.policy.log_prob(model(states), taken), rtol=1e-4, atol=1e-5)
    assert entropy.shape == (64,)
    assert agent.flowing_log_prob(states[0], taken[0]) == pytest.approx(log_prob[0], rel=1e-5)
    if name in ("epsilon_greedy", "thompson", "categorical"):
        every = [
            agent.flowing_log_prob(states, np.full(64, a + getattr(actions, "start", 0))) for a in range(actions.n)
        ]
        probabilities = np.exp(every)
        np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)
        np.testing.assert_allclose(entropy, -(probabilities * np.log(probabilities)).sum(0), rtol=1e-4)


def test_a_heuristic_that_returns_no_dict_or_raises_is_told():
    with pytest.raises(ModelError, match=r"model output: expected a dict with 'q_values', .* got ndarray"):
        build_model(lambda state: state, None, None, BOX)
    with pytest.raises(InvalidTypeError, match=r"arguments of <lambda>\(units\), got {}; or, .* a dict .* function"):
        build_model(lambda units: of_torch, None, None, BOX)
    with pytest.raises(ModelError, match=r"wrong to take observations \(state \[4\] float32\), got IndexError"):
        build_model(wrong, None, None, BOX)


def wrong(state):
    return {"q_values": state[:, 7]}


def of_torch(state):
    torch = pytest.importorskip("torch")
    kernel = torch.eye(4, 2, dtype=torch.bfloat16, requires_grad=True)
    return {"q_values": torch.from_numpy(np.asarray(state, np.float32)).bfloat16() @ kernel}


def of_jax(state):
    numpy = pytest.importorskip("jax.numpy")
    return {"q_values": numpy.asarray(state, numpy.bfloat16) @ numpy.eye(4, 2, dtype=numpy.bfloat16)}


@pytest.mark.parametrize("model", [of_torch, of_jax])
def test_outputs_of_bfloat16_keep_their_values(model):
    with SampleManager(model, "CartPole-v1", 2, 20, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        np.testing.assert_allclose(agent.max_q(data["state"]), data["state"][:, :2].max(1), rtol=1 / 128)
        np.testing.assert_array_equal(data["action"], agent.act(data["state"]))


class Locked:
    """It holds a lock, which no pickle takes."""

    def __init__(self):
        self.lock, self.table = threading.Lock(), np.zeros((4, 2), np.float32)

    def __call__(self, state):
        return {"q_values": state @ self.table}

    def get_weights(self):
        return [self.table]

    def set_weights(self, weights):
        (self.table,) = weights


def test_an_instance_that_no_process_can_have_says_what_to_do():
    with pytest.raises(ModelError, match=r"sent to another process .* got Locked: .*lock.*give a class or a function"):
        SampleManager(Locked(), "CartPole-v1", 2, 20, **OPTIONS)
    with SampleManager(Locked, "CartPole-v1", 2, 20, **OPTIONS) as manager:
        assert len(manager.get_data()["action"]) == 20


SCRIPT = """
import sys
import numpy as np
from really import SampleManager
def model(state):
    return {"q_values": state[:, :2]}
with SampleManager(model, "CartPole-v1", 2, 20, use_ray=False) as manager:
    manager.initialize_buffer(100)
    manager.collect()
    agent = manager.get_agent()
    agent.act(manager.sample(4)["state"]), agent.max_q(manager.sample(4)["state"])
    manager.test(20, 2)
found = [name for name in ("tensorflow", "keras", "torch", "jax") if name in sys.modules]
assert not found, found
"""


def test_no_framework_is_imported_for_a_callable():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
