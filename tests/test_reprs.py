"""What `print` shows: each public object says on one line what it is, and nothing starts or changes by that."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import really
from really import Mixture, ReplayBuffer, SampleManager, evaluation, metrics, replay
from really.metrics import Aggregator
from really.replay import SAMPLERS, UNITS, Sequences, StratifiedSampler
from tests.environments import Counter


def lean(state: Any) -> dict[str, Any]:
    return {"q_values": np.zeros((len(state), 2), np.float32)}


def manager_of(model: Any = lean, **options: Any) -> SampleManager:
    return SampleManager(model, Counter, 2, 8, action_sampling_type="thompson", use_ray=False, **options)


def public_classes() -> list[type]:
    pytest.importorskip("tensorflow")
    packages = (really, replay, really.learners, metrics, evaluation)
    found = [getattr(package, name) for package in packages for name in package.__all__]
    return [each for each in found if inspect.isclass(each) and not issubclass(each, Exception)]


def test_no_public_class_shows_an_address() -> None:
    assert not [each for each in public_classes() if each.__repr__ is object.__repr__]


def test_a_manager_says_what_it_collects_and_holds() -> None:
    manager = manager_of()
    start = "SampleManager('Counter', num_parallel=2, total_steps=8, policy_version="
    assert repr(manager) == f"{start}0, no buffer)"
    manager.initialize_buffer(100)
    manager.collect(40)
    assert repr(manager) == f"{start}0, {len(manager.buffer)} of 100 rows)"
    manager.close()
    manager.buffer.close()
    assert repr(manager) == f"{start}0, {len(manager.buffer)} of 100 rows)"


def test_a_half_made_object_has_a_line() -> None:
    names = ("Agent", "Aggregator", "DQNLearner", "Evaluation", "SampleManager")
    shown = {each.__name__: repr(object.__new__(each)) for each in public_classes() if each.__name__ in names}
    assert shown == {
        "Agent": "Agent(no model)",
        "Aggregator": "Aggregator()",
        "DQNLearner": "DQNLearner()",
        "Evaluation": "Evaluation(not started)",
        "SampleManager": "SampleManager(not started)",
    }


def test_a_learner_says_what_it_trains() -> None:
    keras = pytest.importorskip("keras")
    from really.learners import DQNLearner
    from really.models import mlp

    with manager_of(mlp, model_kwargs={"observation": 1, "outputs": {"q_values": 2}}) as manager:
        learner = DQNLearner(manager, keras.optimizers.Adam(), target_every=10)
    assert repr(learner) == f"DQNLearner(agent={manager.agent!r}, gamma=0.99, n_step=1)"


def test_an_agent_says_its_model_and_is_not_used_by_that() -> None:
    with manager_of() as manager:
        line = "Agent(function of callable, outputs=('q_values',), action_sampling_type='thompson')"
        agent = manager.get_agent()
        assert repr(agent) == line
        assert not agent.__dict__, "it has not chosen a model"
        agent.act(np.zeros((1, 1), np.float32))
        assert repr(agent) == repr(manager.agent) == line
    assert repr(agent) == line


def test_samplers_and_units_show_their_arguments() -> None:
    assert repr(SAMPLERS["prioritized"](alpha=0.5)) == "PrioritizedSampler(alpha=0.5, eps=1e-06)"
    assert repr(SAMPLERS["uniform"]()) == "UniformSampler()"
    assert repr(UNITS["transition"]()) == "Transitions()"
    assert repr(Sequences(4)).startswith("Sequences(length=4, burn_in=0, ")
    shown = repr(StratifiedSampler("action", {0: 1.0, 1: 2.0}))
    assert shown.startswith("StratifiedSampler(column='action', weights=")
    assert repr(ReplayBuffer(10, unit=Sequences(4)).sampler).startswith("UniformSampler(")


def test_an_aggregator_and_a_mixture_are_lines(tmp_path: Path) -> None:
    aggregator = Aggregator(tmp_path, aggregator_keys=["loss"])
    aggregator.update(loss=1.0)
    assert repr(aggregator) == f"Aggregator(path={str(tmp_path)!r}, keys=('loss',), epoch=1)"
    buffers = [ReplayBuffer(10), ReplayBuffer(10)]
    for buffer in buffers:
        buffer.put({"x": np.arange(3)})
    mixture = Mixture([(buffer, 1) for buffer in buffers])
    assert repr(mixture).startswith("Mixture([(ReplayBuffer(3 of 10 rows, ")
