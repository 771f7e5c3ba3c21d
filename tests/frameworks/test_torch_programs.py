"""Modules of PyTorch as programs that runners compute with NumPy: equal outputs, and what has no program."""

from __future__ import annotations

import re

import numpy as np
import pytest
from gymnasium import spaces

from really import SampleManager
from really.agents.agent import Agent
from really.agents.models import ModelBuilder, build_model
from really.errors import ModelError
from really.policies.inference import load
from tests.frameworks.programs import check_that_it_runs_without

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional

from really.agents.frameworks import exporting  # noqa: E402
from really.agents.frameworks.protocol import ExportRequest  # noqa: E402
from really.agents.frameworks.torch_program import as_program  # noqa: E402

BOX, TWO = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class QNet(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.first, self.body, self.last = nn.Linear(4, 6), body, nn.Linear(6, 2)

    def forward(self, x):
        return {"q_values": self.last(self.body(self.first(x)))}


LAYERS = [
    nn.ReLU(True),
    nn.Tanh(),
    nn.ELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Softplus(),
    nn.LeakyReLU(),
    nn.Hardswish(),
    nn.LayerNorm(6),
    nn.LayerNorm(6, elementwise_affine=False),
    nn.BatchNorm1d(6),
    nn.BatchNorm1d(6, affine=False),
    nn.Dropout(0.5),
    nn.Softmax(-1),
    nn.LogSoftmax(-1),
    nn.Linear(6, 6, bias=False),
]
FUNCTIONS = {
    "clip": lambda x: x.clamp(-1, 1) ** 3,
    "parts": lambda x: torch.cat([x[:, 1:3], x[:, :4]], 1) + x[:, 2].unsqueeze(1),
    "one hot": lambda x: x * functional.one_hot(x.argmax(-1), 6),
    "chunks": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "largest": lambda x: x - x.max(1, keepdim=True).values,
    "moments": lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-3),
    "length": functional.normalize,
    "cases": lambda x: torch.where(x > 0.25, 2 * x - 1, -1.0),
    "stack": lambda x: torch.stack([x, x * 2], 1).sum(1),
    "in place": lambda x: x.add_(1).mul_(2),
    "axes": lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1),
    "made": lambda x: x + torch.ones_like(x) * torch.full((6,), 2.0) + torch.arange(6),
    "whole numbers": lambda x: (x.long() % 3).float() + x.round(),
    "log-sum-exp": lambda x: x - torch.logsumexp(x, 1, keepdim=True),
    "outer product": lambda x: x + (x[:, :, None] * x[:, None, :]).sum(2),
}
BODIES = {repr(layer): layer for layer in LAYERS} | {name: Function(each) for name, each in FUNCTIONS.items()}


def program_of(model, repeatable=True):
    torch.manual_seed(0)
    agent = Agent(build_model(model, {}, None, BOX), BOX, TWO, "epsilon_greedy")
    build = ModelBuilder(model, {}, None, BOX, agent.model, "torch")
    agent.model.eval()
    request = ExportRequest(BOX, 3, build, repeatable, agent.forms, agent.policy.required_outputs)
    return agent, as_program(agent.model, request)


@pytest.mark.parametrize("name", BODIES)
def test_a_program_computes_what_the_module_does(name):
    agent, exported = program_of(QNet(BODIES[name]))
    for rows in (1, 2, 5):
        forward = load(exported, rows)
        forward.set_weights(agent.get_weights())
        states = np.random.default_rng(rows).normal(size=(rows, 4), scale=3).astype(np.float32)
        got, expected = forward([states])["q_values"], agent.outputs(states, "q_values")["q_values"]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ReLU(inplace=True)", "Tanh()", "BatchNorm1d(6, eps=1e-05, momentum=0.1)", "moments"])
def test_the_outputs_of_a_state_have_the_same_bits_for_any_number_of_states(name):
    name = next(each for each in BODIES if each.startswith(name.split("(")[0]))
    agent, exported = program_of(QNet(BODIES[name]))
    states = np.random.default_rng(0).normal(size=(37, 4)).astype(np.float32)
    found = []
    for rows in (37, 1, 3, 16):
        forward = load(exported, rows)
        forward.set_weights(agent.get_weights())
        parts = [states[start : start + rows] for start in range(0, 37 - rows + 1, rows)]
        found.append(np.concatenate([forward([part])["q_values"].copy() for part in parts]))
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0][: len(each)])


REFUSED = {
    "an exact GELU": (nn.GELU(), r"has the operation gelu: GELU\(approximate='tanh'\) has a program"),
    "a number of states": (Function(lambda x: x * x.shape[0]), "a constant that depends on the number of states"),
    "random numbers": (Function(lambda x: x + torch.rand(6)), "has the operation rand"),
    "products of batches": (
        Function(lambda x: torch.bmm(x[:, None], x[:, :, None])[:, 0] + x),
        "has products whose last bit depends on the number of states, and a seed repeats all bits",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_program_says_why(name):
    body, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        program_of(QNet(body))


def test_without_a_seed_products_of_numpy_are_taken():
    agent, exported = program_of(QNet(REFUSED["products of batches"][0]), repeatable=False)
    forward = load(exported, 2)
    forward.set_weights(agent.get_weights())
    states = np.ones((2, 4), np.float32)
    expected = agent.outputs(states, "q_values")["q_values"].detach().numpy()
    np.testing.assert_allclose(forward([states])["q_values"], expected, rtol=1e-4)


def test_runners_act_with_it_with_a_seed_and_get_new_weights():
    options = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy", "seed": 0}
    state = torch.get_rng_state()
    with SampleManager(lambda: QNet(nn.BatchNorm1d(6)), "CartPole-v1", 2, 40, **options) as manager:
        info, agent = manager.info(), manager.get_agent()
        assert (info["framework"], info["inference"]) == ("torch", "numpy")
        assert info["inference_report"]["onnx"].startswith("not tried: numpy agrees")
        for change in (0.0, 0.5):
            weights = agent.get_weights()
            manager.set_agent([each + change if each.dtype.kind == "f" else each for each in weights])
            data = manager.get_data()
            np.testing.assert_array_equal(manager.get_agent().act(data["state"]), data["action"])
        assert agent.model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_no_graph_is_made_where_a_program_is_fast_enough(monkeypatch):
    monkeypatch.setattr(exporting, "FAST_ENOUGH", (1.0, 0.0))
    options = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}
    with SampleManager(lambda: QNet(nn.ReLU()), "CartPole-v1", 2, 40, **options) as manager:
        report = manager.info()["inference_report"]
    assert re.fullmatch(r"not tried: numpy takes [0-9.]+ µs", report["onnx"])
    assert re.search("a call with 2 states, [0-9]+ µs to set weights$", report["numpy"])


def test_it_runs_where_pytorch_is_not_imported():
    check_that_it_runs_without("torch", *program_of(QNet(nn.ReLU())))
