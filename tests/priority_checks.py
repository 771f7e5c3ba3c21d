"""Checks of prioritized sampling, an oracle in plain Python that passes them, and broken samplers that fail them.

A sampler has `add`, `update` and `sample` like Priorities. The checks raise AssertionError.
"""

import numpy as np
from scipy import stats

from tests.sampling_checks import LEAST_P


class PlainPriorities:
    """The oracle: (priority + eps)**alpha of the newest `capacity` rows by number, searched by running sums."""

    def __init__(self, capacity, alpha=0.6, eps=1e-6, seed=0):
        self.capacity, self.alpha, self.eps = capacity, alpha, eps
        self.draw = np.random.Generator(np.random.SFC64(seed))
        self.values, self.oldest, self.newest = {}, 0, 0
        self.highest = self.value(1.0)

    def value(self, priority):
        return (float(priority) + self.eps) ** self.alpha

    def add(self, first, num):
        for number in range(first, first + num):
            self.newest = max(self.newest, number + 1)
            self.drop_before(self.newest - self.capacity)
            if number >= self.oldest:
                self.values[number] = self.highest

    def drop_before(self, oldest):
        before, self.oldest = self.oldest, max(self.oldest, oldest)
        self.newest = max(self.newest, self.oldest)
        if self.oldest - before < len(self.values):
            for number in range(before, self.oldest):
                self.values.pop(number, None)
        else:
            self.values = {number: value for number, value in self.values.items() if number >= self.oldest}

    def update(self, numbers, priorities, *, oldest=0, newest=None):
        held = 0
        for number, priority in zip(np.ravel(numbers).tolist(), np.ravel(priorities).tolist(), strict=True):
            if number >= max(oldest, self.oldest):
                held += 1
                self.values[number] = self.value(priority)
                self.highest = max(self.highest, self.values[number])
        return held

    def clear(self):
        self.drop_before(self.newest)
        self.highest = self.value(1.0)

    def rows(self, oldest=0, newest=None):
        """Numbers and values of the rows that can be sampled, in slot order."""
        self.drop_before(oldest)
        end = self.newest if newest is None else min(newest, self.newest)
        numbers = sorted(range(self.oldest, end), key=lambda number: number % self.capacity)
        return np.array(numbers, np.int64), np.array([self.values.get(number, 0.0) for number in numbers])

    def sample(self, n, beta=0.4, *, oldest=0, newest=None):
        numbers, values = self.rows(oldest, newest)
        running = np.cumsum(values)
        targets = (np.arange(n) + self.draw.random(n)) * (running[-1] / n)
        found = np.searchsorted(running, targets, side="right")
        return numbers[found], (values[values > 0].min() / values[found]) ** beta


class StaleSums(PlainPriorities):
    """Samples by the priorities from before the last update."""

    before = None

    def update(self, numbers, priorities, **bounds):
        self.before = dict(self.values)
        return super().update(numbers, priorities, **bounds)

    def rows(self, oldest=0, newest=None):
        kept, self.values = self.values, self.before or self.values
        try:
            return super().rows(oldest, newest)
        finally:
            self.values = kept


class MissesTheNewest(PlainPriorities):
    """Off by one at the write head."""

    def rows(self, oldest=0, newest=None):
        numbers, values = super().rows(oldest, newest)
        values[np.argmax(numbers)] = 0.0
        return numbers, values


class IgnoresAlpha(PlainPriorities):
    """Samples in proportion to the priorities without the exponent alpha."""

    def value(self, priority):
        return float(priority) + self.eps


class FirstClashWins(PlainPriorities):
    """Keeps the first priority of a row that is twice in an update."""

    def update(self, numbers, priorities, **bounds):
        numbers, first = np.unique(numbers, return_index=True)
        return super().update(numbers, np.asarray(priorities)[first], **bounds)


class NewRowsAtOne(PlainPriorities):
    """Gives new rows priority 1, not the largest so far."""

    def add(self, first, num):
        self.highest = self.value(1.0)
        super().add(first, num)


class DropsNothing(PlainPriorities):
    """Applies a late update to the new row in the slot."""

    def update(self, numbers, priorities, **bounds):
        numbers = np.where(np.asarray(numbers) < self.oldest, np.asarray(numbers) + self.capacity, numbers)
        return super().update(numbers, priorities, **bounds)


BROKEN = (StaleSums, MissesTheNewest, IgnoresAlpha, FirstClashWins, NewRowsAtOne, DropsNothing)


def check_distribution(make, capacity=150, n=1, draws=30_000):
    """Frequencies match the oracle after inserts, updates, duplicate updates, wrapping and late updates."""
    sampler, oracle = make(capacity, alpha=0.6, eps=1e-6, seed=1), PlainPriorities(capacity)
    draw = np.random.default_rng(2)

    def both(verb, *arguments):
        getattr(sampler, verb)(*arguments)
        getattr(oracle, verb)(*arguments)
        assert_proportional(sampler, oracle, n, draws)

    both("add", 0, capacity // 2)
    both("update", np.arange(capacity // 2), draw.gamma(0.5, size=capacity // 2))
    both("update", np.repeat(np.arange(0, capacity // 2, 3), 2), draw.exponential(3.0, size=capacity // 3))
    both("add", capacity // 2, capacity - 10)
    both("update", np.arange(capacity // 4), np.full(capacity // 4, 50.0))
    both("add", capacity // 2 + capacity - 10, 3 * capacity)


def assert_proportional(sampler, oracle, n, draws):
    """Pearson's chi-square of sampled rows against (priority + eps)**alpha; rare rows share one cell."""
    numbers, values = oracle.rows()
    drawn = np.concatenate([sampler.sample(n)[0] for _ in range(draws // n)])
    assert np.isin(drawn, numbers).all(), "not proportional: drawn was a row that is not held"
    expected = values / values.sum() * len(drawn)
    observed = np.bincount(np.searchsorted(np.sort(numbers), drawn), minlength=len(numbers))[
        np.argsort(np.argsort(numbers))
    ]
    assert observed[expected == 0.0].sum() == 0, "not proportional: a row of priority 0 was drawn"
    rare = expected < 10.0
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    some = expected > 0.0
    p = stats.chisquare(observed[some], expected[some]).pvalue if some.sum() > 1 else 1.0
    assert p >= LEAST_P, f"not proportional: p = {p:.2g}"
