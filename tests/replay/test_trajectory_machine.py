"""Sequences and episodes against the slow reference, for any sequence of puts, removals, updates and copies."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from really import EmptyBufferError, InvalidValueError, ReplayBuffer
from tests.episodes import Reference, World, concatenated

UNITS = {
    "whole windows": {"length": 3},
    "padded": {"length": 3, "burn_in": 2, "pad": True},
    "joined": {"length": 4, "across_episodes": True},
    "from labels": {"length": 3, "starts_at": "label"},
}


class TrajectoryMachine(RuleBasedStateMachine):
    """`self.rows` are all rows ever put, by number; `self.removed` are numbers of rows that were removed."""

    @initialize(
        capacity=st.integers(1, 60),
        kind=st.sampled_from(list(UNITS)),
        seed=st.integers(0, 2**32),
        alpha=st.sampled_from([None, 0.5]),
    )
    def make(self, capacity, kind, seed, alpha):
        self.world = World(3, seed, end_probability=0.25, loss_probability=0.05)
        self.capacity, self.unit, self.alpha = capacity, UNITS[kind], alpha
        self.buffer = ReplayBuffer(capacity, unit=("sequences", self.unit), seed=seed, alpha=alpha)
        self.rows, self.removed, self.labels = None, set(), {}

    @rule(most=st.integers(1, 9))
    def put(self, most):
        chunk = self.world.any_chunk(most)
        num = len(chunk["agent"])
        before = 0 if self.rows is None else len(self.rows["agent"])
        chunk["label"] = self.world.draw.integers(0, 2, num)
        self.labels |= dict(enumerate(chunk["label"].tolist(), before))
        self.buffer.put(chunk)
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
        assert sorted(zip(*columns, strict=True)) == expected
        self.check_sequences(reference)

    def check_sequences(self, reference):
        joins = self.unit.get("across_episodes", False)
        length, burn_in = self.unit["length"], self.unit.get("burn_in", 0)
        starts = reference.starts(length, burn_in, self.unit.get("pad", False), joins)
        if "starts_at" in self.unit:
            starts = [start for start in starts if self.labels[start]]
        if not starts:
            with pytest.raises(EmptyBufferError):
                self.buffer.sample(3)
            return
        for numbers in self.buffer.sample(8)["number"]:
            assert numbers[0] in starts
            window = reference.window(numbers[0], burn_in + length, joins)
            assert numbers.tolist() == window + [-1] * (burn_in + length - len(window))


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
    run(examples=40, steps=15)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_against_the_reference_at_length():
    run(examples=5_000, steps=30)
