"""Priorities: weights, new rows, eviction, state, errors, and any sequence of calls against an oracle."""

import contextlib
import copy
import math
import os
import pickle
import re
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError
from really.replay._sum_tree import SumTree
from really.replay.priorities import Priorities
from tests.priority_checks import PlainPriorities


def filled(num=10, capacity=10, **more):
    priorities = Priorities(capacity, **{"seed": 0, **more})
    priorities.add(0, num)
    return priorities


def test_weights_are_exact():
    priorities = filled(100, 100, alpha=0.7, eps=0.01)
    given = np.random.default_rng(0).gamma(0.5, size=100)
    priorities.update(np.arange(100), given)
    probability = (given + 0.01) ** 0.7 / ((given + 0.01) ** 0.7).sum()
    for beta in (0.0, 0.4, 1.0):
        numbers, weights = priorities.sample((5, 40), beta)
        expected = (100 * probability) ** -beta
        assert (numbers.dtype, weights.dtype, numbers.shape, weights.shape) == (np.int64, np.float32, (5, 40), (5, 40))
        np.testing.assert_allclose(weights, (expected / expected.max())[numbers], rtol=1.2e-7)


def test_the_largest_weight_is_of_the_rows_that_can_be_drawn():
    priorities = filled(4, 4, alpha=1.0, eps=0.0)
    priorities.update([0, 1, 2, 3], [1.0, 2.0, 4.0, 0.5])
    assert dict(zip(*priorities.sample(100, 1.0), strict=True)) == {0: 0.5, 1: 0.25, 2: 0.125, 3: 1.0}
    assert dict(zip(*priorities.sample(100, 1.0, newest=3), strict=True)) == {0: 1.0, 1: 0.5, 2: 0.25}
    assert dict(zip(*priorities.sample(100, 1.0, oldest=1, newest=3), strict=True)) == {1: 1.0, 2: 0.5}
    assert dict(zip(*priorities.sample(100, 1.0), strict=True)) == {1: 0.25, 2: 0.125, 3: 1.0}


def test_new_rows_get_the_largest_priority_ever_given():
    priorities = filled(2, 4, alpha=1.0, eps=0.0)
    priorities.update([0, 1], [7.0, 3.0])
    priorities.update([0], [2.0])
    priorities.add(2, 1)
    assert priorities.state_dict()["values"].tolist() == [2.0, 3.0, 7.0]
    priorities.clear()
    priorities.add(3, 2)
    assert priorities.state_dict()["values"].tolist() == [1.0, 1.0]
    assert (priorities.oldest, priorities.newest, len(priorities)) == (3, 5, 2)


def test_of_clashing_rows_the_last_holds_as_one_after_the_other():
    draw = np.random.default_rng(0)
    batched, sequential = filled(50, 50), filled(50, 50)
    rows, given = draw.integers(0, 50, 500), draw.random(500)
    batched.update(rows, given)
    for row, priority in zip(rows, given, strict=True):
        sequential.update([row], [priority])
    assert batched.state_dict()["values"].tobytes() == sequential.state_dict()["values"].tobytes()
    assert batched._tree.total == sequential._tree.total


def test_late_updates_are_ignored():
    priorities = filled(15, 10, alpha=1.0, eps=0.0)
    assert priorities.update([4, 5, 0], [9.0, 3.0, 9.0]) == 1
    assert priorities.state_dict()["values"].tolist() == [3.0] + [1.0] * 9
    assert priorities.update([5, 6, 7], [1.0, 1.0, 4.0], oldest=7) == 1
    priorities.clear()
    assert priorities.update([14], [1.0]) == 0


def test_rows_may_be_added_in_any_order():
    priorities = Priorities(10, alpha=1.0, eps=0.0, seed=0)
    priorities.add(5, 4)
    assert set(priorities.sample(100)[0].tolist()) == {5, 6, 7, 8}
    priorities.add(0, 5)
    assert set(priorities.sample(100)[0].tolist()) == set(range(9))
    priorities.add(25, 2)
    assert set(priorities.sample(100)[0].tolist()) == {25, 26}
    priorities.add(9, 16)
    assert set(priorities.sample(100)[0].tolist()) == set(range(17, 27))


def test_all_zero_is_uniform():
    priorities = filled(14, 10, eps=0.0)
    priorities.update(np.arange(4, 14), np.zeros(10))
    numbers, weights = priorities.sample(5000)
    assert set(numbers.tolist()) == set(range(4, 14))
    assert (weights == 1.0).all()


def test_alpha_zero_is_uniform():
    priorities = filled(8, 8, alpha=0.0, eps=0.0)
    priorities.update(np.arange(8), np.arange(8))
    numbers, weights = priorities.sample(80)
    assert np.bincount(numbers).tolist() == [10] * 8
    assert (weights == 1.0).all()


def test_seeds():
    one, same, other = (filled(1000, 1000, seed=seed).sample(50)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(*(filled(1000, 1000, seed=None).sample(50)[0] for _ in range(2)))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_state_comes_back_bit_for_bit(again):
    priorities = filled(130, 100, alpha=0.9)
    priorities.update(np.arange(30, 130), np.random.default_rng(0).random(100))
    priorities.sample(3)
    other = again(priorities)
    assert other.state_dict()["values"].tobytes() == priorities.state_dict()["values"].tobytes()
    assert np.array_equal(other.sample(64), priorities.sample(64))
    smaller = Priorities(40, alpha=0.9)
    smaller.load_state_dict(priorities.state_dict())
    assert smaller.state_dict()["values"].tobytes() == priorities.state_dict()["values"][-40:].tobytes()
    assert (smaller.oldest, smaller.newest) == (90, 130)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.1}, "state: expected (alpha, eps) (0.6, 1e-06), got (0.1, 1e-06)"),
        (
            {"values": [1.0, -1.0]},
            "state: expected what a Priorities' state_dict gave, got values of shape [2] before",
        ),
        ({"values": [math.nan]}, "got values of shape [1] before row 10"),
        ({"values": np.ones(11)}, "got values of shape [11] before row 10"),
        ({"values": "text"}, "got one of which ValueError"),
        ({"generator": {}}, "state['generator']: "),
    ],
)
def test_refused_states(change, message):
    priorities = filled()
    before = str(priorities.state_dict())
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        priorities.load_state_dict({**priorities.state_dict(), **change})
    assert str(priorities.state_dict()) == before


@pytest.mark.parametrize(
    ("rows", "given", "error", "message"),
    [
        ([1, 2], [1.0, -0.5], InvalidValueError, "priorities: expected finite numbers >= 0, got -0.5 at 1"),
        ([1, 2], [math.nan, 1], InvalidValueError, "priorities: expected finite numbers >= 0, got nan at 0"),
        ([1, 2], [1, math.inf], InvalidValueError, "priorities: expected finite numbers >= 0, got inf at 1"),
        ([1, 2], [1.0], InvalidValueError, "priorities: expected shape [2] as row_numbers has, got [1]"),
        ([1, 2], [[1.0], [2.0]], InvalidValueError, "priorities: expected shape [2] as row_numbers has, got [2, 1]"),
        ([1, 2], 1.0, InvalidValueError, "priorities: expected shape [2] as row_numbers has, got []"),
        ([1, 2], ["a", "b"], InvalidTypeError, "priorities: expected real numbers, got <U1"),
        ([1, 2], [1j, 1j], InvalidTypeError, "priorities: expected real numbers, got complex128"),
        ([1, 2], None, InvalidTypeError, "priorities: expected real numbers, got object"),
        ([1, 2], [[1.0], [1.0, 2.0]], InvalidValueError, "priorities: expected an array [n] or [k, n] of numbers"),
        ([1.0, 2.0], [1, 1], InvalidTypeError, "row_numbers: expected integers [n] or [k, n], got float64"),
        (
            [1, 10],
            [1, 1],
            InvalidValueError,
            "row_numbers: expected rows that have been put, from 0 to 9, got 10 at 1",
        ),
        (
            [-1, 2],
            [1, 1],
            InvalidValueError,
            "row_numbers: expected rows that have been put, from 0 to 9, got -1 at 0",
        ),
        (np.array([2**64 - 1], np.uint64), [1], InvalidValueError, "row_numbers: expected rows that have been put"),
    ],
)
def test_refused_updates_change_nothing(rows, given, error, message):
    priorities = filled()
    before = str(priorities.state_dict())
    with pytest.raises(error, match=re.escape(message)):
        priorities.update(rows, given)
    assert str(priorities.state_dict()) == before


def test_too_large_a_priority():
    with pytest.raises(InvalidValueError, match=re.escape("(priority + eps)**alpha up to 2**960, got 1e+300 at 0")):
        filled(alpha=1.0).update([0], [1e300])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Priorities(0), InvalidValueError, "capacity: expected an integer from 1"),
        (lambda: Priorities(1, alpha=-1), InvalidValueError, "alpha: expected a finite number >= 0, got -1"),
        (lambda: Priorities(1, eps=math.nan), InvalidValueError, "eps: expected a finite number >= 0, got nan"),
        (lambda: Priorities(1, alpha="x"), InvalidTypeError, "alpha: expected a finite number >= 0, got 'x'"),
        (lambda: Priorities(1, seed=-1), InvalidValueError, "seed: expected"),
        (lambda: Priorities(1).sample(1), EmptyBufferError, "sample: expected rows from 0 to before 0"),
        (lambda: filled().sample(0), InvalidValueError, "n: expected an integer from 1"),
        (lambda: filled().sample(1, -0.1), InvalidValueError, "beta: expected a number from 0 to 1, got -0.1"),
        (lambda: filled().sample(1, 1.5), InvalidValueError, "beta: expected a number from 0 to 1, got 1.5"),
        (lambda: filled().sample(1, newest=0), EmptyBufferError, "sample: expected rows from 0 to before 0, held are"),
        (lambda: filled().add(-1, 1), InvalidValueError, "first_number: expected an integer from 0"),
        (lambda: filled().add(0, 1.5), InvalidTypeError, "num_rows: expected an integer >= 0, got 1.5"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8", "uint8", "int64"])
def test_priorities_of_any_real_dtype_and_layout(dtype):
    priorities, given = filled(alpha=1.0, eps=0.0), np.arange(20, dtype=dtype)[::2]
    given.flags.writeable = False
    priorities.update(np.arange(10, dtype=np.int32), given)
    assert priorities.state_dict()["values"].tolist() == list(range(0, 20, 2))
    assert priorities.update([], []) == 0


def test_a_fork_goes_on_with_a_copy_of_its_own():
    priorities = filled()
    expected = copy.deepcopy(priorities).sample(5)[0].tolist()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, bytes(priorities.sample(5)[0].tolist()))
        os._exit(0)
    os.waitpid(child, 0)
    assert list(os.read(reading, 5)) == priorities.sample(5)[0].tolist() == expected


def test_threads():
    """Sums stay those of the values however many threads add, sample and update at once."""
    priorities, errors = filled(1, 5000), []

    def work(seed):
        draw = np.random.default_rng(seed)
        try:
            for at in range(60):
                first = (at * 4 + seed) * 300
                priorities.add(first, 300)
                # A thread that is long away may find all rows before this number gone.
                with contextlib.suppress(EmptyBufferError):
                    numbers, _ = priorities.sample(3000, newest=priorities.newest - 2)
                    priorities.update(numbers, draw.random(3000))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    fresh = SumTree(5000, 1.0, 0.0, np.random.SFC64(0))
    priorities._tree.sample(1, 0, 0.4, 0, 1 << 62)
    fresh.load(priorities.newest, priorities.state_dict()["values"], 1.0)
    assert (fresh.total, fresh.least) == (priorities._tree.total, priorities._tree.least)


class PrioritiesMachine(RuleBasedStateMachine):
    """Whole numbers with alpha 1, whose sums are exact: draws have to be the oracle's, row for row."""

    @initialize(capacity=st.integers(1, 80), seed=st.integers(0, 2**32))
    def make(self, capacity, seed):
        self.ours = Priorities(capacity, alpha=1.0, eps=0.0, seed=seed)
        self.oracle = PlainPriorities(capacity, alpha=1.0, eps=0.0, seed=seed)
        self.capacity = capacity

    @rule(num=st.integers(0, 200), skipped=st.sampled_from([0, 0, 0, 1, 30]))
    def add(self, num, skipped):
        if num:
            first = self.oracle.newest + skipped
            for each in (self.ours, self.oracle):
                each.add(first, num)

    @rule(data=st.data(), num=st.integers(0, 100), zeros=st.booleans())
    def update(self, data, num, zeros):
        if self.oracle.newest:
            draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
            rows = draw.integers(max(0, self.oracle.oldest - 10), self.oracle.newest, num)
            given = draw.integers(0, 2 if zeros else 1000, num)
            assert self.ours.update(rows, given) == self.oracle.update(rows, given)

    @rule(n=st.integers(1, 100), beta=st.sampled_from([0.0, 0.4, 1.0]), spare=st.integers(0, 3), gone=st.integers(0, 3))
    def sample(self, n, beta, spare, gone):
        oldest, newest = self.oracle.oldest + gone, max(self.oracle.newest - spare, 0)
        numbers, values = self.oracle.rows(oldest, newest)
        if len(numbers) == 0:
            with pytest.raises(EmptyBufferError):
                self.ours.sample(n, beta, oldest=oldest, newest=newest)
        elif values.sum() == 0.0:
            assert np.isin(self.ours.sample(n, beta, oldest=oldest, newest=newest)[0], numbers).all()
            self.oracle.draw.bit_generator.state = self.ours.state_dict()["generator"]
        else:
            got = self.ours.sample(n, beta, oldest=oldest, newest=newest)
            expected = self.oracle.sample(n, beta, oldest=oldest, newest=newest)
            assert np.array_equal(got[0], expected[0])
            np.testing.assert_allclose(got[1], expected[1], rtol=1.2e-7)

    @rule()
    def clear(self):
        self.ours.clear()
        self.oracle.clear()

    @rule()
    def pickle(self):
        self.ours = pickle.loads(pickle.dumps(self.ours))

    @invariant()
    def as_the_oracle(self):
        if hasattr(self, "ours"):
            state, oracle = self.ours.state_dict(), self.oracle
            assert (self.ours.oldest, self.ours.newest) == (oracle.oldest, oracle.newest)
            assert state["values"].tolist() == [
                oracle.values.get(at, 0.0) for at in range(oracle.oldest, oracle.newest)
            ]
            assert self.ours._tree.total == state["values"].sum()
            assert self.ours._tree.least == min((value for value in state["values"] if value > 0.0), default=0.0)


def test_against_the_oracle():
    chosen = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
    run_state_machine_as_test(PrioritiesMachine, settings=settings(max_examples=200, stateful_step_count=15, **chosen))
