"""Functions as models that hold what no other process can have: the error names the function, and what to do."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from really import SampleManager
from really.errors import ModelError

pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("ray_runtime")
OPTIONS = {"num_steps": 10, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}


def jax_model():
    jax, lock = pytest.importorskip("jax"), threading.Lock()

    def counted(parameters, state):
        with lock:  # an exact GELU has no program of NumPy, so that runners need the function itself
            return {"q_values": jax.nn.gelu(state @ parameters, approximate=False)}

    return counted, np.ones((4, 2), np.float32)


def callable_model():
    lock = threading.Lock()

    def counted(state):
        with lock:
            return {"q_values": state[:, :2]}

    return counted


def made_with(lock):
    def counted(state):
        with lock:
            return {"q_values": state[:, :2]}

    return counted


def factory():
    lock = threading.Lock()

    def make_counted():
        return made_with(lock)

    return make_counted


def jax_factory():
    model = jax_model()

    def make_counted():
        return model

    return make_counted


@pytest.mark.parametrize(
    ("make", "kwargs", "told"),
    [
        (
            factory,
            {},
            r"model: expected a class or function that can be sent .*, got .*make_counted: TypeError: .*lock",
        ),
        (jax_factory, {}, r"model: expected a class or function that can be sent .*, got .*make_counted: TypeError: "),
        (
            lambda: made_with,
            {"lock": threading.Lock()},
            "model_kwargs: expected arguments that can be sent .*, got lock of type lock: TypeError: cannot pickle ",
        ),
    ],
)
def test_a_function_that_makes_models_of_what_cannot_be_sent_is_named_with_what_to_do(make, kwargs, told):
    with (
        pytest.raises(ModelError, match=rf"^{told}.*: every process then makes its own$"),
        SampleManager(make(), "CartPole-v1", 2, 20, model_kwargs=kwargs, **OPTIONS) as manager,
    ):
        manager.get_data()


@pytest.mark.parametrize("make", [jax_model, callable_model])
def test_a_closure_that_no_process_can_have_is_named_with_what_to_do(make):
    told = r"sent to another process.*, got .*counted: TypeError: cannot pickle '_thread.lock' object; give .*function"
    with (
        pytest.raises(ModelError, match=told),
        SampleManager(make(), "CartPole-v1", 2, 20, **OPTIONS) as manager,
    ):
        manager.get_data()
