"""Sequences and episodes against the slow reference, for any sequence of puts, removals, updates and copies."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from really import EmptyBufferError, InvalidValueError, ReplayBuffer
from really.replay import stacked
from tests.episodes import Reference, World, concatenated


class TrajectoryMachine(RuleBasedStateMachine):
    """`self.rows` are all rows ever put, by number; `self.removed` are numbers of rows that were removed."""

    @initialize(
        capacity=st.integers(1, 60),
        unit=st.fixed_dictionaries(
            {
                "length": st.integers(1, 4),
                "burn_in": st.sampled_from([0, 2, 3]),
                "pad": st.booleans(),
                "across_episodes": st.booleans(),
                "compact": st.booleans(),
                "starts_at": st.sampled_from([None, "label"]),
            }
        ),
        seed=st.integers(0, 2**32),
        alpha=st.sampled_from([None, 0.5]),
    )
    def make(self, capacity, unit, seed, alpha):
        self.world = World(3, seed, end_probability=0.25, loss_probability=0.05)
        self.capacity, self.unit, self.alpha = capacity, unit, alpha
        self.buffer = ReplayBuffer(capacity, unit=("sequences", unit), seed=seed, alpha=alpha)
        self.rows, self.removed, self.labels = None, set(), {}

    @rule(most=st.integers(1, 9))
    def put(self, most):
        chunk = self.world.any_chunk(most)
        num = len(chunk["agent"])
        before = 0 if self.rows is None else len(self.rows["agent"])
        chunk["label"] = self.world.draw.integers(0, 2, num)
        self.labels |= dict(enumerate(chunk["label"].tolist(), before))
        self.buffer.put(chunk | {"stack": stacks_of(np.arange(before, before + num))})
        self.rows = chunk if self.rows is None else concatenated([self.rows, chunk])

    @precondition(lambda self: self.rows is not None)
    @rule(data=st.data())
    def remove(self, data):
        numbers = data.draw(st.lists(st.integers(0, self.reference.num - 1), max_size=8))
        assert self.buffer.remove(numbers) == len(set(numbers) & set(self.reference.held))
        self.removed |= {number for number in numbers if number >= self.reference.oldest}

    @precondition(lambda self: self.rows is not None and len(self.reference.episodes()))
    @rule(data=st.data())
    def remove_an_episode(self, data):
        episode = data.draw(st.sampled_from(self.reference.episodes()))
        assert self.buffer.remove(episodes=[data.draw(st.sampled_from(episode))]) == len(episode)
        self.removed |= set(episode)

    @precondition(lambda self: self.rows is not None)
    @rule(data=st.data(), value=st.integers(0, 2))
    def update_labels(self, data, value):
        numbers = data.draw(st.lists(st.integers(0, self.reference.num - 1), max_size=8, unique=True))
        held = set(numbers) & set(self.reference.held)
        assert self.buffer.update(numbers, {"label": np.full(len(numbers), value)}) == len(held)
        self.labels |= dict.fromkeys(held, value)

    @precondition(lambda self: self.rows is not None and self.reference.held)
    @rule(data=st.data())
    def update_where_an_episode_ends(self, data):
        number = data.draw(st.sampled_from(self.reference.held))
        self.rows["not_done"][number] = 1 - self.rows["not_done"][number]
        self.rows["terminal"][number] = 1 - self.rows["not_done"][number]
        columns = {key: self.rows[key][[number]] for key in ("not_done", "terminal")}
        assert self.buffer.update([number], columns) == 1

    @precondition(lambda self: self.rows is not None)
    @rule(wrong=st.sampled_from(["a number", "a key", "a shape"]))
    def refused(self, wrong):
        change, arguments = {
            "a number": (self.buffer.remove, ([0, self.reference.num],)),
            "a key": (self.buffer.update, ([0], {"rewards": [1.0]})),
            "a shape": (self.buffer.update, ([0], {"label": [[1]]})),
        }[wrong]
        with pytest.raises(InvalidValueError):
            change(*arguments)

    @rule()
    def pickle(self):
        self.buffer = pickle.loads(pickle.dumps(self.buffer))

    @property
    def reference(self):
        return Reference(self.rows, self.capacity, self.removed)

    @invariant()
    def as_the_reference(self):
        if getattr(self, "rows", None) is None:
            return
        reference = self.reference
        assert self.buffer.numbers().tolist() == reference.held if reference.held else len(self.buffer) == 0
        if not reference.held:
            return
        labels = [self.labels[number] for number in reference.held]
        assert self.buffer.to_arrow(["label"]).read_all()["label"].to_pylist() == labels
        columns = (self.buffer.episodes()[name].to_pylist() for name in ("first", "length", "whole"))
        expected = [(episode[0], len(episode), reference.is_whole(episode)) for episode in reference.episodes()]
        assert list(zip(*columns, strict=True)) == expected
        self.check_sequences(reference)

    def check_sequences(self, reference):
        length, burn_in, pad, joins = (self.unit[key] for key in ("length", "burn_in", "pad", "across_episodes"))
        starts = reference.starts(length, burn_in, pad, joins)
        if self.unit["starts_at"] is not None:
            starts = [start for start in starts if self.labels[start]]
        if not starts:
            with pytest.raises(EmptyBufferError):
                self.buffer.sample(3)
            return
        batch = self.buffer.sample(8) if self.alpha else self.buffer.sample(len(starts), replace=False)
        found = batch["number"][:, 0].tolist()
        assert set(found) <= set(starts) if self.alpha else sorted(found) == starts
        for numbers, mask, stacks in zip(batch["number"], batch["mask"], stacked(batch)["stack"], strict=True):
            window = reference.window(numbers[0], burn_in + length, joins)
            num = len(window)
            assert numbers.tolist() == window + [-1] * (burn_in + length - num)
            assert mask.tolist() == reference.mask(window, burn_in) + [0] * (burn_in + length - num)
            assert np.array_equal(stacks[:num], stacks_of(numbers[:num]))
            assert not stacks[num:].any()


def stacks_of(numbers):
    """For each row a stack of four frames [row, 4, 16, 16], of which it has three in common with the row before."""
    frames = numbers[:, None] + np.arange(4)
    return np.broadcast_to(frames[..., None, None], (*frames.shape, 16, 16)).astype(np.uint8)


def run(examples, steps):
    class Counted(TrajectoryMachine):
        made = 0

        def teardown(self):
            Counted.made += getattr(self, "rows", None) is not None

    run_machine(
        Counted,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Counted.made > examples / 2


def test_against_the_reference():
    run(examples=100, steps=15)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_against_the_reference_at_length():
    run(examples=5_000, steps=30)
