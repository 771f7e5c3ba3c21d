"""Environments of other packages: each is collected from, tested, saved and loaded through the public API."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from really import SampleManager
from really.errors import ReallyError
from tests.ecosystem.kinds import ENVIRONMENTS, IN_RUNNERS, REFUSED, pong, pool_of_cheetahs, pool_of_pong

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]
ROWS = 40


class Flat(keras.Model):
    """Takes any observation: its parts as one float vector. Outputs as the action space needs them."""

    def __init__(self, outputs: dict[str, int]) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(16, activation="tanh")
        self.heads = {name: keras.layers.Dense(size) for name, size in outputs.items()}

    def call(self, observation: Any) -> dict[str, Any]:
        parts = []
        for part in tf.nest.flatten(observation):
            rows = tf.shape(part)[0]
            size = int(np.prod(part.shape[1:]))
            parts.append(
                tf.reshape(tf.cast(part, tf.float32), (rows, size)) / (255.0 if part.dtype == tf.uint8 else 1.0)
            )
        hidden = self.hidden(tf.concat(parts, axis=1))
        found = {name: head(hidden) for name, head in self.heads.items()}
        return found | ({"sigma": tf.nn.softplus(found["sigma"])} if "sigma" in found else {})


def task(environment: Any) -> dict[str, Any]:
    """Arguments of a manager for this environment."""
    from really.envs.spec import EnvironmentSpec

    space = EnvironmentSpec(environment).probe().action_space
    if hasattr(space, "n"):
        outputs, sampling = {"q_values": int(space.n)}, "epsilon_greedy"
    else:
        size = int(np.prod(space.shape))
        outputs, sampling = {"mu": size, "sigma": size}, "continuous_normal_diagonal"
    options = {"model_kwargs": {"outputs": outputs}, "action_sampling_type": sampling, "epsilon": 0.5}
    return {"model": Flat, "environment": environment, "num_parallel": 2, "total_steps": ROWS, **options}


def make(name: str, **changes: Any) -> SampleManager:
    _, module, environment = ENVIRONMENTS[name]
    if module is not None:
        importlib.import_module(module)
    if not isinstance(environment, str) and environment in (pong, pool_of_pong, pool_of_cheetahs):
        environment = environment()
    options = {"num_steps": ROWS // 2, "returns": ["episode_end", "agent"], "use_ray": False, "seed": 1}
    return SampleManager(**{**task(environment), **options, **changes})


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment(name: str, kind: Callable[..., None], tmp_path: Path) -> None:
    package = ENVIRONMENTS[name][0]
    kind(version=f"{package} {importlib.metadata.version(package)}")
    if name in REFUSED:
        with pytest.raises(ReallyError, match=REFUSED[name]) as refusal:
            make(name)
        kind(happened=f"refused: {refusal.value}")
        return
    with make(name) as manager:
        data = manager.get_data()
        check(data)
        assert len(manager.test(30, test_episodes=2)) == 2
        manager.save_model(str(tmp_path), 1)
        agent, loaded = manager.get_agent(), manager.load_model(str(tmp_path))
        for own, read in zip(agent.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(own, read)
    with make(name) as again:
        for column, values in again.get_data().items():
            np.testing.assert_array_equal(values, data[column])
    states = ", ".join(f"{key} {v.dtype} {list(v.shape[1:])}" for key, v in data.items() if is_state(key))
    kind(happened=f"works: {states}; action {data['action'].dtype} {list(data['action'].shape[1:])}")


@pytest.mark.parametrize("name", IN_RUNNERS)
@pytest.mark.usefixtures("ray_runtime")
def test_environment_in_a_runner(name: str, kind: Callable[..., None]) -> None:
    kind(version="", happened="works in a runner in another process")
    with make(name, use_ray=True, num_workers=1) as manager:
        check(manager.get_data())


def check(data: dict[str, np.ndarray]) -> None:
    """Asserts that rows are numbers, and that each continues the row before it, unless that ends a trajectory."""
    assert len(data["reward"]) >= ROWS
    follows = data["episode_end"][:-1] == 0
    for name, values in data.items():
        assert np.isfinite(values).all()
        if is_state(name):
            after = data[name.replace("state", "state_new", 1)]
            np.testing.assert_array_equal(values[1:][follows], after[:-1][follows])


def is_state(name: str) -> bool:
    return name.split(".")[0] == "state"
