"""Bad input to the public API: the error says what is wrong, and nothing is stored, changed or left running."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

import really
from really import EnvironmentFailedError, ModelError, ReallyError, ReplayBuffer, SampleManager
from really.data.record_batches import to_record_batch
from really.utils import all_subdirs_of, discount_cumsum
from tests.environments import Counter, Raising
from tests.models import NoDict, Policy, QNet, functional

GIVEN: dict[str, Any] = {"model": QNet, "environment": "CartPole-v1", "num_parallel": 2, "total_steps": 20}


def make(**changes: Any) -> SampleManager:
    given = {**GIVEN, "num_steps": None if "num_episodes" in changes else 10, "use_ray": False, **changes}
    return SampleManager(**given)


@pytest.fixture(scope="module")
def manager() -> Iterator[SampleManager]:
    with make(action_sampling_type="epsilon_greedy", epsilon=0.0) as made:
        made.initialize_buffer(100)
        yield made


def refused(use: Callable[[], Any], *parts: str, error: type[Exception] = ReallyError) -> str:
    """Asserts that the call raises a ReallyError whose message contains all `parts`; returns the message."""
    with pytest.raises(error) as caught:
        use()
    message = str(caught.value)
    assert isinstance(caught.value, ReallyError)
    for part in parts:
        assert part in message
    return message


# ------------------------------------------------------------------------------------------ the constructor

SAMPLING_TYPES = ("continuous_normal_diagonal", "discrete_policy", "epsilon_greedy", "thompson")
RETURNS = ("value_estimate", "log_prob", "monte_carlo", "truncated", "episode_end", "policy_version", "agent")
PENDULUM = {"environment": "Pendulum-v1"}
ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = {
    "misspelled id": ({"environment": "CartPool-v1"}, ValueError, ("environment", "'CartPool-v1'", "'CartPole-v1'")),
    "unknown version": ({"environment": "CartPole-v9"}, ValueError, ("'CartPole-v9'", "'CartPole-v1'")),
    "unknown to gym too": ({"environment": "Taxy-v3"}, ValueError, ("'Taxy-v3'", "'Taxi-v3'")),
    "unknown namespace": ({"environment": "ALEE/Pong-v5"}, ValueError, ("'ALEE/Pong-v5'", "'ALE/Pong-v5'")),
    "id with a space": ({"environment": "CartPole-v1 "}, ValueError, ("'CartPole-v1 '", "'CartPole-v1'")),
    "empty id": ({"environment": ""}, ValueError, ("environment: expected an id", "''")),
    "id of a missing package": ({"environment": "nowhere:Cart-v1"}, ValueError, ("'nowhere:Cart-v1'", "nowhere")),
    "no environment": ({"environment": 3}, TypeError, ("environment", "an id, a class, a factory", "3")),
    "env_config": ({"env_config": {"speed": 1}}, ReallyError, ("'CartPole-v1'", "{'speed': 1}", "unexpected keyword")),
    "sampling type": ({"action_sampling_type": "epsilon"}, ValueError, ("'epsilon'", *SAMPLING_TYPES)),
    "its other spelling": ({"actin_sampling_type": "tompson"}, ValueError, ("'tompson'", *SAMPLING_TYPES)),
    "sampling type twice": (
        {"actin_sampling_type": "thompson", "action_sampling_type": "thompson"},
        ValueError,
        ("action_sampling_type and actin_sampling_type", "both"),
    ),
    "sampling type for other actions": (
        {**PENDULUM, "action_sampling_type": "thompson"},
        ValueError,
        ("'thompson'", "Discrete", "Box"),
    ),
    "return key": ({"returns": ["log_probs"]}, ValueError, ("returns", "'log_probs'", *RETURNS)),
    "return keys as text": ({"returns": "log_prob"}, TypeError, ("returns: expected a list of names", "'log_prob'")),
    "no return keys": ({"returns": None}, TypeError, ("returns: expected a list of names", "None")),
    "no q_values": (
        {"model": Policy, "action_sampling_type": "epsilon_greedy"},
        ModelError,
        ("'epsilon_greedy'", "'q_values'", "'policy', 'v_estimate'"),
    ),
    "no policy": ({"action_sampling_type": "discrete_policy"}, ModelError, ("expected 'policy'", "got 'q_values'")),
    "no mu": (
        {**PENDULUM, "action_sampling_type": "continous_normal_diagonal"},
        ModelError,
        ("'mu', 'sigma'", "got 'q_values'"),
    ),
    "no value": ({"returns": ["value_estimate"]}, ModelError, ("value_estimate", "v_estimate", "q_values")),
    "no dict": ({"model": NoDict}, ModelError, ("expected a dict", "'q_values'", "Tensor")),
    "too many actions": ({"model_kwargs": {"num_actions": 3}}, ModelError, ("'q_values'", "[1, 2]", "[1, 3]")),
    "unknown model argument": (
        {"model_kwargs": {"hiden": 8}},
        TypeError,
        ("model_kwargs", "QNet(num_actions=2, hidden=64, value=False)", "'hiden'"),
    ),
    "missing model argument": ({"model": lambda sizes: None}, TypeError, ("model_kwargs", "(sizes)", "{}")),
    "model that cannot be made": ({"model_kwargs": {"hidden": "q"}}, ModelError, ("QNet", "'hidden': 'q'", "units=q")),
    "input_shape": (
        {"input_shape": (7,)},
        ModelError,
        ("QNet", "state [4] float32", "input_shape=(7,)", "have value 7, but received input with shape (1, 4)"),
    ),
    "input_shape that the model refuses": (
        {"model": functional, "input_shape": [7]},
        ModelError,
        ("state [4] float32", "input_shape=[7]", "expected shape=(None, 4), found shape=(1, 7)"),
    ),
    "input_shape that is none": ({"input_shape": "four"}, ValueError, ("input_shape: expected sizes", "'four'")),
    "input_shape below zero": ({"input_shape": (-1,)}, ValueError, ("input_shape: expected sizes", "(-1,)")),
    "no model": ({"model": "QNet"}, ValueError, ("model: expected a model, its class or a function", "'QNet'")),
    "weights of another model": ({"weights": [np.zeros((3, 3))]}, ModelError, ("weights", "(4, 64)", "(3, 3)")),
    "num_parallel": ({"num_parallel": 0}, ValueError, ("num_parallel", ">= 1", "0")),
    "num_parallel that is no integer": ({"num_parallel": 1.5}, TypeError, ("num_parallel", "1.5")),
    "total_steps": ({"total_steps": 0}, ValueError, ("total_steps", ">= 1", "0")),
    "total_steps below zero": ({"total_steps": -5}, ValueError, ("total_steps", "-5")),
    "total_steps that is no integer": ({"total_steps": "20"}, TypeError, ("total_steps", "'20'")),
    "num_steps": ({"num_steps": 0}, ValueError, ("num_steps", "0")),
    "num_episodes": ({"num_episodes": 0}, ValueError, ("num_episodes", "0")),
    "steps and episodes": ({"num_steps": 5, "num_episodes": 2}, ValueError, ("num_episodes and num_steps", "2 and 5")),
    "remote_min_returns": ({"remote_min_returns": 3}, ValueError, ("remote_min_returns", "num_parallel=2", "3")),
    "remote_time_out": ({"remote_time_out": -1}, ValueError, ("remote_time_out", "-1")),
    "epsilon": ({"epsilon": 1.5}, ValueError, ("epsilon", "0 to 1", "1.5")),
    "temperature": ({"temperature": -1}, ValueError, ("temperature", "-1")),
    "gamma": ({"gamma": float("nan")}, ValueError, ("gamma", "nan")),
    "seed": ({"seed": -1}, ValueError, ("seed", "-1")),
}
# Arguments whose errors show only once runners exist.
WITH_RUNNERS = ("no q_values", "no value", "no dict", "weights of another model", "sampling type for other actions")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    changes, error, parts = ARGUMENTS[name]
    refused(lambda: make(**changes), *parts, error=error)


def runner_processes() -> list[int]:
    """Process ids of the runner actors in this Ray session."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_bytes()
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            above = int((Path("/proc") / str(parent) / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if b"Runner" in name and os.getpid() in (parent, above):
            found.append(int(process.name))
    return found


@pytest.fixture
def new_runners(ray_runtime: None) -> Callable[[], set[int]]:
    """Process ids of the runners of this test. Ray may have lost the kill of one of an earlier test."""
    before = set(runner_processes())
    return lambda: set(runner_processes()) - before


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def test_a_running_manager_has_processes(new_runners: Callable[[], set[int]]) -> None:
    """Shows that `new_runners` sees runners, on which the next test relies."""
    with make(use_ray=True) as manager:
        manager.get_data()
        assert new_runners() == {runner["pid"] for runner in manager.info()["runners"]}
    assert wait_until(lambda: not new_runners())


@pytest.mark.parametrize("name", ["misspelled id", *WITH_RUNNERS])
def test_a_refused_manager_leaves_no_runner_behind(name: str, new_runners: Callable[[], set[int]]) -> None:
    import ray

    changes, error, parts = ARGUMENTS[name]
    assert wait_until(lambda: ray.available_resources().get("CPU", 0) >= 1)
    free = ray.available_resources()["CPU"]
    refused(lambda: make(use_ray=True, **changes), *parts, error=error)
    assert wait_until(lambda: not new_runners())
    assert wait_until(lambda: ray.available_resources().get("CPU", 0) >= free)


@pytest.mark.parametrize(
    "spelled",
    [
        {"actin_sampling_type": "thompson"},
        {"action_sampling_type": "thompson", "env_kwargs": {}},
    ],
)
def test_names_that_the_seed_spells_wrongly_are_no_error(spelled: dict[str, Any], manager: SampleManager) -> None:
    with make(**spelled) as made:
        made.initilize_buffer(buffer_size=50, optim_keys=["state", "new_state", "not_done"])
        made.store_in_buffer(made.get_data())
        assert set(made.sample(sample_size=3)) == {"state", "state_new", "not_done"}


# --------------------------------------------------------------------------------------------------- the buffer


def rows(number: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {
        "state": rng.normal(size=(number, 4)).astype(np.float32),
        "action": rng.integers(0, 2, number),
        "reward": rng.normal(size=number).astype(np.float32),
        "state_new": rng.normal(size=(number, 4)).astype(np.float32),
        "terminal": np.zeros(number, np.float32),
    }


def without(key: str) -> dict[str, np.ndarray]:
    return {name: column for name, column in rows().items() if name != key}


def with_nulls(data: dict[str, np.ndarray]) -> pa.Table:
    table = pa.Table.from_batches([to_record_batch(data)])
    return table.set_column(2, "reward", pa.array([1.0, None] * 3, pa.float32()))


KEYS = tuple(rows())
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = {
    **{f"no {key}": (lambda key=key: without(key), ValueError, ("expected key", f"'{key}'")) for key in KEYS},
    **{
        f"fewer rows of {key}": (
            lambda key=key: {**rows(), key: rows()[key][:-1]},
            ValueError,
            (key, "6", "5") if key != "state" else ("6", "5"),
        )
        for key in KEYS
    },
    **{
        f"shape of {key}": (
            lambda key=key: {**rows(), key: np.zeros((6, 9), rows()[key].dtype)},
            ValueError,
            (f"'{key}'", "expected shape", "[6, 9]"),
        )
        for key in KEYS
    },
    **{
        f"{kind} as {key}": (
            lambda key=key, kind=kind: {**rows(), key: np.zeros(rows()[key].shape, kind)},
            TypeError,
            (f"'{key}'", str(rows()[key].dtype) if kind != "O" else "numbers", name),
        )
        for key in KEYS
        for kind, name in (("U1", "<U1"), ("c16", "complex128"), ("O", "object"))
    },
    "ragged lists": (lambda: {**rows(), "state": [[1.0, 2.0, 3.0, 4.0], [1.0]]}, ValueError, ("'state'", "one shape")),
    "real numbers as actions": (lambda: {**rows(), "action": np.full(6, 0.5)}, TypeError, ("'action'", "int64")),
    "a tensor of another shape": (lambda: {**rows(), "state": tf.zeros((6, 3))}, ValueError, ("'state'", "[6, 3]")),
    "nulls": (
        lambda: with_nulls(rows()),
        ValueError,
        ("'reward'", "null"),
    ),
    "nothing": (dict, ValueError, ("expected key", "none")),
    "a list": (lambda: [1, 2], TypeError, ("mapping", "list")),
}


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize("name", WRONG)
def test_rows_that_do_not_fit_leave_the_buffer_unchanged(name: str, filled: bool, manager: SampleManager) -> None:
    data, error, parts = WRONG[name]
    schema = {key: (column.dtype, column.shape[1:]) for key, column in rows().items()}
    manager.buffer = buffer = ReplayBuffer(10, KEYS, spec=schema, seed=0)
    for number in (7, 6) if filled else ():
        manager.store_in_buffer(rows(number))
    held = buffer.take(np.arange(len(buffer))) if filled else {}
    refused(lambda: manager.store_in_buffer(data()), *parts, error=error)
    assert len(buffer) == (10 if filled else 0)
    for key, column in held.items():
        np.testing.assert_array_equal(buffer.take(np.arange(len(buffer)))[key], column)


@pytest.mark.parametrize("name", ["no reward", "fewer rows of action", "ragged lists", "O as state", "nothing"])
def test_a_refused_first_put_fixes_no_schema(name: str, manager: SampleManager) -> None:
    data, error, parts = WRONG[name]
    manager.initialize_buffer(10)
    assert manager.buffer is not None
    refused(lambda: manager.store_in_buffer(data()), *(parts if name != "O as state" else ("'state'",)), error=error)
    assert manager.buffer.spec is None
    manager.store_in_buffer({**rows(), "state": np.zeros((6, 2), np.float64)})
    assert manager.sample(3)["state"].dtype == np.float64


@pytest.mark.parametrize("from_buffer", [True, False])
@pytest.mark.parametrize("size", [0, -1, 2.5, "3", None, True, np.float32(3)])
def test_sample_sizes(size: Any, from_buffer: bool, manager: SampleManager) -> None:
    manager.initialize_buffer(10)
    manager.store_in_buffer(rows())
    delivered = manager.info()["delivered_rows"]
    error = ValueError if isinstance(size, int) and not isinstance(size, bool) else TypeError
    refused(lambda: manager.sample(size, from_buffer=from_buffer), "an integer", repr(size), error=error)
    assert manager.info()["delivered_rows"] == delivered


def test_an_empty_buffer(manager: SampleManager) -> None:
    manager.initialize_buffer(10)
    refused(lambda: manager.sample(3), "sample", "empty", error=ValueError)


@pytest.mark.parametrize("capacity", [0, -1, 2.5, "10", None, True])
def test_capacities(capacity: Any, manager: SampleManager) -> None:
    manager.initialize_buffer(10)
    before = manager.buffer
    error = ValueError if capacity in (0, -1) else TypeError
    refused(lambda: manager.initialize_buffer(capacity), "capacity", repr(capacity), error=error)
    refused(lambda: ReplayBuffer(capacity, ["a"]), "capacity", repr(capacity), error=error)
    assert manager.buffer is before


# ------------------------------------------------------------------------------- agent, model, aggregator, calls


@pytest.mark.parametrize("steps", [0, -3, 1.5, "7"])
def test_total_steps_of_a_call(steps: Any, manager: SampleManager) -> None:
    refused(lambda: manager.get_data(total_steps=steps), "total_steps", repr(steps))
    refused(lambda: manager.kwargs.update(total_steps=steps), "total_steps", repr(steps))
    assert manager.kwargs["total_steps"] == 20


def test_an_undeclared_aggregator_key(manager: SampleManager, tmp_path: Path) -> None:
    refused(lambda: manager.update_aggregator(loss=1.0), "initialize_aggregator")
    manager.initialize_aggregator(tmp_path, aggregator_keys=["loss", "reward"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused(lambda: manager.update_aggregator(loss=1.0, los=2.0), "'los'", "'loss', 'reward'", error=ValueError)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def foreign_model(folder: Path) -> None:
    with make(model_kwargs={"hidden": 8}) as other:
        other.save_model(folder, 1)


FOLDERS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "missing": (lambda folder: folder.rmdir(), ("no folder",)),
    "empty": (lambda folder: None, ("it is empty",)),
    "foreign": (lambda folder: (folder / "notes.txt").write_text("x"), ("<model_name>_<epoch>_<time>", "notes.txt")),
    "foreign folder": (lambda folder: (folder / "model_1_2").mkdir(), ("model_1_2",)),
    "of another model": (foreign_model, ("expected", "got", "[4, 8]")),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_load_model_on_a_folder_that_it_cannot_load(name: str, manager: SampleManager, tmp_path: Path) -> None:
    fill, parts = FOLDERS[name]
    folder = tmp_path / "models"
    folder.mkdir()
    fill(folder)
    agent = manager.get_agent()
    weights, epoch = agent.get_weights(), agent.epoch
    message = refused(lambda: manager.load_model(folder), *parts, error=ValueError)
    assert str(folder) in message
    assert (agent.epoch, manager.get_agent().epoch) == (epoch, epoch)
    for got, expected in zip(agent.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, expected)


OTHER_WEIGHTS: dict[str, tuple[Callable[[list[np.ndarray]], Any], tuple[str, ...]]] = {
    "too few": (lambda weights: weights[:-1], ("expected 6", "got 5")),
    "other shapes": (lambda weights: [weight.T for weight in weights], ("weights[0]", "[4, 64]", "[64, 4]")),
    "last one wrong": (lambda weights: [*weights[:-1], np.zeros(3)], ("weights[5]", "[2]", "[3]")),
    "nothing": (lambda weights: None, ("expected a list of arrays", "NoneType")),
}


@pytest.mark.parametrize("name", OTHER_WEIGHTS)
def test_weights_of_another_model(name: str, manager: SampleManager) -> None:
    change, parts = OTHER_WEIGHTS[name]
    weights, version = manager.get_agent().get_weights(), manager.info()["policy_version"]
    refused(lambda: manager.set_agent(change(weights)), *parts, error=ModelError)
    refused(lambda: manager.get_agent().set_weights(change(weights)), *parts, error=ModelError)
    for got, expected in zip(manager.get_agent().get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert manager.info()["policy_version"] == version
    data = manager.get_data()
    np.testing.assert_array_equal(data["action"], manager.get_agent().act(data["state"], greedy=True))


@pytest.mark.parametrize(
    ("name", "bad"), [("weights", [np.zeros((3, 3))]), ("model_kwargs", {"num_actions": 5}), ("model_kwargs", {"a": 1})]
)
def test_a_refused_setting_is_refused_until_it_is_corrected(name: str, bad: Any) -> None:
    """Every use raises the error; after the correction the agent has its weights from before."""
    with make() as manager:
        agent, before = manager.get_agent(), manager.kwargs[name]
        agent.model.set_weights([weight + 1 for weight in agent.get_weights()])
        manager.set_agent(agent.get_weights())
        weights = agent.get_weights()
        manager.kwargs[name] = bad
        for use in (manager.get_data, manager.get_data, manager.get_agent, lambda: manager.test(5, 2)):
            with pytest.raises((ReallyError, TypeError), match=r"\(3, 3\)|\[1, 5\]|unexpected keyword argument 'a'"):
                use()
        manager.kwargs[name] = before
        assert len(manager.get_data()["reward"]) == 20
        for got, expected in zip(manager.get_agent().get_weights(), weights, strict=True):
            np.testing.assert_array_equal(got, expected)


# ----------------------------------------------------------------------------------- what happens in a runner


class Locked(Counter):
    """Has an attribute that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_an_instance_that_cannot_be_sent_to_a_runner(ray_runtime: None) -> None:
    with pytest.raises(TypeError) as caught:
        make(environment=Locked(), use_ray=True)
    assert "environment 'Locked'" in str(caught.value)
    assert "_thread.lock" in str(caught.value)
    assert "Give its class or a factory" in str(caught.value)
    assert len(str(caught.value)) < 400
    # As in an interactive session, `caught` keeps the error alive. It must not block the next manager.
    with make(environment=Counter, use_ray=True) as manager:
        assert len(manager.get_data()["reward"]) == 20


class Explodes(keras.Model):  # type: ignore[misc]
    """Outputs NaN for the states of later steps."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output_name, self.first, self.second = output, keras.layers.Dense(1), keras.layers.Dense(1)

    def call(self, x: Any) -> dict[str, Any]:
        outputs = {"mu": self.first(x), "sigma": keras.ops.softplus(self.second(x)) + 0.1}
        outputs[self.output_name] = outputs[self.output_name] + keras.ops.where(x > 5, np.nan, 0.0)
        return outputs


class Real(Counter):
    """Counts steps; takes any real number as the action."""

    def __init__(self) -> None:
        super().__init__()
        from gymnasium import spaces

        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def step(self, action: Any) -> Any:
        return super().step(action[0])


@pytest.mark.parametrize("output", ["mu", "sigma"])
def test_nan_from_the_model_says_which_output_and_which_runner(output: str) -> None:
    with make(model=Explodes, model_kwargs={"output": output}, environment=Real, num_workers=2) as manager:
        manager.initialize_buffer(50)
        for use in (manager.get_data, manager.collect):
            message = refused(use, f"'{output}'", "nan", error=ModelError)
            assert re.search(r"runner [01] \(agents", message)
        refused(lambda: manager.test(20, 1), f"'{output}'", "nan", error=ModelError)
        assert manager.buffer is not None
        assert len(manager.buffer) == 0


class NanObservation(Counter):
    """Observes NaN from step 4 on."""

    def step(self, action: Any) -> Any:
        state, *others = super().step(action)
        return (np.where(state > 3, np.nan, state).astype(np.float32), *others)


class NanReward(Counter):
    """Its reward is NaN in step 4."""

    def step(self, action: Any) -> Any:
        state, reward, *others = super().step(action)
        return (state, np.nan if self.count == 4 else reward, *others)


@pytest.mark.parametrize(("kind", "column"), [(NanObservation, "state"), (NanReward, "reward")])
def test_nan_from_an_environment_is_not_blamed_on_the_model(kind: Any, column: str) -> None:
    with make(environment=kind, num_workers=2) as manager:
        refused(manager.get_data, f"environment '{kind.__name__}' of agent 0", f"'{column}", "NaN", "runner 0")


@pytest.mark.parametrize("use_ray", [False, True])
@pytest.mark.parametrize(("at", "verb", "said"), [(0, "reset", "is not there"), (4, "step", "broke down")])
def test_an_environment_that_raises(
    at: int, verb: str, said: str, use_ray: bool, request: pytest.FixtureRequest
) -> None:
    new_runners = request.getfixturevalue("new_runners") if use_ray else None

    def collect() -> None:
        with make(environment=Raising, env_config={"at": at}, use_ray=use_ray) as manager:
            manager.initialize_buffer(50)
            try:
                manager.collect()
            finally:
                assert manager.buffer is not None
                assert len(manager.buffer) == 0

    refused(collect, "'Raising'", verb, f"OSError: the simulator {said}", "Traceback", error=EnvironmentFailedError)
    assert new_runners is None or wait_until(lambda: not new_runners())


def test_errors_are_of_one_family() -> None:
    names = [name for name in really.__all__ if name.endswith("Error")]
    assert all(issubclass(getattr(really, name), ReallyError) for name in names)
    defined = {name for name in vars(really.errors) if name.endswith("Error")}
    assert defined == set(names), "every error class can be imported from really"


# ------------------------------------------------------------------------------------------ paths

PATHS: dict[str, Callable[[SampleManager, ReplayBuffer, Any], Any]] = {
    "ReplayBuffer(path=)": lambda manager, buffer, path: ReplayBuffer(5, path=path),
    "open": lambda manager, buffer, path: ReplayBuffer.open(path),
    "save": lambda manager, buffer, path: buffer.save(path),
    "load": lambda manager, buffer, path: ReplayBuffer.load(path),
    "to_parquet": lambda manager, buffer, path: buffer.to_parquet(path),
    "from_parquet": lambda manager, buffer, path: ReplayBuffer.from_parquet(path),
    "save_model": lambda manager, buffer, path: manager.save_model(path, 1),
    "load_model": lambda manager, buffer, path: manager.load_model(path),
    "save_checkpoint": lambda manager, buffer, path: manager.save_checkpoint(path),
    "load_checkpoint": lambda manager, buffer, path: manager.load_checkpoint(path),
    "initialize_aggregator": lambda manager, buffer, path: manager.initialize_aggregator(path),
    "initialize_buffer": lambda manager, buffer, path: manager.initialize_buffer(10, path=path),
    "compare": lambda manager, buffer, path: really.compare([path]),
    "all_subdirs_of": lambda manager, buffer, path: all_subdirs_of(path),
}


@pytest.mark.parametrize("path", [3, b"bytes", "zero\0"], ids=repr)
@pytest.mark.parametrize("use", PATHS.values(), ids=PATHS)
def test_an_invalid_path_is_refused(manager: SampleManager, use: Callable[..., Any], path: Any) -> None:
    buffer = ReplayBuffer(5)
    buffer.put({"x": np.arange(3.0)})
    kept = manager.buffer
    refused(lambda: use(manager, buffer, path), "expected a path, got", repr(path))
    assert manager.buffer is kept


def test_other_helpers_say_what_they_expected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(lambda: all_subdirs_of(tmp_path / "no"), "b: expected a folder, got", "no', nothing", error=ValueError)
    refused(lambda: all_subdirs_of(tmp_path / "file"), "file', a file that starts with b'x'", error=ValueError)
    refused(lambda: discount_cumsum(["a"], 0.5), "x: expected numbers, got ['a']", error=TypeError)
