"""Recurrent models in runners: each agent's state goes from step to step, begins with episodes, and is delivered."""

from __future__ import annotations

import functools
import logging
from typing import Any

import cloudpickle
import numpy as np
import pytest
from gymnasium import Env, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from really import EnvironmentFailedError, InvalidValueError, ModelError, ReplayBuffer, SampleManager
from really.data.returns import gae, monte_carlo
from really.policies.inference import load
from really.replay import Episodes, Sequences
from tests.environments import Counter

OPTIONS: dict[str, Any] = {"use_ray": False, "seed": 3, "action_sampling_type": "epsilon_greedy", "epsilon": 0.0}
RETURNS = ["recurrent_state", "truncated", "agent"]


class Trace:
    """A decaying sum of observations and a count of steps, which begins at 5; a nest of dict, tuple and list."""

    def __init__(self, decay: float = 0.5) -> None:
        self.decay = decay

    def initial_state(self, batch_size: int) -> Any:
        return {"sum": (np.full((batch_size, 3), -1.0),), "count": [np.full(batch_size, 5)]}

    def __call__(self, observation: Any, recurrent_state: Any) -> dict[str, Any]:
        seen = observation.reshape(len(observation), -1)[:, :1]
        total = np.asarray(self.decay * recurrent_state["sum"][0] + seen, np.float32)
        count = recurrent_state["count"][0] + 1
        first = np.sin(total.sum(1)) * count
        outputs = {"q_values": np.stack([first, -first], 1), "v_estimate": total[:, 0] + count}
        return {**outputs, "recurrent_state": {"sum": (total,), "count": [count]}}

    def get_weights(self) -> list[np.ndarray]:
        return [np.array(self.decay)]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.decay = float(weights[0])


SUM, COUNT = "recurrent_state.sum.0", "recurrent_state.count.0"


def replayed(data: dict[str, np.ndarray], state: dict[str, Any] | None = None) -> dict[int, Any]:
    """Plays rows again, agent by agent, and asserts that states and actions are those of the model; the last states."""
    model, states = Trace(), {} if state is None else dict(state)
    for row in range(len(data["reward"])):
        agent = int(data["agent"][row])
        now = states.get(agent) or model.initial_state(1)
        np.testing.assert_allclose(data[SUM][row], now["sum"][0][0], rtol=1e-6)
        assert data[COUNT][row] == now["count"][0][0]
        outputs = model(data["state"][row : row + 1], now)
        assert data["action"][row] == outputs["q_values"][0].argmax()
        is_over = data["terminal"][row] or data["truncated"][row]
        states[agent] = None if is_over else outputs["recurrent_state"]
    return states


def check_counted(data: dict[str, np.ndarray]) -> None:
    """Asserts that states are those after all observations of a `Counter` in the episode so far, delivered or not."""
    state, states = Trace().initial_state(1), []
    for count in range(int(data["state"].max()) + 1):
        states.append(state)
        state = Trace()(np.full((1, 1), count, np.float32), state)["recurrent_state"]
    at = data["state"][:, 0].astype(int)
    np.testing.assert_allclose(data[SUM], np.concatenate([each["sum"][0] for each in states])[at], rtol=1e-6)
    np.testing.assert_array_equal(data[COUNT], at + 5)


def vectors(mode: AutoresetMode, num_envs: int) -> SyncVectorEnv:
    makes = [functools.partial(Counter, length=3 + at) for at in range(num_envs)]
    return SyncVectorEnv(makes, autoreset_mode=mode)


ENVIRONMENTS = {
    "terminates": functools.partial(Counter, length=4),
    "truncates": functools.partial(Counter, length=4, truncate=True),
    "native CartPole": "CartPole-v1",
    **{mode.value: functools.partial(vectors, mode) for mode in AutoresetMode},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("rollout", [{"num_steps": 11}, {"num_episodes": 2}])
def test_each_agent_acts_with_its_own_state_which_begins_with_episodes(name, rollout):
    states: dict[int, Any] = {}
    with SampleManager(
        Trace, ENVIRONMENTS[name], 3, 40, returns=RETURNS, num_workers=1, **rollout, **OPTIONS
    ) as manager:
        for total in (40, 7, 100):
            data = manager.get_data(total_steps=total)
            assert set(data["agent"]) == {0, 1, 2}
            if "CartPole" in name:
                states = replayed(data, states)
            else:
                check_counted(data)


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("rollout", [{"num_steps": 11}, {"num_episodes": 2}])
def test_the_state_of_every_third_step_is_delivered_and_rows_between_repeat_it(name, rollout):
    def chunks(**more):
        options = OPTIONS | rollout | more
        with SampleManager(Trace, ENVIRONMENTS[name], 3, 40, returns=RETURNS, num_workers=1, **options) as manager:
            return [manager.get_data(total_steps=total) for total in (40, 7, 100)]

    for every, third in zip(chunks(), chunks(recurrent_state_every=3), strict=True):
        assert third.keys() - every.keys() == {"has_recurrent_state"}
        for key in every.keys() - {SUM, COUNT}:
            np.testing.assert_array_equal(every[key], third[key])
        steps, stored = every[COUNT] - 5, third["has_recurrent_state"]  # the count begins at 5 with each episode
        np.testing.assert_array_equal(stored, steps % 3 == 0)
        np.testing.assert_array_equal(third[COUNT] - 5, steps - steps % 3)
        goes_on = np.flatnonzero(np.diff(steps) == 1) + 1
        repeating = goes_on[stored[goes_on] == 0]
        np.testing.assert_array_equal(third[SUM][stored == 1], every[SUM][stored == 1])
        np.testing.assert_array_equal(third[SUM][repeating], third[SUM][repeating - 1])
        assert len(repeating) > len(steps) / 3


class Wide(Trace):
    """The same with a sum of 32 numbers, 128 bytes, which a buffer may keep once for several rows."""

    def initial_state(self, batch_size: int) -> Any:
        return {"sum": (np.full((batch_size, 32), -1.0),), "count": [np.full(batch_size, 5)]}


@pytest.mark.parametrize("way", ["memory", "disk", "saved"])
@pytest.mark.parametrize("compact", [False, True])
def test_windows_begin_where_a_state_is_stored_and_the_buffer_keeps_no_other(way, compact, tmp_path):
    options = {**OPTIONS, "num_steps": 60, "recurrent_state_every": 10, "returns": RETURNS}
    keys = ["state", "action", "reward", "state_new", "terminal", *RETURNS]
    where = {"path": tmp_path / "folder"} if way == "disk" else {}
    with SampleManager(Wide, functools.partial(Counter, length=500), 2, 120, **options) as manager:
        manager.initialize_buffer(40_000, keys, unit=Sequences(5, burn_in=5, compact=compact), **where)
        manager.collect(40_000)
        buffer, agent = manager.buffer, manager.get_agent()
        if way == "saved":
            buffer.save(tmp_path / "saved")
            buffer = ReplayBuffer.load(tmp_path / "saved")
        elif way == "disk":
            buffer = ReplayBuffer.open(tmp_path / "folder")
        batch = buffer.sample(300)
        assert batch[SUM].shape == (300, 10, 32)
        assert (batch["has_recurrent_state"][:, 0] == 1).all()
        first = batch["number"][:, 0]
        count = buffer.take(first - buffer.numbers()[0])["state"][:, 0, 0] if not compact else batch[COUNT][:, 0] - 5
        assert set(count.tolist()) <= set(range(0, 491, 10))
        assert len(set(count.tolist())) > 40
        np.testing.assert_array_equal(agent.recurrent_state(batch)["count"][0], batch[COUNT][:, 0])
        with pytest.raises(
            ModelError, match="recurrent_state: expected rows with a state of their own, got 300 of 300"
        ):
            agent.recurrent_state(batch, step=3)
        np.testing.assert_array_equal(batch[COUNT][:, 0] - 5, count)
        memory = buffer.memory()
        assert memory["naive"] > 40_000 * 128
        assert memory["ratio"] > 1.5


@pytest.mark.parametrize("keys", [[SUM, COUNT], ["recurrent_state"], ["has_recurrent_state", "recurrent_state"]])
def test_a_buffer_with_a_state_says_which_rows_have_one(keys):
    options = {**OPTIONS, "num_steps": 60, "recurrent_state_every": 10, "returns": RETURNS}
    with SampleManager(Trace, functools.partial(Counter, length=500), 2, 120, **options) as manager:
        manager.initialize_buffer(1_000, ["terminal", *keys], unit=Sequences(5))
        manager.collect(120)
        assert sorted(manager.buffer.keys) == sorted(["terminal", SUM, COUNT, "has_recurrent_state"])


def test_runners_that_get_different_orders_keep_the_states_of_those_that_idle():
    with SampleManager(Trace, "CartPole-v1", 3, 10, returns=RETURNS, num_steps=5, num_workers=1, **OPTIONS) as manager:
        states: dict[int, Any] = {}
        for total in (5, 20, 25, 35, 10, 60):  # with one runner, some agents have a result more than others
            states = replayed(manager.get_data(total_steps=total), states)


def test_columns_have_the_dtypes_and_shapes_of_the_parts_and_other_managers_have_none():
    with SampleManager(Trace, Counter, 2, 10, returns=RETURNS, num_steps=5, **OPTIONS) as manager:
        columns = manager.info()["columns"]
        assert {name: columns[name] for name in columns if name.startswith("rec")} == {
            SUM: "float32[3]",
            COUNT: "int64[]",
        }
        assert manager.get_data()[COUNT].dtype == np.int64
    with SampleManager(Trace, Counter, 2, 10, returns=["agent"], num_steps=5, **OPTIONS) as manager:
        assert not [name for name in manager.get_data() if name.startswith("recurrent")]


@pytest.mark.parametrize("rollout", [{"num_steps": 6}, {"num_episodes": 2}])
@pytest.mark.parametrize("truncate", [False, True])
def test_values_after_a_cut_are_those_of_the_state_that_goes_on(rollout, truncate):
    environment = functools.partial(Counter, length=4, truncate=truncate)
    asked = [*RETURNS, "monte_carlo", "advantage", "value_estimate", "episode_end"]
    with SampleManager(
        Trace, environment, 3, 60, returns=asked, gamma=0.9, num_workers=1, **rollout, **OPTIONS
    ) as manager:
        data = manager.get_data()
    state = {"sum": (data[SUM],), "count": [data[COUNT]]}
    after = Trace()(data["state"], state)
    np.testing.assert_allclose(data["value_estimate"], after["v_estimate"], rtol=1e-5)
    final = Trace()(data["state_new"], after["recurrent_state"])["v_estimate"]
    terminal = data["terminal"] == 1
    cut = (data["episode_end"] == 1) & ~terminal
    columns = [column[None] for column in (data["reward"], terminal, cut)]
    expected = monte_carlo(*columns, final[None], 0.9)[0]
    np.testing.assert_allclose(data["monte_carlo"], expected, rtol=1e-5)
    reward, *flags = columns
    next_values = np.where(cut, final, np.append(data["value_estimate"][1:], 0))[None]
    advantage = gae(reward, data["value_estimate"][None], next_values, *flags, 0.9, 0.95)[0]
    np.testing.assert_allclose(data["advantage"], advantage, rtol=1e-4, atol=1e-5)


def test_an_agent_acts_as_runners_do_and_returns_the_state_for_its_next_call():
    with SampleManager(Trace, Counter, 2, 40, returns=RETURNS, num_steps=20, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
    rows = [np.flatnonzero(data["agent"] == number) for number in (0, 1)]
    state = one = None
    for step in range(10):
        at = [numbers[step] for numbers in rows]
        actions, state = agent.act(data["state"][at], recurrent_state=state)
        np.testing.assert_array_equal(actions, data["action"][at])
        action, one = agent.act(data["state"][at[0]], recurrent_state=one)
        assert action == actions[0]
        np.testing.assert_array_equal(one["sum"][0], state["sum"][0][0])
    assert state["count"][0].tolist() == [15, 15]


def test_the_other_methods_take_the_state_and_the_stored_one_is_a_column():
    with SampleManager(Trace, Counter, 2, 20, returns=RETURNS, num_steps=10, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
    state = agent.recurrent_state(data)
    own = Trace()(data["state"], state)
    q_values = agent.q_values(data["state"], recurrent_state=state)
    np.testing.assert_allclose(q_values, own["q_values"], rtol=1e-5)
    np.testing.assert_allclose(agent.max_q(data["state"], recurrent_state=state), q_values.max(1))
    taken = agent.q_val(data["state"], data["action"], recurrent_state=state)
    np.testing.assert_allclose(taken, q_values.max(1))
    np.testing.assert_allclose(agent.v(data["state"], recurrent_state=state), own["v_estimate"], rtol=1e-5)
    log_prob = agent.flowing_log_prob(data["state"], data["action"], recurrent_state=state)
    np.testing.assert_allclose(log_prob, np.log(1 - agent.policy.epsilon / 2), rtol=1e-5)
    found = agent.outputs(data["state"], "v_estimate", "recurrent_state", recurrent_state=state)
    np.testing.assert_array_equal(found["recurrent_state"]["count"][0], own["recurrent_state"]["count"][0])
    assert agent.initial_state()["count"][0] == 5
    assert agent.initial_state(4)["sum"][0].shape == (4, 3)
    assert agent.copy().recurrent.is_like(agent.recurrent)


def test_stored_states_come_with_sequences_from_the_buffer():
    with SampleManager(Trace, Counter, 2, 200, returns=RETURNS, num_steps=50, **OPTIONS) as manager:
        keys = ["state", "action", "reward", "state_new", "terminal", "truncated", "agent", "recurrent_state"]
        manager.initialize_buffer(1000, keys, unit=Sequences(4, burn_in=2))
        manager.collect(200)
        batch, agent = manager.buffer.sample(64), manager.get_agent()
    state = agent.recurrent_state(batch)
    for step in range(6):
        np.testing.assert_allclose(batch[SUM][:, step], state["sum"][0], rtol=1e-6)
        state = agent.outputs(batch["state"][:, step], "recurrent_state", recurrent_state=state)["recurrent_state"]


class Recall(Env[np.ndarray, int]):
    """Shows a cue at the first step alone; the action of the third step earns 1 if it is the cue."""

    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.cue, self.count = int(self.np_random.integers(2)), 0
        return np.array([2 * self.cue - 1], np.float32), {}

    def step(self, action: int) -> Any:
        self.count += 1
        over = self.count == 3
        return np.zeros(1, np.float32), float(over and action == self.cue), over, False, {}


class Remembers:
    """Acts on the sum of observations."""

    def __call__(self, observation: Any, recurrent_state: Any = None) -> Any:
        before = 0 if recurrent_state is None else recurrent_state
        total = before + observation
        return {"q_values": np.concatenate([-total, total], 1), "recurrent_state": total}


@pytest.mark.parametrize("episodes", [1, 70])
def test_evaluation_keeps_a_state_for_each_environment(episodes):
    with SampleManager(Remembers(), Recall, 2, 10, num_steps=5, **OPTIONS) as manager:
        assert manager.test(10, episodes, "reward") == [1.0] * episodes
        assert manager.test(2, episodes, "time") == [2] * episodes  # cut short: the next episode begins anew
        assert manager.test(10, episodes, "reward") == [1.0] * episodes


def test_a_state_that_begins_at_zeros_needs_no_initial_state():
    with SampleManager(Remembers(), Recall, 2, 60, returns=RETURNS, num_steps=15, **OPTIONS) as manager:
        data = manager.get_data()
    assert data["recurrent_state"].shape == (len(data["reward"]), 1)
    begins = np.append(True, data["terminal"][:-1] == 1)
    assert (data["recurrent_state"][begins] == 0).all()
    assert (np.abs(data["recurrent_state"][~begins]) == 1).all()
    assert data["reward"][data["terminal"] == 1].all()


def test_observations_are_normalised_before_a_recurrent_model():
    options = {"normalize_observations": True, "num_steps": 10, **OPTIONS}
    asked = [*RETURNS, "value_estimate", "monte_carlo"]
    with SampleManager(Trace, Counter, 2, 20, returns=asked, **options) as manager:
        manager.get_data()
        manager.set_agent([np.array(0.5)])
        data = manager.get_data()
    values = Trace()(data["state"], {"sum": (data[SUM],), "count": [data[COUNT]]})["v_estimate"]
    np.testing.assert_allclose(data["value_estimate"], values, rtol=1e-5)


def test_an_exported_recurrent_model_acts_in_another_process():
    with SampleManager(Trace, Counter, 2, 10, num_steps=5, **OPTIONS) as manager:
        exported = cloudpickle.loads(cloudpickle.dumps(manager._current.exported.exported))
    forward = load(exported, 2)
    forward.set_weights([np.array(0.5)])
    outputs = forward([np.ones((2, 1), np.float32), *exported.recurrent.begin(2)])
    assert outputs[COUNT].tolist() == [6, 6]
    np.testing.assert_allclose(outputs[SUM], 0.5)


def test_a_failed_environment_begins_all_episodes_anew():
    class Fails(Counter):
        steps = 0

        def step(self, action):
            type(self).steps += 1
            if type(self).steps == 33:
                raise OSError("gone")
            return super().step(action)

    with SampleManager(Trace, Fails, 2, 20, returns=RETURNS, num_steps=10, num_workers=1, **OPTIONS) as manager:
        manager.get_data()
        with pytest.raises(EnvironmentFailedError, match="gone"):
            manager.get_data()
        replayed(manager.get_data())


def outputs_for(state: Any) -> dict[str, Any]:
    return {"q_values": np.zeros((1, 2)), "recurrent_state": state}


class Returns:
    """Returns what a function makes of its state, for n observations."""

    def __init__(self, new: Any, begin: Any = None) -> None:
        self._new, self._begin = new, begin
        if begin is not None:
            self.initial_state = begin

    def __call__(self, observation: Any, recurrent_state: Any) -> Any:
        rows = len(observation)
        new = self._new(rows, recurrent_state)
        return {"q_values": np.zeros((rows, 2)), **({} if new is None else {"recurrent_state": new})}


def two(rows: int) -> Any:
    return {"h": np.zeros((rows, 4)), "c": np.zeros((rows, 4))}


REFUSED = {
    "no state among the outputs": (
        lambda rows, state: None,
        two,
        r"expected 'recurrent_state', the state after the observation.*got 'q_values'",
    ),
    "another nest": (
        lambda rows, state: {"h": state["h"]},
        two,
        r"expected the same nest as before, with 'recurrent_state.h', 'recurrent_state.c', got one with "
        r"'recurrent_state.h'",
    ),
    "another nest than the first": (
        lambda rows, state: np.zeros((rows, 1)) if state is None else (np.zeros((rows, 1)),),
        None,
        r"expected the same nest as before, with 'recurrent_state', got one with 'recurrent_state.0'",
    ),
    "another shape": (
        lambda rows, state: {"h": np.zeros((rows, 5)), "c": state["c"]},
        two,
        r"'recurrent_state.h': expected float32\[1, 4\] as before, got float64\[1, 5\]",
    ),
    "another dtype": (
        lambda rows, state: state.astype(np.float64) + 0.5,
        lambda rows: np.zeros((rows, 1), np.int32),
        r"'recurrent_state': expected int32\[1, 1\] as before, got float64\[1, 1\]",
    ),
    "no batch axis": (
        lambda rows, state: np.zeros(3),
        None,
        r"recurrent_state: expected an array with a batch axis, such as \[n, ...\], got shape \[3\] for one "
        r"observation and \[3\] for two",
    ),
    "no arrays": (lambda rows, state: {}, None, "recurrent_state: expected arrays, or dicts, tuples and lists"),
    "text": (lambda rows, state: "memory", None, "recurrent_state.*expected an array of real numbers, got"),
    "an initial state that raises": (
        lambda rows, state: state,
        lambda rows: np.zeros(rows, 7),
        r"model.initial_state\(1\): expected the recurrent state at which 1 episodes begin, got TypeError",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_state_that_is_not_as_before_is_named(name):
    new, begin, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        SampleManager(Returns(new, begin), Counter, 1, 10, num_steps=5, **OPTIONS)


def test_a_state_that_changes_while_runners_act_is_named():
    def grows(rows: int, state: Any) -> Any:
        return state + 1 if state.max(initial=0) < 3 else np.zeros((rows, 2))

    model = Returns(grows, lambda rows: np.zeros((rows, 1)))
    message = r"model output 'recurrent_state': expected shape \[1, 1\], got \[1, 2\]"
    with (
        SampleManager(model, Counter, 1, 10, num_steps=9, **OPTIONS) as manager,
        pytest.raises(ModelError, match=message),
    ):
        manager.get_data()


def test_what_only_recurrent_models_have_is_refused_for_others():
    def plain(observation):
        return {"q_values": np.zeros((len(observation), 2))}

    with pytest.raises(ModelError, match=r"returns=\['recurrent_state'\]: expected a recurrent model"):
        SampleManager(plain, Counter, 1, 10, returns=["recurrent_state"], num_steps=5, **OPTIONS)
    with SampleManager(plain, Counter, 1, 10, num_steps=5, **OPTIONS) as manager:
        agent, state = manager.get_agent(), np.zeros((1, 1), np.float32)
        assert agent.act(state).shape == (1,)
        for call in (
            lambda: agent.act(state, recurrent_state=state),
            lambda: agent.initial_state(2),
            lambda: agent.recurrent_state({}),
        ):
            with pytest.raises(ModelError, match="expected a recurrent model, whose call takes recurrent_state"):
                call()
    with pytest.raises(ModelError, match=r"'recurrent_state': expected a model whose call takes it"):
        SampleManager(lambda observation: outputs_for(observation), Counter, 1, 10, num_steps=5, **OPTIONS)


def test_methods_without_a_state_or_with_another_one_say_so():
    with SampleManager(Trace, Counter, 2, 10, num_steps=5, **OPTIONS) as manager:
        agent = manager.get_agent()
    state = np.zeros((2, 1), np.float32)
    with pytest.raises(ModelError, match=r"agent.max_q: expected recurrent_state=, as the model is recurrent"):
        agent.max_q(state)
    with pytest.raises(ModelError, match=r"agent.act: 'recurrent_state': expected the same nest"):
        agent.act(state, recurrent_state=state)
    with pytest.raises(InvalidValueError, match=r"recurrent_state.sum.0: expected shape \[3\] or \[n, 3\]"):
        agent.act(state, recurrent_state={"sum": (np.zeros((2, 9)),), "count": [np.zeros(2)]})
    with pytest.raises(ModelError, match=r"a batch with the column 'recurrent_state.sum.0', which returns="):
        agent.recurrent_state({"state": state})
    with pytest.raises(ModelError, match=r"sum.0: expected a column \[n, 3\] or \[n, time, 3\], got \[2\]"):
        agent.recurrent_state({SUM: np.zeros(2), COUNT: np.zeros(2)})


def test_a_buffer_of_single_steps_is_told_once(caplog):
    with SampleManager(Trace, Counter, 2, 10, num_steps=5, returns=RETURNS, **OPTIONS) as manager:
        with caplog.at_level(logging.WARNING, logger="really"):
            for unit in (Sequences(2, agent="agent"), Episodes()):
                manager.initialize_buffer(100, ["state", "state_new", "terminal", "agent"], unit=unit)
            assert not caplog.records
            for _ in range(2):
                manager.initialize_buffer(100)
        assert [record.message for record in caplog.records if "Sequences(length, burn_in)" in record.message] != []
        assert len(caplog.records) == 1
