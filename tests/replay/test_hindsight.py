"""Hindsight: goals come from the row's own episode by the strategy. The check is seen to fail on typical defects."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from scipy import stats

from really import InvalidTypeError, InvalidValueError, ReplayBuffer
from really.replay import GOAL_FUNCTIONS, Hindsight
from tests import sampling_checks as checks

LENGTHS = (1, 5, 3, 8)
NO_GOAL = -7.0


def is_there(achieved, desired, info):
    return (achieved == desired).all(axis=-1).astype(np.float32) - 1


def reached(achieved, desired, info):
    return (achieved == desired).all(axis=-1)


def episodes(lengths=LENGTHS, agents=2, end=None):
    """Rows of two agents in turn; each achieves a goal that names the row, [2 * its place, its agent]."""
    rows = []
    for episode, length in enumerate(lengths):
        for step in range(length):
            for agent in range(agents):
                place = 100 * episode + step
                ends = step == length - 1
                rows.append((place, agent, float(ends and episode % 2), float(ends and not episode % 2)))
    place, agent, terminal, truncated = (np.array(column) for column in zip(*rows, strict=True))

    def goal(place):
        return np.stack([2.0 * place, agent], axis=1).astype(np.float32)

    return {
        "place": place,
        "agent": agent,
        "reward": np.full(len(rows), -3, np.float32),
        "terminal": terminal.astype(np.float32),
        "truncated": truncated.astype(np.float32),
        "not_done": (1 - np.maximum(terminal, truncated)).astype(np.float32),
        "state.achieved_goal": goal(place),
        "state_new.achieved_goal": goal(place + 1),
        "state.desired_goal": np.full((len(rows), 2), NO_GOAL, np.float32),
        "state_new.desired_goal": np.full((len(rows), 2), NO_GOAL, np.float32),
    }


def buffer_of(rows=None, unit=None, capacity=200, seed=0, **options):
    buffer = ReplayBuffer(capacity, unit=Hindsight(is_there) if unit is None else unit, seed=seed, **options)
    for start in range(0, len((rows or episodes())["place"]), 7):  # chunks cut episodes anywhere
        buffer.put({key: column[start : start + 7] for key, column in (rows or episodes()).items()})
    return buffer


def steps_of(batch):
    """(episode, step, agent, step of the goal) of each relabelled row."""
    place = batch["place"][batch["relabelled"]]
    goal = batch["state.desired_goal"][batch["relabelled"]]
    assert (goal[:, 1] == batch["agent"][batch["relabelled"]]).all()
    goal_place = goal[:, 0].astype(int) // 2 - 1
    assert (goal_place // 100 == place // 100).all()
    return place // 100, place % 100, goal_place % 100


def check_goals(strategy, episode, step, goal):
    """Each (row, goal) of the strategy comes as often as it should, and no other."""
    choices = {
        (at, row): {"future": range(row, length), "episode": range(length), "final": [length - 1]}[strategy]
        for at, length in enumerate(LENGTHS)
        for row in range(length)
    }
    expected = {(*row, to): 1 / len(goals) / len(choices) for row, goals in choices.items() for to in goals}
    observed = dict.fromkeys(expected, 0)
    for cell in zip(episode.tolist(), step.tolist(), goal.tolist(), strict=True):
        assert cell in observed, f"not a goal of the strategy: {cell}"
        observed[cell] += 1
    counts = np.array(list(observed.values()))
    p = stats.chisquare(counts, np.array(list(expected.values())) * counts.sum()).pvalue
    assert p >= checks.LEAST_P, f"goals are not drawn as the strategy says: p = {p:.2g}"


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_goals_are_drawn_by_the_strategy(strategy):
    batch = buffer_of(unit=Hindsight(is_there, strategy=strategy)).sample(60_000)
    check_goals(strategy, *steps_of(batch))


@pytest.mark.parametrize("defect", ["excludes its own step", "favours the end", "from any step", "forgets the last"])
def test_the_check_fails_typical_defects(defect):
    draw = np.random.default_rng(0)
    rows = np.array([(at, row) for at, length in enumerate(LENGTHS) for row in range(length)])
    episode, step = rows[draw.integers(0, len(rows), 60_000)].T
    last = np.array(LENGTHS)[episode] - 1
    part = draw.random(len(step))
    goal = {
        "excludes its own step": np.minimum(step + 1 + (part * (last - step)).astype(int), last),
        "favours the end": np.minimum(step + (part * (last - step + 1.5)).astype(int), last),
        "from any step": (part * (last + 1)).astype(int),
        "forgets the last": step + (part * np.maximum(last - step, 1)).astype(int),
    }[defect]
    with pytest.raises(AssertionError, match=r"goals are not drawn|not a goal of the strategy"):
        check_goals("future", episode, step, goal)


@pytest.mark.parametrize("k", [0.25, 1, 4])
def test_k_in_k_and_1_are_relabelled_each_by_itself(k):
    relabelled = buffer_of(unit=Hindsight(is_there, k=k)).sample((2000, 8))["relabelled"]
    observed = np.bincount(relabelled.sum(axis=1), minlength=9)
    expected = stats.binom.pmf(np.arange(9), 8, k / (k + 1)) * 2000
    few = expected < 5
    cells = [np.append(each[~few], each[few].sum() + 1e-9) for each in (observed.astype(float), expected)]
    assert stats.chisquare(*cells, sum_check=False).pvalue >= checks.LEAST_P


def test_rewards_and_ends_are_those_of_the_new_goals():
    unit = Hindsight(is_there, terminated=reached)
    batch, plain = buffer_of(unit=unit).sample(4000), buffer_of(unit=Hindsight(is_there)).sample(4000)
    for found in (batch, plain):
        changed, there = found["relabelled"], reached(found["state_new.achieved_goal"], found["state.desired_goal"], {})
        assert np.array_equal(found["state.desired_goal"], found["state_new.desired_goal"])
        assert (found["reward"][~changed] == -3).all()
        assert (found["state.desired_goal"][~changed] == NO_GOAL).all()
        assert np.array_equal(found["reward"][changed], there[changed] - 1.0)
        assert 0.1 < there[changed].mean() < 0.9
    changed, there = batch["relabelled"], reached(batch["state_new.achieved_goal"], batch["state.desired_goal"], {})
    assert np.array_equal(batch["terminal"][changed], there[changed])
    assert np.array_equal(batch["not_done"][changed] == 0, (there | (batch["truncated"] != 0))[changed])
    assert np.array_equal(plain["not_done"], 1 - np.maximum(plain["terminal"], plain["truncated"]))


@pytest.mark.parametrize("left_out", [(), ("terminal",), ("truncated",), ("not_done",), ("truncated", "not_done")])
def test_truncated_rows_stay_so_whichever_columns_say_where_episodes_end(left_out):
    rows = {key: column for key, column in episodes().items() if key not in left_out}
    rows["was_truncated"] = episodes()["truncated"]
    batch = buffer_of(rows, Hindsight(is_there, terminated=reached, strategy="episode")).sample(2000)
    there = reached(batch["state_new.achieved_goal"], batch["state.desired_goal"], {})
    changed, cut = batch["relabelled"], batch["was_truncated"] != 0
    assert (changed & cut & ~there).any()
    if "not_done" in rows:
        assert np.array_equal(batch["not_done"][changed] == 0, (there | cut)[changed])
    if "terminal" in rows:
        assert np.array_equal(batch["terminal"][changed], there[changed])


def test_functions_get_columns_of_info_and_all_goals_at_once():
    seen = []

    def reward(achieved, desired, info):
        seen.append((achieved.shape, desired.shape, info["place"].copy()))
        return info["place"] * 1.0

    batch = buffer_of(unit=Hindsight(reward, info=["place"])).sample((3, 20))
    (achieved, desired, place) = seen[0]
    assert len(seen) == 1
    assert achieved == desired == (batch["relabelled"].sum(), 2)
    assert np.array_equal(place, batch["place"][batch["relabelled"]])
    assert np.array_equal(batch["reward"][batch["relabelled"]], place)


def test_goals_that_share_frames_are_those_of_whole_rows():
    wide = {key: np.repeat(column, 300, axis=1) if column.ndim == 2 else column for key, column in episodes().items()}
    shared, whole = (buffer_of(wide, dedup=dedup) for dedup in (True, False))
    batch, expected = shared.sample(300), whole.sample(300)
    assert shared.memory()["ratio"] > 1.1 > whole.memory()["ratio"]
    assert list(batch) == list(expected)
    assert all(np.array_equal(batch[key], expected[key]) for key in expected)


def test_rows_that_drop_out_are_no_goals():
    rows = episodes((30,), agents=1)
    buffer = buffer_of(rows, Hindsight(is_there, strategy="episode"), capacity=10)
    assert set(steps_of(buffer.sample(2000))[2]) == set(range(20, 30))
    buffer = buffer_of({key: column[:12] for key, column in rows.items()}, Hindsight(is_there, strategy="final"))
    assert set(steps_of(buffer.sample(500))[2]) == {11}


def test_priorities_go_with_it():
    buffer = buffer_of(alpha=1.0, eps=0.0)
    batch = buffer.sample(64)
    assert buffer.update_priorities(batch["index"], (batch["place"] == 303) * 1.0) == 64
    buffer.update_priorities(np.arange(len(buffer)), 1.0 * (buffer.take(np.arange(len(buffer)))["place"] == 303))
    batch = buffer.sample(500)
    assert set(batch["place"]) == {303}
    assert set(steps_of(batch)[2]) == set(range(3, 8))
    assert list(batch)[-3:] == ["relabelled", "index", "weight"]


@pytest.mark.parametrize("how", ["pickle", "save", "folder"])
def test_what_is_made_again_relabels_alike(how, tmp_path):
    buffer = buffer_of(unit=Hindsight(is_there, 2), **({"path": tmp_path / "folder"} if how == "folder" else {}))
    buffer.sample(10)
    expected = pickle.loads(pickle.dumps(buffer)).sample(50)
    if how == "pickle":
        again = pickle.loads(pickle.dumps(buffer))
    elif how == "save":
        buffer.save(tmp_path / "saved")
        again = ReplayBuffer.load(tmp_path / "saved")
    else:
        buffer.close()
        again = ReplayBuffer.open(tmp_path / "folder", "r+")
    assert again.options.unit == buffer.options.unit
    found = again.sample(50)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_batches_and_datasets_are_those_of_sample():
    expected = [buffer.sample(8)["state.desired_goal"].tolist() for buffer in [buffer_of()] for _ in range(4)]
    with buffer_of().batches(8) as batches:
        assert [batch["state.desired_goal"].tolist() for batch in itertools.islice(batches, 4)] == expected
    with buffer_of().batches(8, as_="tf") as batches:
        assert [batch["state.desired_goal"].numpy().tolist() for batch in itertools.islice(batches, 4)] == expected
    found = buffer_of().dataset(8, batches_per_call=1).take(4)
    assert [batch["state.desired_goal"].numpy().tolist() for batch in found] == expected
    (batch,) = buffer_of().epochs(200)
    assert batch["relabelled"].any()


def without(*names):
    return {key: column for key, column in episodes().items() if key not in names}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Hindsight(is_there, strategy="furture"),
            InvalidValueError,
            "strategy: expected one of .*Did you mean",
        ),
        (lambda: Hindsight(is_there, k=0), InvalidValueError, "k: expected a number above 0, got 0"),
        (lambda: Hindsight(is_there, k=-1), InvalidValueError, "k: expected a number from 0"),
        (lambda: Hindsight("nobody"), InvalidValueError, "reward: GOAL_FUNCTIONS: expected one of .* got 'nobody'"),
        (lambda: Hindsight(3), InvalidTypeError, "reward: expected a function or a name of GOAL_FUNCTIONS, got 3"),
        (lambda: Hindsight(is_there, info="place"), InvalidTypeError, "info: expected names of columns"),
        (
            lambda: buffer_of(n_step=3, gamma=0.9),
            InvalidValueError,
            "unit: expected none with n_step=3",
        ),
        (
            lambda: buffer_of(without("state.desired_goal")),
            InvalidValueError,
            r"hindsight: expected the keys \['state.desired_goal'\], got",
        ),
        (
            lambda: buffer_of(episodes() | {"state.desired_goal": np.zeros((34, 3), np.float32)}),
            InvalidValueError,
            "hindsight: expected goals of one dtype and shape",
        ),
        (
            lambda: buffer_of(without("terminal", "truncated", "not_done")),
            InvalidValueError,
            "hindsight: expected one of the keys .* which tell where episodes end",
        ),
        (
            lambda: buffer_of(without("terminal", "not_done"), Hindsight(is_there, terminated=reached)),
            InvalidValueError,
            "which `terminated` changes",
        ),
        (
            lambda: buffer_of(unit=Hindsight(is_there, info=["speed"])),
            InvalidValueError,
            r"hindsight: expected the keys \['speed'\]",
        ),
        (
            lambda: buffer_of(episodes() | {"relabelled": np.zeros(34)}),
            InvalidValueError,
            "hindsight: expected no key 'relabelled'",
        ),
    ],
)
def test_what_cannot_be_used(make, error, message):
    with pytest.raises(error, match=message):
        make()


def one_goal_at_a_time(achieved, desired, info):
    return float(np.linalg.norm(achieved - desired))


def test_a_reward_function_of_another_shape_is_named_and_changes_nothing():
    buffer = buffer_of(unit=Hindsight(one_goal_at_a_time))
    with pytest.raises(InvalidValueError, match=r"to give numbers of shape \[\d+\] for .* of shape \[\]; it gets all"):
        buffer.sample(50)
    assert (buffer.take(np.arange(0))["reward"] == -3).all()


def halves(achieved, desired, info):
    return -np.abs(achieved - desired).max(axis=-1).astype(np.float64) / 4


def large(achieved, desired, info):
    return np.full(len(achieved), 10**5)


@pytest.mark.parametrize(
    ("reward", "dtype"),
    [(is_there, np.int8), (halves, np.float32), (halves, np.float16), (large, np.int64), (large, np.float32)],
)
def test_rewards_of_another_dtype_are_those_of_the_function(reward, dtype):
    batch = buffer_of(episodes() | {"reward": np.zeros(34, dtype)}, Hindsight(reward)).sample(500)
    rewards = reward(batch["state_new.achieved_goal"], batch["state.desired_goal"], {})
    assert batch["reward"].dtype == dtype
    assert np.array_equal(batch["reward"], np.where(batch["relabelled"], rewards, 0))


@pytest.mark.parametrize(
    ("reward", "dtype", "told"),
    [
        (halves, np.int64, r"fit int64, got float64 -\d\.5"),
        (is_there, np.uint8, "fit uint8, got float32 -1.0"),
        (halves, np.bool_, r"fit bool, got float64 -\d"),
        (large, np.float16, "fit float16, got int64 100000"),
        (large, np.uint8, "fit uint8, got int64 100000"),
    ],
)
def test_rewards_that_do_not_fit_the_column_are_refused(reward, dtype, told):
    buffer = buffer_of(episodes() | {"reward": np.zeros(34, dtype)}, Hindsight(reward))
    with pytest.raises(
        InvalidValueError, match=rf"key 'reward': expected reward='.*{reward.__name__}' to give .*{told}"
    ):
        buffer.sample(500)


def test_two_functions_of_one_name_are_refused():
    def made(scale):
        return lambda achieved, desired, info: scale * is_there(achieved, desired, info)

    Hindsight(made(1))
    with pytest.raises(InvalidValueError, match=r"reward: expected one function of the name .* got another; register"):
        Hindsight(made(2))
    GOAL_FUNCTIONS["tests.double"] = made(2)
    assert set(buffer_of(unit=Hindsight("tests.double")).sample(100)["reward"]) == {-3, -2, 0}
