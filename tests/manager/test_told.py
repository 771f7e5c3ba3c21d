"""What a manager says of its own accord: ignored settings, a chosen sampling type, unknown arguments; interrupts."""

from __future__ import annotations

from typing import Any

import pytest

from really import SampleManager
from really.collectors import demand
from really.errors import InvalidTypeError, InvalidValueError
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
    manager_of(action_sampling_type=None).close()
    assert [record.getMessage() for record in caplog.records] == [
        "action_sampling_type: expected one of 'epsilon_greedy', 'thompson', as the model's outputs fit them, got "
        "none; 'thompson' is taken"
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("n_envs", "; here it is called num_parallel"),
        ("n_steps", "; here it is called num_steps"),
        ("target_update_interval", r"; here it is DQNLearner\(target_every=\), which counts updates and not steps"),
        ("epsilom", r"\. Did you mean 'epsilon'\?"),
        ("xyzzy", ""),
    ],
)
def test_an_unknown_argument_names_the_one_it_may_be(name: str, hint: str) -> None:
    with pytest.raises(InvalidTypeError, match=rf"^SampleManager: got an unknown argument '{name}'{hint}$"):
        manager_of(**{name: 3})


def test_an_unknown_argument_is_told_where_another_one_is_missing() -> None:
    with pytest.raises(InvalidTypeError, match=r"'n_envs'; here it is called num_parallel$"):
        SampleManager(QNet, "CartPole-v1", n_envs=4, total_steps=10)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'num_parallel'"):
        SampleManager(QNet, "CartPole-v1", total_steps=10)  # type: ignore[call-arg]


class Interrupted(Counter):
    """All instances together count their steps; Ctrl-C comes in one of them."""

    taken, last = 0, 100

    def step(self, action: int) -> Any:
        type(self).taken += 1
        if self.taken == self.last:
            raise KeyboardInterrupt
        return super().step(action)


def test_a_buffer_takes_no_seed_of_its_own() -> None:
    with manager_of() as manager, pytest.raises(InvalidTypeError, match=r"expected no seed, got 3; .* the manager's"):
        manager.initialize_buffer(100, seed=3)


def test_an_interrupt_of_a_long_collect_puts_what_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "MESSAGE_ROWS", 20)
    monkeypatch.setattr(demand, "LONG_MESSAGE_ROWS", 20)
    Interrupted.taken = 0
    how = {"use_ray": False, "num_steps": 5, "action_sampling_type": "epsilon_greedy", "returns": ["agent"]}
    with SampleManager(QNet, Interrupted, 2, 20, **how) as manager:
        manager.initialize_buffer(1000, ["state", "state_new", "agent", "not_done"])
        with pytest.raises(KeyboardInterrupt):
            manager.collect(5_000_000)
        assert 60 <= len(manager.buffer) == manager.steps < 100
        manager.collect(100)
        rows = manager.buffer.take(range(len(manager.buffer)))
        for agent in range(2):
            state, new, goes_on = (rows[key][rows["agent"] == agent] for key in ("state", "state_new", "not_done"))
            follows = goes_on[:-1] == 1
            assert (state[1:][follows] == new[:-1][follows]).all()


def test_an_interrupt_of_collect_keeps_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks that have arrived with the one whose put was interrupted are put, too."""
    monkeypatch.setattr(collecting, "PIECE_ROWS", 100)
    monkeypatch.setattr(demand, "MESSAGE_ROWS", 20)
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
        assert len(puts) > 3
        assert len(manager.buffer) == before + sum(part.num_rows for part in puts) - puts[2].num_rows


def test_a_column_that_no_runner_delivers_names_the_argument_that_asks_for_it() -> None:
    with manager_of() as manager:
        manager.initialize_buffer(10, ["state", "agent"])
        with pytest.raises(InvalidValueError, match=r"'terminal'; SampleManager\(returns=\['agent'\]\) delivers it$"):
            manager.collect(10)
