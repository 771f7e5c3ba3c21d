"""Weights of one framework for a model of another: the error names both, and nothing is changed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from really import SampleManager
from really.errors import ModelError

torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
OPTIONS = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}
OF_TORCH, OF_JAX = (
    "expected a state_dict of PyTorch or a list of arrays, ",
    "expected a pytree of JAX or a list of arrays, ",
)


class QNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(4, 2)

    def forward(self, state):
        return {"q_values": self.q(state)}


def apply(parameters, state):
    return {"q_values": state @ parameters["kernel"] + parameters["bias"]}


def parameters():
    return {"kernel": jax.numpy.ones((4, 2)), "bias": jax.numpy.zeros(2)}


def model(framework):
    return QNet if framework == "torch" else (apply, parameters())


GIVEN = {
    "pytree": ("torch", parameters, OF_TORCH + ".* got a pytree of JAX arrays"),
    "pytree of lists": ("torch", lambda: [list(parameters().values())], OF_TORCH + ".* got a pytree of JAX arrays"),
    "pytree in a tuple": ("torch", lambda: (parameters(), parameters()), OF_TORCH + ".* got a pytree of JAX arrays"),
    "list of jax": ("torch", lambda: list(parameters().values()), OF_TORCH + ".* got a list of JAX arrays"),
    "pair": (
        "torch",
        lambda: (apply, parameters()),
        OF_TORCH + ".* got a pair .* model of JAX: give the weights alone",
    ),
    "module": ("torch", QNet, OF_TORCH + r".* got QNet, a module of PyTorch: give its state_dict\(\)"),
    "state_dict": ("jax", lambda: QNet().state_dict(), OF_JAX + ".* got a state_dict of PyTorch"),
    "tensors": ("jax", lambda: list(QNet().state_dict().values()), OF_JAX + ".* got tensors of PyTorch"),
    "module for jax": ("jax", QNet, OF_JAX + r".* got QNet, a module of PyTorch: give its state_dict\(\)"),
    "pair for jax": ("jax", lambda: (apply, parameters()), OF_JAX + ".* got a pair .* give the weights alone"),
    "kernels of keras": (
        "torch",
        lambda: [np.ones((4, 2)), np.zeros(2)],
        r"weights\[0\] \(q.weight\): expected shape \[2, 4\], got \[4, 2\]; kernels are \[outputs, inputs\] in PyTorch",
    ),
}


@pytest.mark.parametrize("case", GIVEN)
def test_weights_of_another_framework_change_nothing_and_are_named(case):
    framework, given, message = GIVEN[case]
    with SampleManager(model(framework), "CartPole-v1", 2, 20, **OPTIONS) as manager:
        before = manager.get_agent().get_weights()
        for give in (manager.set_agent, manager.get_agent().set_weights):
            with pytest.raises(ModelError, match=message):
                give(given())
        assert all(map(np.array_equal, manager.get_agent().get_weights(), before))
        assert len(manager.get_data()["action"]) == 20


@pytest.mark.parametrize(("framework", "told"), [("torch", OF_TORCH), ("jax", OF_JAX)])
@pytest.mark.parametrize("given", ["model.pt", None, iter([np.ones(2)])])
def test_what_is_no_weights_is_told_with_what_the_model_takes(framework, told, given):
    with (
        SampleManager(model(framework), "CartPole-v1", 2, 20, **OPTIONS) as manager,
        pytest.raises(ModelError, match=rf"weights: {told}as the agent gives them, got {type(given).__name__}"),
    ):
        manager.set_agent(given)


@pytest.mark.parametrize("first", ["torch", "jax"])
def test_a_function_that_makes_models_of_two_frameworks_is_named(first):
    made = itertools.cycle(["torch", "jax"] if first == "torch" else ["jax", "torch"])

    def make():
        framework = next(made)
        return QNet() if framework == "torch" else (apply, parameters())

    names = ("PyTorch", "JAX") if first == "torch" else ("JAX", "PyTorch")
    told = rf"expected a model of {names[0]}, as the manager's, each time .*, got one of {names[1]}$"
    with pytest.raises(ModelError, match=told), SampleManager(make, "CartPole-v1", 2, 20, **OPTIONS) as manager:
        manager.get_agent().copy()


@pytest.mark.parametrize(("framework", "other"), [("torch", "jax"), ("jax", "torch")])
def test_an_agent_of_another_framework_is_named(framework, other):
    with (
        SampleManager(model(framework), "CartPole-v1", 2, 20, **OPTIONS) as manager,
        SampleManager(model(other), "CartPole-v1", 2, 20, **OPTIONS) as another,
        pytest.raises(ModelError, match=r"got LentAgent, a model or an agent: give its get_weights\(\)"),
    ):
        manager.set_agent(another.get_agent())


def test_arrays_of_another_framework_that_fit_are_taken():
    with SampleManager(model("torch"), "CartPole-v1", 2, 20, **OPTIONS) as manager:
        manager.set_agent([jax.numpy.ones((2, 4)), jax.numpy.zeros(2)])
        np.testing.assert_array_equal(manager.get_agent().get_weights()[0], np.ones((2, 4)))
