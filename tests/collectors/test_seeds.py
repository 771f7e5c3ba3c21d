"""seed= and the generators of `random` and `numpy.random`, from which environments draw that have none of their own."""

# ruff: noqa: NPY002
from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from really import SampleManager
from really.collectors.seeds import ProcessGenerators
from tests.environments import Counter, Drawing
from tests.models import QNet


def states(**changes: Any) -> np.ndarray:
    """The observations of a run whose driver has drawn a different number of times before."""
    random.random()
    np.random.random()
    given = {"num_steps": 10, "seed": 1, "returns": ["agent"], **changes}
    with SampleManager(QNet, given.pop("environment", Drawing), given.pop("agents", 2), 40, **given) as manager:
        manager.get_data()
        return manager.get_data()["state"]


@pytest.mark.usefixtures("ray_runtime")
def test_environments_that_draw_from_the_global_generators_repeat(caplog: pytest.LogCaptureFixture) -> None:
    together = states(num_workers=1)
    np.testing.assert_array_equal(states(num_workers=1), together)
    assert caplog.text.count("environment 'Drawing' draws from random or numpy.random") == 2
    assert "for the same num_workers (now 1)" in caplog.text
    caplog.clear()
    alone = states(num_workers=2)
    assert len(np.unique(alone)) == len(alone), "agents do not share their numbers"
    assert "draws from" not in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("ray_runtime")
def test_nothing_is_said_if_an_environment_has_its_own_generator_or_there_is_no_seed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    np.testing.assert_array_equal(states(num_workers=2), states(num_workers=2))
    states(num_workers=1, environment=Counter)
    states(num_workers=1, seed=None)
    assert "draws from" not in caplog.text


def test_without_ray_the_generators_stay_the_users() -> None:
    random.seed(4)
    np.random.seed(4)
    expected = random.random(), np.random.random()
    random.seed(4)
    np.random.seed(4)
    with SampleManager(QNet, Counter, 2, 40, num_steps=10, seed=1, use_ray=False) as manager:
        manager.get_data()
    assert (random.random(), np.random.random()) == expected


def test_a_draw_from_either_generator_is_noticed() -> None:
    state = random.getstate(), np.random.get_state()
    try:
        generators = ProcessGenerators(np.random.SeedSequence(3))
        first = random.random(), np.random.random()
        generators = ProcessGenerators(np.random.SeedSequence(3))
        assert not generators.drawn
        assert random.random() == first[0]
        assert generators.drawn
        generators.forget()
        assert not generators.drawn
        assert np.random.random() == first[1]
        assert generators.drawn
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
