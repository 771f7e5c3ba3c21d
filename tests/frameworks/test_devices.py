"""Devices of the learner's model and of batches. Tests that need a GPU are marked `gpu` and skipped without one."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces

from really import ReplayBuffer, SampleManager
from really.agents.agent import Agent
from really.agents.models import build_model
from really.errors import InvalidTypeError, InvalidValueError, ModelError

BOX, TWO = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2)
OPTIONS = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}
STATES = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


def made_buffer() -> ReplayBuffer:
    buffer = ReplayBuffer(100, seed=0)
    buffer.put({"state": np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32), "number": np.arange(100)})
    return buffer


def torch_model():
    torch = pytest.importorskip("torch")

    class QNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 2)

        def forward(self, x):
            outputs = {"q_values": self.net(x), "policy": self.net(x), "v_estimate": self.net(x).mean(-1)}
            return outputs | {"mu": self.net(x), "sigma": self.net(x).exp()}

    return QNet


def jax_model():
    jax = pytest.importorskip("jax")

    def apply(parameters, state):
        return {"q_values": state @ parameters["weights"]}

    return lambda: (apply, {"weights": jax.numpy.ones((4, 2))})


MODELS = {"torch": torch_model, "jax": jax_model}


@pytest.mark.parametrize("library", MODELS)
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("pin_memory", [False, True])
def test_batches_for_the_cpu_are_those_of_sample(library, prefetch, pin_memory):
    pytest.importorskip(library)
    one, other = made_buffer(), made_buffer()
    with one.batches(5, prefetch, as_=library, device="cpu", pin_memory=pin_memory) as batches:
        for _ in range(4):
            got, expected = next(batches), other.sample(5)
            assert list(got) == list(expected)
            for key, tensor in got.items():
                assert str(tensor.device).lower().startswith(("cpu", "tfrt_cpu"))
                assert np.array_equal(np.asarray(tensor), expected[key])


def test_jax_refuses_integers_that_it_would_cut_on_a_device_too():
    pytest.importorskip("jax")
    buffer = ReplayBuffer(3, seed=0)
    buffer.put({"id": np.full(3, 1 << 40)})
    with pytest.raises(InvalidValueError, match=r"key 'id': expected int64 that fits int32"):
        next(buffer.batches(2, as_="jax", device="cpu"))


REFUSED = [
    ("torch", {"device": "meta"}, r"device: expected one whose tensors have numbers, got 'meta'"),
    ("torch", {"device": "gpu"}, r"device: expected one of PyTorch, as 'cpu' or 'cuda:0', got 'gpu': RuntimeError"),
    ("torch", {"device": 3.5}, r"device: expected one of PyTorch, as 'cpu' or 'cuda:0', got 3.5: TypeError"),
    ("torch", {"device": "cuda:99"}, r"device: expected one that PyTorch \S+ sees here \(cpu.*\), got 'cuda:99': "),
    ("jax", {"device": "cpu:99"}, r"device: expected one that JAX \S+ sees here \(.*cpu.*\), got 'cpu:99': KeyError"),
    ("jax", {"device": "cpu:-1"}, r"device: expected one that JAX .*, got 'cpu:-1': KeyError"),
    ("jax", {"device": "abacus"}, r"device: expected one that JAX \S+ sees here .*, got 'abacus': RuntimeError"),
    ("jax", {"device": 3}, r"device: expected one that JAX .*, got 3: ValueError: int is no name of a device"),
    ("jax", {"pin_memory": True}, r"pin_memory: expected a device with it for as_='jax', .* got none"),
    ("numpy", {"device": "cpu"}, r"device: expected as_='torch' or as_='jax' with it, got device='cpu', as_='numpy'"),
    ("numpy", {"pin_memory": True}, r"pin_memory: expected as_='torch' or as_='jax' with it, got pin_memory=True"),
    ("abacus", {"device": "cpu"}, r"as_: expected one of 'jax', 'numpy', 'tf', 'torch', got 'abacus'"),
]


@pytest.mark.parametrize(("library", "options", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_devices_that_there_are_not_are_refused_by_name(library, options, message):
    if library in MODELS:
        pytest.importorskip(library)
    with pytest.raises(InvalidValueError, match=f"^{message}"):
        made_buffer().batches(5, as_=library, **options)


def test_pinned_memory_is_a_flag_and_needs_something_to_copy_to():
    torch = pytest.importorskip("torch")
    with pytest.raises(InvalidTypeError, match=r"^pin_memory: expected True or False, got 1$"):
        made_buffer().batches(5, as_="torch", pin_memory=1)
    if not torch.cuda.is_available():
        with pytest.raises(InvalidValueError, match=r"^pin_memory: expected a device .*, got none here"):
            made_buffer().batches(5, as_="torch", pin_memory=True)


@pytest.mark.parametrize("library", MODELS)
def test_a_model_is_put_on_the_device_and_its_copies_beside_it(library, tmp_path):
    made = MODELS[library]()
    with SampleManager(made, "CartPole-v1", 2, 40, device="cpu", **OPTIONS) as manager:
        agent = manager.get_agent()
        data = manager.get_data()
        np.testing.assert_array_equal(agent.act(data["state"]), data["action"])
        copied = agent.copy()
        assert np.array_equal(np.asarray(copied.max_q(STATES).tolist()), np.asarray(agent.max_q(STATES).tolist()))
        if library == "jax":
            assert all(each.parameters["weights"].committed for each in (agent.model, copied.model))
        manager.save_model(tmp_path, 1)
    loaded = Agent.load(tmp_path, made, device="cpu")
    assert np.array_equal(np.asarray(loaded.max_q(STATES).tolist()), np.asarray(copied.max_q(STATES).tolist()))


@pytest.mark.parametrize(
    ("library", "device", "message"),
    [
        ("torch", "meta", "device: expected one whose tensors have numbers, got 'meta'"),
        ("torch", "cuda:99", "device: expected one that PyTorch .* got 'cuda:99'"),
        ("jax", "cpu:99", "device: expected one that JAX .* got 'cpu:99'"),
        ("callable", "cpu", "device: expected none for a Python callable: it takes arrays of NumPy, .* got 'cpu'"),
    ],
)
def test_a_device_that_a_model_cannot_have_is_refused(library, device, message):
    made = MODELS[library]() if library in MODELS else lambda state: {"q_values": state[:, :2]}
    with pytest.raises(InvalidValueError, match=message):
        SampleManager(made, "CartPole-v1", 2, 40, device=device, **OPTIONS)


def test_keras_and_tensorflow_choose_the_device_themselves():
    keras = pytest.importorskip("keras")

    class QNet(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(2)

        def call(self, x):
            return {"q_values": self.head(x)}

    with pytest.raises(InvalidValueError, match=r"device: expected none for a model of (Keras|TensorFlow): .*'cpu'$"):
        build_model(QNet, {}, None, BOX, device="cpu")


@pytest.mark.parametrize("parts", ["all", "some"])
def test_a_module_without_numbers_is_refused(parts):
    torch = pytest.importorskip("torch")
    module = torch_model()()
    module.head = torch.nn.Linear(2, 2)
    (module if parts == "all" else module.head).to("meta")
    name = "net.weight" if parts == "all" else "head.weight"
    told = rf"its weights are on PyTorch's device 'meta', .* as '{name}': .*\.to_empty\(device='cpu'\)"
    with pytest.raises(ModelError, match=told):
        build_model(module, {}, None, BOX)


def test_a_module_that_names_a_device_is_told_to_take_that_of_its_input():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    class NamesDevice(torch_model()):
        def forward(self, x):
            return super().forward(x.to("cuda"))

    with pytest.raises(ModelError, match=r"NamesDevice to take observations .*; if forward\(\) names a device, take"):
        build_model(NamesDevice, {}, None, BOX)


@pytest.mark.parametrize(
    ("kind", "actions"),
    [
        ("epsilon_greedy", TWO),
        ("thompson", TWO),
        ("discrete_policy", TWO),
        ("continuous_normal_diagonal", spaces.Box(-1, 1, (2,))),
        ("continuous_squashed_normal", spaces.Box(-1, 1, (2,))),
    ],
)
def test_methods_of_an_agent_stay_on_the_device_of_its_module(kind, actions):
    """Tensors of PyTorch's device `meta` have no numbers, and raise if a tensor of the CPU meets them."""
    torch = pytest.importorskip("torch")
    agent = Agent(build_model(torch_model(), {}, None, BOX), BOX, actions, kind)
    network = agent.framework.network(copy.deepcopy(agent.model).to("meta"), agent._interface)
    taken = agent.act(STATES)
    found = [network.v(STATES, None), *network.log_prob(STATES, taken, None, True)]
    found += [network.outputs(STATES, (name,))[name] for name in agent.policy.required_outputs]
    if actions is TWO:
        found += [network.max_q(STATES, None), network.q_val(STATES, taken), network.q_values(STATES, None)]
    assert {value.device for value in found} == {torch.device("meta")}


SCRIPT = """
import sys
import numpy as np
from really import ReplayBuffer
buffer = ReplayBuffer(10)
buffer.put({"state": np.zeros((10, 2), np.float32)})
with buffer.batches(2) as batches:
    next(batches)
try:
    buffer.batches(2, device="cuda")
except ValueError:
    pass
found = [name for name in ("tensorflow", "torch", "jax") if name in sys.modules]
assert not found, found
"""


def test_no_framework_is_imported_by_whoever_asks_for_none():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# With a GPU


@pytest.fixture
def cuda():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU that PyTorch sees")
    return torch


@pytest.mark.gpu
@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("pin_memory", [False, True])
def test_batches_on_a_gpu_are_those_of_sample(cuda, prefetch, pin_memory):
    one, other = made_buffer(), made_buffer()
    with one.batches(50, prefetch, as_="torch", device="cuda", pin_memory=pin_memory) as batches:
        for _ in range(200):
            got, expected = next(batches), other.sample(50)
            assert all(tensor.device.type == "cuda" for tensor in got.values())
            assert all(np.array_equal(tensor.cpu(), expected[key]) for key, tensor in got.items())


@pytest.mark.gpu
def test_pinned_batches_without_a_device_are_pinned(cuda):
    with made_buffer().batches(5, as_="torch", pin_memory=True) as batches:
        assert all(tensor.is_pinned() for tensor in next(batches).values())


@pytest.mark.gpu
def test_a_module_on_a_gpu_learns_while_runners_act_on_the_cpu(cuda, tmp_path):
    with SampleManager(torch_model(), "CartPole-v1", 2, 40, device="cuda", **OPTIONS) as manager:
        agent = manager.get_agent()
        assert agent.max_q(STATES).device.type == agent.copy().max_q(STATES).device.type == "cuda"
        agent.q_val(STATES, np.zeros(16, int)).mean().backward()
        manager.set_agent(agent.get_weights())
        data = manager.get_data()
        np.testing.assert_array_equal(agent.act(data["state"]), data["action"])
        manager.save_model(tmp_path, 1)
    assert Agent.load(tmp_path, torch_model(), device="cuda").max_q(STATES).device.type == "cuda"


@pytest.mark.gpu
def test_batches_of_jax_on_a_gpu_are_those_of_sample():
    jax = pytest.importorskip("jax")
    if jax.default_backend() == "cpu":
        pytest.skip("needs a GPU that JAX sees")
    one, other = made_buffer(), made_buffer()
    with one.batches(50, as_="jax", device=jax.devices()[0]) as batches:
        for _ in range(50):
            got, expected = next(batches), other.sample(50)
            assert all(np.array_equal(np.asarray(array), expected[key]) for key, array in got.items())
