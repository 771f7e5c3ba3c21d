"""How the forms of a model are timed, and which models mix the states of a batch or draw random numbers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from really import SampleManager
from really.agents import verification
from really.agents.verification import oddity, seconds_per_call


def manager_of(model: Any, **options: Any) -> SampleManager:
    given = {"action_sampling_type": "epsilon_greedy", "use_ray": False, "num_steps": 5} | options
    return SampleManager(model, "CartPole-v1", 2, 10, **given)


def network(layer: Callable[[Any], Any]) -> Callable[[], Any]:
    """A function that makes a network with this layer in it."""

    def make() -> Any:
        state = keras.Input((4,))
        hidden = layer(keras.layers.Dense(8)(state))
        return keras.Model(state, {"q_values": keras.layers.Dense(2)(hidden)})

    return make


def in_training(state: Any) -> Any:
    return keras.layers.BatchNormalization()(state, training=True)


def less_the_mean(state: np.ndarray) -> dict[str, np.ndarray]:
    return {"q_values": (state - state.mean(0))[:, :2]}


def drawn(state: np.ndarray) -> dict[str, np.ndarray]:
    return {"q_values": np.random.default_rng().normal(size=(len(state), 2))}


class Remembering(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.core, self.q = keras.layers.GRU(4, return_state=True), keras.layers.Dense(2)

    def call(self, observation: Any, recurrent_state: Any = None) -> dict[str, Any]:
        hidden, new = self.core(observation[:, None], initial_state=recurrent_state)
        return {"q_values": self.q(hidden), "recurrent_state": new}


class Noisy(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.noise = keras.layers.Dense(2), keras.random.SeedGenerator(0)

    def call(self, state: Any) -> dict[str, Any]:
        return {"q_values": self.q(state) + keras.random.normal((1, 2), seed=self.noise)}


class Guessing(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.noise = keras.layers.Dense(2), keras.random.SeedGenerator(0)

    def call(self, state: Any) -> dict[str, Any]:
        return {
            "q_values": self.q(state),
            "value_estimate": keras.random.normal((1, 1), seed=self.noise) + state[:, :1],
        }


def told(records: list[Any], what: str = "mixes the states") -> list[str]:
    return [record.getMessage() for record in records if what in record.getMessage()]


MIXING = [lambda: less_the_mean, network(in_training), network(lambda hidden: hidden - keras.ops.mean(hidden, axis=0))]
INDEPENDENT = [
    lambda: drawn,
    network(keras.layers.BatchNormalization()),
    network(keras.layers.LayerNormalization()),
    network(lambda hidden: keras.layers.Dropout(0.5)(hidden, training=True)),
    network(keras.layers.Dense(64, dtype="bfloat16")),
    Remembering,
]


@pytest.mark.parametrize("model", MIXING)
def test_a_model_that_mixes_states_is_told_once(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with manager_of(model) as manager:
        manager.get_data()
        manager.set_agent(manager.get_agent().get_weights())
        manager.get_data()
    (text,) = told(caplog.records)
    assert text.startswith("model output 'q_values': expected the same numbers for a state alone and among others")


def centred(state: Any) -> Any:
    return state - state.mean(0)


def normalized(state: Any) -> Any:
    return centred(state) / np.sqrt(state.var(0) + 1e-3)


def oddity_of(q_values: Callable[[Any], Any]) -> tuple[str, str] | None:
    """What `oddity` finds of a model with these q-values for the observations of CartPole."""
    with manager_of(lambda: less_the_mean) as manager:
        agent = manager.get_agent()
    return oddity(lambda state: {"q_values": q_values(state)}, agent.input_space, agent.forms, ["q_values"])


@pytest.mark.parametrize("mixing", [centred, normalized])
def test_a_model_that_mixes_states_is_told_whatever_its_weights(mixing: Callable[[Any], Any]) -> None:
    """Two states are mixed, and the third has the outputs that it has alone: with random weights, about 1 in 100."""

    def q_values(state: np.ndarray) -> np.ndarray:
        mixed = mixing(state)[:, :2]
        mixed[int(np.argmax(state[:, 0]))] = 0.0
        return mixed

    assert oddity_of(q_values) == ("mixed", "q_values")


def test_one_choice_that_a_rounding_changes_is_not_told() -> None:
    def q_values(state: np.ndarray) -> np.ndarray:
        near = np.isclose(state[:, 0], state[:, 0].max())
        return np.where(near[:, None] & (len(state) > 1), 100.0, state[:, :2])

    assert oddity_of(q_values) is None


@pytest.mark.parametrize("model", INDEPENDENT)
def test_other_models_are_not_told(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with manager_of(model) as manager:
        manager.get_data()
    assert not told(caplog.records)


def less_each_time() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    calls: list[int] = []

    def lazy(state: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(1)
        return {"q_values": state[:, :2] / len(calls)}

    return lazy


DRAWING = {
    "callable": (lambda: drawn, "q_values"),
    "callable with a state": (less_each_time, "q_values"),
    "keras": (Noisy, "q_values"),
    "keras, its value": (Guessing, "value_estimate"),
    "dropout in training": (network(lambda hidden: keras.layers.Dropout(0.5)(hidden, training=True)), "q_values"),
}


@pytest.mark.parametrize("case", DRAWING)
def test_a_model_that_draws_random_numbers_is_told_once_with_what_a_seed_repeats(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, output = DRAWING[case]
    with manager_of(model, seed=0) as manager:
        manager.get_data()
        manager.set_agent(manager.get_agent().get_weights())
        manager.get_data()
    (text,) = told(caplog.records, "draws random numbers")
    assert text.startswith(f"model output '{output}': expected equal numbers for equal observations")
    assert "seed= repeats the environments and the random numbers of actions, but not those" in text


@pytest.mark.parametrize("model", [*MIXING, *INDEPENDENT[1:3], *INDEPENDENT[4:]])
def test_models_that_repeat_are_not_told_to_draw(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with manager_of(model) as manager:
        manager.get_data()
    assert not told(caplog.records, "draws random numbers")


class Clock:
    """Clocks that a test moves: `wall` and processor time, and how often the thread has waited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.cpu, self.waited = 0.0, 0.0, 0
        clocks = SimpleNamespace(perf_counter=lambda: self.wall, process_time=lambda: self.cpu)
        monkeypatch.setattr(verification, "time", clocks)
        monkeypatch.setattr(verification, "waits", lambda: self.waited)

    def compute(self, seconds: float) -> None:
        self.wall, self.cpu = self.wall + seconds, self.cpu + seconds

    def wait(self, seconds: float) -> None:
        self.wall, self.waited = self.wall + seconds, self.waited + 1


def test_interruptions_by_other_processes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), itertools.count(1)

    def forward(leaves: Any) -> Any:
        clock.compute(20e-6)
        if next(calls) % 40 == 0:
            clock.wait(0.01)

    assert seconds_per_call(forward, []) == pytest.approx(20e-6)


def test_interruptions_of_the_first_calls_of_a_slow_model_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), itertools.count(1)

    def forward(leaves: Any) -> Any:
        clock.wait(0.002 if next(calls) > 12 else 0.004)

    assert seconds_per_call(forward, []) == pytest.approx(0.002)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count what a thread waits for")
def test_a_model_is_timed_by_what_it_computes_where_other_processes_have_the_core_too():
    def forward(leaves):
        until = time.process_time() + 0.005
        while time.process_time() < until:
            pass

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        assert 0.005 <= seconds_per_call(forward, []) < 0.008
    finally:
        os.sched_setaffinity(0, cores)
        for each in others:
            each.kill()
            each.wait()


def test_a_model_that_waits_is_timed_by_the_clock():
    assert seconds_per_call(lambda _: time.sleep(0.003), []) >= 0.003
