"""Functions as models that hold what no other process can have: the error names the function, and what to do."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from really import SampleManager
from really.errors import ModelError

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


@pytest.mark.parametrize("make", [jax_model, callable_model])
def test_a_closure_that_no_process_can_have_is_named_with_what_to_do(make):
    told = r"sent to another process.*, got .*counted: TypeError: cannot pickle '_thread.lock' object; give .*function"
    with (
        pytest.raises(ModelError, match=told),
        SampleManager(make(), "CartPole-v1", 2, 20, **OPTIONS) as manager,
    ):
        manager.get_data()
