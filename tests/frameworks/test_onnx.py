"""Modules of PyTorch as graphs of ONNX: runners act with them if they agree, and without PyTorch."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces

from really import SampleManager
from really.agents.agent import Agent
from really.agents.frameworks.protocol import ExportRequest
from really.agents.models import build_model
from really.errors import InvalidValueError
from really.policies.inference import load

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from really.agents.frameworks import torch_onnx  # noqa: E402

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


def exported(model, space=BOX, actions=TWO, kind=None):
    module = build_model(model, {}, None, space)
    agent = Agent(module, space, actions, kind)
    names = agent.policy.required_outputs
    request = ExportRequest(space, 3, model, True, agent.forms, names)
    return module, torch_onnx.as_onnx(module.eval(), request)


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


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_outputs_agree_for_parts_of_observations_and_any_number_of_states(rows):
    space = spaces.Dict({"image": spaces.Box(0, 255, (1, 8, 8), np.uint8), "speed": spaces.Box(-1, 1, (2,))})
    module, found = exported(Parts, space, spaces.Box(-1, 1, (3,)))
    forward = load(found, rows)
    rng = np.random.default_rng(0)
    leaves = [rng.integers(0, 255, (rows, 1, 8, 8)).astype(np.uint8), rng.normal(size=(rows, 2)).astype(np.float32)]
    forward.set_weights([each.detach().numpy() for each in module.state_dict().values()])
    got = forward(leaves)
    with torch.no_grad():
        expected = module(dict(zip(("image", "speed"), map(torch.from_numpy, leaves), strict=True)))
    np.testing.assert_allclose(got["mu"], expected["mu"], atol=1e-5)
    np.testing.assert_array_equal(got["sigma"], [[1, 1, 1]])


@pytest.mark.parametrize(
    ("model", "reason"), [(Turns, "rejected: "), (Double, "rejected: .*it has weights of torch.float64")]
)
def test_a_module_without_a_graph_acts_itself(model, reason):
    with SampleManager(model, "CartPole-v1", 2, 20, **OPTIONS) as manager:
        assert manager.info()["inference"] == "torch"
        assert re.match(reason, manager.info()["inference_report"]["onnx"])
        assert len(manager.get_data()["action"]) == 20


SCRIPT = """
import pickle, sys
import numpy as np
from really.policies.inference import load
with open(sys.argv[1], "rb") as file:
    exported, weights = pickle.load(file)
forward = load(exported, 2)
forward.set_weights(weights)
assert np.isfinite(forward([np.zeros((2, 4), np.float32)])["q_values"]).all()
found = [name for name in ("torch", "tensorflow", "jax", "onnxscript") if name in sys.modules]
assert not found, found
"""


def test_a_runner_needs_no_pytorch(tmp_path):
    module, found = exported(QNet, kind="epsilon_greedy")
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
