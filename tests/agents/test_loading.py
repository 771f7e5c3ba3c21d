"""Agents of saved models alone: with no manager, environment or Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from really import Agent, SampleManager
from really.data.space_json import space_from_json, space_to_json
from really.errors import InvalidFileError, InvalidValueError, ModelError, NotEnoughMemoryError
from tests.models import QNet


def functional() -> Any:
    state = tf.keras.Input((4,))
    return tf.keras.Model(state, {"q_values": tf.keras.layers.Dense(2)(state)})


def manager_of(model: Any = functional, **options: Any) -> SampleManager:
    given = {"num_steps": 20, "use_ray": False, "action_sampling_type": "epsilon_greedy"} | options
    return SampleManager(model, "CartPole-v1", 2, 40, **given)


STATES = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


def lean(state: Any) -> dict[str, Any]:
    return {"q_values": np.asarray(state)[:, 2:]}


ACT = """
import sys
import numpy as np
from really import Agent
agent = Agent.load(sys.argv[1], lambda state: {"q_values": np.asarray(state)[:, 2:]})
assert not {"ray", "tensorflow", "really.manager", "gymnasium.envs.classic_control.cartpole"} & set(sys.modules)
print(agent.act(np.load(sys.argv[2])).tolist())
"""


def test_an_agent_acts_in_a_process_without_manager_or_ray(tmp_path: Path) -> None:
    with manager_of(lean) as manager:
        manager.save_model(tmp_path / "models", 3)
        expected = manager.get_agent().act(STATES, greedy=True).tolist()
    np.save(tmp_path / "states.npy", STATES)
    command = [sys.executable, "-c", ACT, str(tmp_path / "models"), str(tmp_path / "states.npy")]
    assert json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == expected


def test_a_loaded_agent_has_the_weights_settings_and_normalisation(tmp_path: Path) -> None:
    with manager_of(normalize_observations=True, observation_clip=2.0, epsilon=0.3, seed=1) as manager:
        manager.get_data()
        manager.set_agent([weights * 2 for weights in manager.get_agent().get_weights()])
        path = manager.save_model(tmp_path, 7, "good")
        own = manager.get_agent()
        loaded = Agent.load(path)
        assert loaded.epoch == 7
        assert loaded.policy.epsilon == 0.3
        assert (loaded.observation_space, loaded.action_space) == (own.observation_space, own.action_space)
        for one, other in zip(loaded.get_weights(), own.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(loaded.normalize(STATES), own.normalize(STATES))
        assert loaded.act(STATES).tolist() == own.act(STATES, greedy=True).tolist()
        sampling = Agent.load(tmp_path, functional, model_name="good", greedy=False, seed=1)
        assert sampling.act(STATES).tolist() != loaded.act(STATES).tolist()
        assert sampling.copy().max_q(STATES).shape == (64,)


def test_a_class_that_keras_does_not_know_is_given(tmp_path: Path) -> None:
    with manager_of(QNet, model_kwargs={"num_actions": 2}) as manager:
        path = manager.save_model(tmp_path, 0)
        expected = manager.get_agent().act(STATES, greedy=True).tolist()
    with pytest.raises(
        (ModelError, InvalidValueError), match=r"^Agent\.load: expected model=, the class or function tha"
    ):
        Agent.load(path)
    with pytest.raises(InvalidValueError, match=r"^model_kwargs: expected none without model=, got \['num_actions'\]$"):
        Agent.load(path, model_kwargs={"num_actions": 2})
    assert Agent.load(path, QNet, model_kwargs={"num_actions": 2}).act(STATES).tolist() == expected


def test_damaged_and_older_models_are_told(tmp_path: Path) -> None:
    with manager_of() as manager:
        path = Path(manager.save_model(tmp_path, 0))
    (path / "model.keras").write_bytes(b"damaged")
    with pytest.raises(InvalidFileError, match=r"model\.keras: expected .* bytes, got 7"):
        Agent.load(path)
    Agent.load(path, functional)
    from really.checkpoints.saved_models import save_model

    older = save_model(functional(), tmp_path / "older", 0)
    with pytest.raises(
        InvalidValueError, match=r"which does not say what it observes; manager\.load_model\(\) reads it$"
    ):
        Agent.load(older)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidValueError, match=r"^path: expected folders"):
        Agent.load(tmp_path / "empty")


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.make("CartPole-v1").observation_space,
        spaces.Box(0, 255, (4, 8, 8), np.uint8),
        spaces.Box(np.array([-1, 0]), np.array([1, np.inf]), dtype=np.float64),
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiDiscrete([2, 3], np.uint8, start=[1, 0]),
        spaces.MultiBinary(3),
        spaces.MultiBinary((2, 3)),
        spaces.Dict(one=spaces.Discrete(2), two=spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-1, 1, (1,))])),
    ],
)
def test_a_space_comes_back_from_json(space: Any) -> None:
    found = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert found == space
    assert found.dtype == space.dtype


def test_a_space_of_a_derived_class_comes_back_as_one_of_its_base() -> None:
    class Directions(spaces.Discrete):
        pass

    class Sensors(spaces.Dict):
        pass

    found = space_from_json(space_to_json(Sensors(one=Directions(5, start=2))))
    assert found == spaces.Dict(one=spaces.Discrete(5, start=2))


def test_a_space_of_a_model_that_was_saved_without_a_dtype_has_int64() -> None:
    found = space_from_json({"kind": "MultiDiscrete", "nvec": [2, 3], "start": [0, 1]})
    assert found == spaces.MultiDiscrete([2, 3], start=[0, 1])
    assert found.dtype == np.int64


BOX = {"kind": "Box", "shape": [2], "dtype": "<f4", "low": -1, "high": 1}


@pytest.mark.parametrize(
    "crafted",
    [
        {"kind": "Box"},
        {"kind": []},
        BOX | {"shape": [1 << 50]},
        BOX | {"shape": [-1]},
        BOX | {"dtype": "O"},
        BOX | {"low": [1, 2, 3]},
        BOX | {"low": "x"},
        BOX | {"low": 2},
        {"kind": "Discrete", "n": -1, "start": 0},
        {"kind": "MultiDiscrete", "nvec": [0], "start": [0]},
        {"kind": "MultiDiscrete", "nvec": [2], "start": [0], "dtype": "O"},
        {"kind": "MultiBinary", "n": []},
        {"kind": "Dict", "parts": [["a", {"kind": "Text"}]]},
        {"kind": "Tuple", "parts": 3},
    ],
)
def test_a_crafted_space_of_a_saved_model_is_an_error_of_the_file(tmp_path: Path, crafted: Any) -> None:
    with manager_of(lean) as manager:
        path = Path(manager.save_model(tmp_path, 0))
    meta = json.loads((path / "meta.json").read_text())
    meta["agent"]["observation_space"] = crafted
    del meta["crc32"]
    meta["crc32"] = zlib.crc32(json.dumps(meta, sort_keys=True).encode())
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises((InvalidFileError, NotEnoughMemoryError)):
        Agent.load(path, lean)


def test_spaces_of_other_kinds_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="expected a Box, Discrete, Multi-, Dict or Tuple space, got Text"):
        space_to_json(spaces.Text(3))
    with pytest.raises(InvalidValueError, match="expected a Box, Discrete, Multi-, Dict or Tuple space, got 'os'"):
        space_from_json({"kind": "os"})
