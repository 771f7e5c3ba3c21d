"""Modules of PyTorch as graphs of ONNX: runners act with them if they agree, and without PyTorch."""

from __future__ import annotations

import gc
import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from really import SampleManager
from really.agents.agent import Agent
from really.agents.frameworks.protocol import ExportRequest
from really.agents.models import build_model
from really.agents.verification import Timing
from really.errors import InvalidValueError
from really.policies.inference import load

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from really.agents.frameworks import exporting, torch_onnx  # noqa: E402

nn = torch.nn
BOX, TWO = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2)
OPTIONS = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy", "seed": 0}


class QNet(nn.Module):
    """With an exact GELU, for which there is no program for NumPy, which runners would take first."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.GELU(), nn.Linear(16, 2))

    def forward(self, x):
        return {"q_values": self.net(x)}


class Parts(nn.Module):
    """Images and a shared sigma, which is a parameter itself."""

    def __init__(self):
        super().__init__()
        self.image, self.mu, self.sigma = nn.Conv2d(1, 2, 3), nn.Linear(74, 3), nn.Parameter(torch.ones(3))

    def forward(self, x):
        found = self.image(x["image"].float() / 255).flatten(1)
        return {"mu": self.mu(torch.cat([found, x["speed"]], 1)), "sigma": self.sigma}


class Turns(QNet):
    """Which way it goes depends on the numbers, for which there is no graph."""

    def forward(self, x):
        q_values = super().forward(x)["q_values"]
        return {"q_values": -q_values if float(q_values.sum()) > 0 else q_values}


class Double(QNet):
    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, x):
        return super().forward(x.double())


class Large(nn.Module):
    """With weights of 4 MB."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4096), nn.Linear(4096, 256)

    def forward(self, x):
        return {"q_values": self.last(self.first(x).relu())[..., :2]}


KINDS = ["onnx", "onnx_static"]


def exported(model, space=BOX, actions=TWO, kind=None, form="onnx"):
    module = build_model(model, {}, None, space)
    agent = Agent(module, space, actions, kind)
    names = agent.policy.required_outputs
    request = ExportRequest(space, 3, model, True, agent.forms, names)
    graph = torch_onnx.as_onnx(module.eval(), request)
    return module, graph if form == "onnx" else torch_onnx.with_constants(graph)


def test_runners_act_with_the_graph_and_get_new_weights_and_statistics():
    state = torch.get_rng_state()
    with SampleManager(QNet, "CartPole-v1", 3, 60, **OPTIONS) as manager:
        info, agent = manager.info(), manager.get_agent()
        assert (info["framework"], info["inference"]) == ("torch", "onnx")
        assert "the module itself on one thread" in info["inference_report"]["torch"]
        assert "a call with 3 states" in info["inference_report"]["onnx"]
        for change in (0.0, 0.5):
            manager.set_agent(
                [weight + change if weight.dtype.kind == "f" else weight for weight in agent.get_weights()]
            )
            data = manager.get_data()
            np.testing.assert_array_equal(manager.get_agent().act(data["state"]), data["action"])
        assert len(manager.test(20, 2)) == 2
        assert agent.model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_outputs_agree_for_parts_of_observations_and_any_number_of_states(rows, form):
    space = spaces.Dict({"image": spaces.Box(0, 255, (1, 8, 8), np.uint8), "speed": spaces.Box(-1, 1, (2,))})
    module, found = exported(Parts, space, spaces.Box(-1, 1, (3,)), form=form)
    forward = load(found, rows)
    rng = np.random.default_rng(0)
    leaves = [rng.integers(0, 255, (rows, 1, 8, 8)).astype(np.uint8), rng.normal(size=(rows, 2)).astype(np.float32)]
    forward.set_weights([each.detach().numpy() for each in module.state_dict().values()])
    got = forward(leaves)
    with torch.no_grad():
        expected = module(dict(zip(("image", "speed"), map(torch.from_numpy, leaves), strict=True)))
    np.testing.assert_allclose(got["mu"], expected["mu"], atol=1e-5)
    np.testing.assert_array_equal(got["sigma"], [[1, 1, 1]])


@pytest.mark.parametrize("form", KINDS)
def test_a_runner_has_the_weights_and_statistics_that_were_set_last(form):
    module, found = exported(QNet, kind="epsilon_greedy", form=form)
    forward, states = load(found, 3), np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    own = [each.numpy() for each in module.state_dict().values()]
    given = [np.array(each) for each in own]
    for change in (0, 1, 2, 0):
        for to, weight in zip(given, own, strict=True):
            to[...] = weight + change
        forward.set_weights(given)
        for to in given:
            to[...] = 7  # whoever gave the weights may write into them afterwards
        changed = {name: each + change for name, each in module.state_dict().items()}
        with torch.no_grad():
            expected = torch.func.functional_call(module, changed, torch.from_numpy(states))["q_values"]
        for _ in range(2):
            np.testing.assert_allclose(forward([states])["q_values"], expected, rtol=1e-4, atol=1e-5)


def test_sessions_of_earlier_weights_are_freed():
    module, found = exported(Large, kind="epsilon_greedy", form="onnx_static")
    weights = [each.numpy() for each in module.state_dict().values()]
    forward, states = load(found, 3), np.zeros((3, 4), np.float32)

    def change(times):
        for _ in range(times):
            forward.set_weights(weights)
            forward([states])
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = change(10)
    assert change(40) - before < 20e6  # 40 sessions of 4 MB


def test_packed_weights_are_taken_if_they_change_seldom_enough():
    _, graph = exported(QNet)
    own, packed = exporting.replace(graph, kind="torch"), torch_onnx.with_constants(graph)
    found = {own: Timing(5e-3, 1e-4), graph: Timing(6e-3, 1e-4), packed: Timing(3e-3, 9e-3)}
    for calls, best in ((1, own), (4, own), (5, packed), (200, packed)):
        request = ExportRequest(BOX, 3, QNet, calls=calls)
        assert exporting._chosen(found, request, True) is best


@pytest.mark.parametrize(("steps", "kind"), [(200, "onnx_static"), (99, "torch")])
def test_with_a_seed_a_large_module_packs_its_weights_if_they_change_seldom(steps, kind):
    with SampleManager(Large, "CartPole-v1", 2, 20, **(OPTIONS | {"num_steps": steps})) as manager:
        info = manager.info()
        assert info["inference"] == kind, info["inference_report"]
        data = manager.get_data()
        np.testing.assert_array_equal(manager.get_agent().act(data["state"]), data["action"])


def test_a_graph_that_cannot_be_made_is_tried_once():
    tries = []

    def fails():
        tries.append(1)
        raise ValueError("no graph")

    make = exporting.once(fails)
    for _ in range(2):
        with pytest.raises(ValueError, match="no graph"):
            make()
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("model", "reason"), [(Turns, "rejected: "), (Double, "rejected: .*it has weights of torch.float64")]
)
def test_a_module_without_a_graph_acts_itself(model, reason):
    with SampleManager(model, "CartPole-v1", 2, 20, **OPTIONS) as manager:
        assert manager.info()["inference"] == "torch"
        for form in KINDS:
            assert re.match(reason, manager.info()["inference_report"][form])
        assert len(manager.get_data()["action"]) == 20


SCRIPT = """
import pickle, sys
import numpy as np
from really.agents.verification import Timing
from really.policies.inference import load
with open(sys.argv[1], "rb") as file:
    exported, weights = pickle.load(file)
forward = load(exported, 2)
forward.set_weights(weights)
assert np.isfinite(forward([np.zeros((2, 4), np.float32)])["q_values"]).all()
found = [name for name in ("torch", "tensorflow", "jax", "onnxscript") if name in sys.modules]
assert not found, found
"""


@pytest.mark.parametrize("form", KINDS)
def test_a_runner_needs_no_pytorch(tmp_path, form):
    module, found = exported(QNet, kind="epsilon_greedy", form=form)
    weights = [each.numpy() for each in module.state_dict().values()]
    (tmp_path / "exported").write_bytes(pickle.dumps((found, weights)))
    command = [sys.executable, "-c", SCRIPT, tmp_path / "exported"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(torch_onnx, "NEEDED", ("onnxscript", "no_such_package"))
    with SampleManager(QNet, "CartPole-v1", 2, 20, **OPTIONS) as manager:
        told = manager.info()["inference_report"]["onnx"]
    assert told == "rejected: ModelError: it needs no_such_package: pip install 'really-rl[onnx]'"


def test_a_session_is_told_to_come_in_a_function(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    _, graph = exported(QNet)
    session = runtime.InferenceSession(graph.payload, providers=["CPUExecutionProvider"])
    with pytest.raises(InvalidValueError, match=r"got InferenceSession, .*: give a function of observations"):
        build_model(session, {}, None, BOX)
