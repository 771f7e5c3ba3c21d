"""What a manager says of its own accord: ignored settings, a chosen sampling type, unknown arguments; interrupts."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from really import SampleManager
from really.errors import InvalidTypeError
from really.manager import collecting
from tests.environments import Counter
from tests.models import QNet


def manager_of(**arguments: Any) -> SampleManager:
    given = {"use_ray": False, "num_steps": 5, "action_sampling_type": "epsilon_greedy"}
    return SampleManager(QNet, Counter, 2, 20, **(given | arguments))


def test_a_setting_that_the_sampling_type_ignores_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with manager_of(action_sampling_type="thompson", temperature=0.5) as manager:
        manager.get_data()
        assert not caplog.records
        manager.set_epsilon(0.1)
        manager.get_data()
        manager.set_epsilon(0.2)
        manager.get_data()
    assert [record.getMessage() for record in caplog.records] == [
        "epsilon: expected action_sampling_type='epsilon_greedy', which uses it, got 'thompson', which ignores it"
    ]


def test_a_temperature_without_thompson_warns(caplog: pytest.LogCaptureFixture) -> None:
    with manager_of(epsilon=0.1, temperature=0.5) as manager:
        manager.get_data()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["temperature"]


def test_the_sampling_type_that_is_taken_of_several_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "really"):
        manager_of(action_sampling_type=None).close()
    assert [record.getMessage() for record in caplog.records] == [
        "action_sampling_type: 'thompson' is taken, as none was given, and the model's outputs fit 'epsilon_greedy' "
        "and 'thompson'"
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("n_envs", r"Here it is num_parallel\."),
        ("n_steps", r"Here it is num_steps\."),
        ("target_update_interval", r"Here it is DQNLearner\(target_every=\), which counts updates and not steps\."),
        ("epsilom", r"Did you mean 'epsilon'\?"),
        ("xyzzy", ""),
    ],
)
def test_an_unknown_argument_names_the_one_it_may_be(name: str, hint: str) -> None:
    with pytest.raises(InvalidTypeError, match=rf"^SampleManager: .*, got '{name}'\. ?{hint}$"):
        manager_of(**{name: 3})


def test_an_interrupt_of_collect_keeps_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "PIECE_ROWS", 20)
    with manager_of() as manager:
        manager.initialize_buffer(1000)
        before = manager.collect(90)
        assert before >= 90
        put, puts = manager.buffer.put, []

        def interrupted(rows: Any) -> None:
            puts.append(rows)
            if len(puts) == 3:
                raise KeyboardInterrupt
            put(rows)

        monkeypatch.setattr(manager.buffer, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.collect(10_000)
        assert len(manager.buffer) == before + sum(part.num_rows for part in puts[:2])
