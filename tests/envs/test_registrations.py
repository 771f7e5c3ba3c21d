"""Ids that only this process has registered, in another process: gymnasium's, real gym's, those that factories use."""

from __future__ import annotations

import contextlib
import importlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from really import SampleManager
from really.envs.real_gym import import_gym
from really.envs.registrations import Registrations
from really.envs.spec import EnvironmentSpec
from tests.models import QNet

gym = import_gym()

# Reads registrations and specs, makes each environment, and prints the return of an episode of actions 0.
OTHER_PROCESS = """
import pickle, sys
registrations, *specs = [pickle.loads(packed) for packed in pickle.load(sys.stdin.buffer)]
registrations.apply()
for spec in specs:
    try:
        environment = spec.make()
        environment.reset(0)
        total, over, steps = 0.0, False, 0
        while not over and steps < environment.limit:
            _, reward, terminated, truncated, _ = environment.step(0)
            total, over, steps = total + reward, terminated or truncated, steps + 1
        print(spec.name, total)
    except Exception as error:
        print(spec.name, type(error).__name__, str(error).splitlines()[0])
print("gym", "gym" in sys.modules)
"""


def corridor_class() -> type[gymnasium.Env]:
    """A class that cloudpickle sends by value, as it does with a class of the script that was started."""

    class Corridor(gymnasium.Env):
        observation_space = spaces.Box(0, 10, (2,), np.float32)
        action_space = spaces.Discrete(2)

        def __init__(self, length: int = 5, render_mode: str | None = None) -> None:
            self.length, self.render_mode = length, render_mode

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
            super().reset(seed=seed)
            self.at = 0
            return np.zeros(2, np.float32), {}

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            self.at += 1
            return np.full(2, self.at, np.float32), 1.0, self.at == self.length, False, {}

    return Corridor


@pytest.fixture
def registries() -> Iterator[type[gymnasium.Env]]:
    """Both registries, restored at the end; returns a class to register."""
    # ale_py registers its games when it is imported, and only then: they belong to what is restored.
    with contextlib.suppress(ImportError):
        importlib.import_module("ale_py")
    registered = [gymnasium.registry, gym.envs.registration.registry]
    before = [dict(registry) for registry in registered]
    yield corridor_class()
    for registry, specs in zip(registered, before, strict=True):
        registry.clear()
        registry.update(specs)


def in_another_process(*environments: Any) -> list[str]:
    """What OTHER_PROCESS prints; it gets the registrations that the first environment needs."""
    specs = [EnvironmentSpec(environment) for environment in environments]
    parts = [Registrations.of(specs[0], cloudpickle.dumps), *specs]
    packed = pickle.dumps([cloudpickle.dumps(part) for part in parts])
    done = subprocess.run([sys.executable, "-c", OTHER_PROCESS], input=packed, capture_output=True, check=True)
    return done.stdout.decode().splitlines()


def test_ids_of_a_script_and_factories_that_make_them_work_in_another_process(
    registries: type[gymnasium.Env], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "Corridor", registries, raising=False)
    gymnasium.register("Corridor-v0", registries, max_episode_steps=4)
    gymnasium.register("Corridor-v3", registries, kwargs={"length": 3})
    gymnasium.register("ofmine/Corridor-v1", "__main__:Corridor", kwargs={"length": 7})
    gymnasium.register("Frozen-v0", "gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv", max_episode_steps=6)
    # A script may replace one of gymnasium's own ids.
    with pytest.warns(UserWarning, match="Overriding"):
        gymnasium.register("Blackjack-v1", registries, kwargs={"length": 2})

    def factory() -> gymnasium.Env:
        return gymnasium.make("Corridor-v0")

    def partly() -> gymnasium.Env:
        return gymnasium.make("ofmine/Corridor-v1", max_episode_steps=6)

    ids = ("Corridor-v0", "Corridor", "ofmine/Corridor-v1", "Frozen-v0", "Blackjack-v1", factory, partly)
    assert in_another_process(*ids) == [
        "Corridor-v0 4.0",
        "Corridor 3.0",
        "ofmine/Corridor-v1 7.0",
        "Frozen-v0 0.0",
        "Blackjack-v1 2.0",
        "factory 4.0",
        "partly 6.0",
        "gym False",
    ]


def test_ids_of_real_gym_work_in_another_process(registries: type[gymnasium.Env]) -> None:
    gym.register("GymCorridor-v0", registries, max_episode_steps=4, disable_env_checker=True)

    def factory() -> Any:
        return __import__("gym").make("GymCorridor-v0")

    assert in_another_process("GymCorridor-v0", factory) == ["GymCorridor-v0 4.0", "factory 4.0", "gym True"]


def test_a_registration_that_cannot_travel_is_named_when_it_is_needed_and_harms_no_other(
    registries: type[gymnasium.Env],
) -> None:
    lock = threading.Lock()
    gymnasium.register("Locked-v0", lambda: (lock, registries())[1])
    gymnasium.register("Corridor-v0", registries)
    made, locked, _ = in_another_process("Corridor-v0", "Locked-v0")
    assert made == "Corridor-v0 5.0"
    assert locked.startswith(
        "Locked-v0 InvalidTypeError environment 'Locked-v0': expected a registration that can be sent to another "
        "process, got one that cannot (TypeError: cannot pickle '_thread.lock' object)"
    )
    with pytest.raises(TypeError, match=r"cannot pickle"):
        Registrations.of(EnvironmentSpec("Locked-v0"), cloudpickle.dumps)


@pytest.mark.usefixtures("ray_runtime")
def test_a_runner_in_ray_makes_an_id_that_the_driver_registered(registries: type[gymnasium.Env]) -> None:
    gymnasium.register("Corridor-v0", registries, max_episode_steps=4)
    returns = ["truncated"]
    with SampleManager(QNet, "Corridor-v0", 2, 20, returns, num_steps=8, num_workers=1) as manager:
        data = manager.get_data()
    assert len(data["reward"]) >= 20
    assert data["truncated"].reshape(-1, 4).tolist() == [[0, 0, 0, 1]] * (len(data["reward"]) // 4)
