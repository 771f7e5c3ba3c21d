"""Checkpoints of buffers with each sampler and sample unit, some rows removed: the batches that come next come."""

from __future__ import annotations

import numpy as np
import pytest

from really import SampleManager
from really.errors import InvalidValueError
from really.replay import SAMPLERS, UNITS

CAPACITY = 60
KEYS = ("state", "state_new", "reward", "terminal", "truncated", "episode_end", "agent", "task")
GOALS = ("state.achieved_goal", "state.desired_goal", "state_new.achieved_goal", "state_new.desired_goal")
PARTS = {
    "uniform": {},
    "prioritized": {"alpha": 0.7},
    "newest": {"sampler": ("newest", {"num_rows": 20})},
    "half_life": {"sampler": ("half_life", {"half_life": 9})},
    "ere": {"sampler": ("ere", {"updates": 5, "least": 5, "eta": 0.99})},
    "staleness": {"sampler": ("staleness", {"half_life": 1, "column": "task"})},
    "stratified": {"sampler": ("stratified", {"column": "task"})},
    "n_step": {"n_step": 3, "gamma": 0.99},
    "sequences": {"unit": ("sequences", {"length": 3, "burn_in": 1, "pad": True})},
    "joined sequences": {"unit": ("sequences", {"length": 4, "across_episodes": True})},
    "prioritized sequences": {"unit": ("sequences", {"length": 3}), "alpha": 0.6},
    "newest sequences": {"unit": ("sequences", {"length": 3}), "sampler": ("newest", {"num_rows": 30})},
    "episodes": {"unit": ("episodes", {"length": 12})},
    "steps of episodes": {"unit": ("episodes", {"length": 12, "by": "steps"})},
    "hindsight": {"unit": ("hindsight", {"reward": "negative_distance_of_parts", "k": 2})},
}


def test_every_sampler_and_unit_is_among_the_cases():
    used = {options.get(what, ("", {}))[0] for options in PARTS.values() for what in ("sampler", "unit")}
    assert set(SAMPLERS) - used == {"uniform", "prioritized"}
    assert set(UNITS) - used == {"transition", "n_step"}


def model(state):
    return {"q_values": np.zeros((len(state), 2), np.float32)}


def manager_of(kind, path=None):
    keys = [*KEYS, *(GOALS if kind == "hindsight" else ())]
    manager = SampleManager(model, "CartPole-v1", 2, 10, use_ray=False, seed=3)
    options = {} if path is None else {"path": path, "spare": 200}
    manager.initialize_buffer(CAPACITY, keys, **PARTS[kind], **options)
    return manager


def put(manager, first, num):
    """Rows of one agent, whose episodes have 6 steps."""
    number = np.arange(first, first + num)
    states = np.repeat(number[:, None], 3, axis=1).astype(np.float32)
    ends = (number % 6 == 5).astype(np.float32)
    rows = {"state": states, "state_new": states + 1, "reward": number.astype(np.float32), "terminal": ends}
    rows |= {"truncated": np.zeros(num, np.float32), "episode_end": ends, "agent": np.zeros(num, np.int64)}
    rows |= {"task": number // 6 % 3} | {key: states + ("new" in key) for key in GOALS}
    manager.buffer.put({key: rows[key] for key in manager.buffer.keys})


def batches(manager, num=3):
    return [manager.sample(16) for _ in range(num)]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key, column in one.items():
            np.testing.assert_array_equal(column, other[key], err_msg=key)


@pytest.fixture
def goals(monkeypatch):
    from really.replay import GOAL_FUNCTIONS

    distance = lambda achieved, desired, info: -np.abs(achieved - desired).sum(axis=-1)  # noqa: E731
    monkeypatch.setitem(GOAL_FUNCTIONS, "negative_distance_of_parts", distance)


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("kind", PARTS)
def test_a_resumed_run_draws_the_batches_that_come_next(kind, place, tmp_path, goals):
    path = tmp_path / "buffer" if place == "disk" else None
    manager = manager_of(kind, path)
    for first in range(0, 84, 12):
        put(manager, first, 12)
    batches(manager)
    assert manager.buffer.remove(where=lambda rows: np.isin(rows["reward"], [40, 61, 62])) == 3
    batches(manager, 2)
    manager.save_checkpoint(tmp_path / "checkpoints")
    left, expected = manager.buffer.numbers(), batches(manager)
    put(manager, 84, 24)
    manager.buffer.remove(left[-20:-10])
    batches(manager, 1)
    resumed = manager if place == "disk" else manager_of(kind)
    resumed.load_checkpoint(tmp_path / "checkpoints")
    assert len(resumed.buffer) == len(left)
    assert_same(batches(resumed), expected)
    for each in (manager, resumed):
        each.close()


def test_another_sampler_or_unit_is_refused(tmp_path):
    with manager_of("sequences") as saved, manager_of("episodes") as other:
        put(saved, 0, 12)
        saved.save_checkpoint(tmp_path)
        with pytest.raises(InvalidValueError, match="unit"):
            other.load_checkpoint(tmp_path)
        assert len(other.buffer) == 0
