"""Checks of uniform samplers, as functions that raise AssertionError, and broken samplers that fail them.

A sampler has `put(rows)` and `sample(n)` like ReplayBuffer, with rows {"id": int64}. The checks are those of
docs/performance.md ("How uniformity is tested"); each broken sampler has a defect that some replay buffer had.
"""

import itertools
import random

import numpy as np
from scipy import stats

LEAST_P = 1e-6


def rows(first, num):
    return {"id": np.arange(first, first + num, dtype=np.int64)}


def filled(make, capacity, num):
    """A sampler with rows 0 to num - 1, put in pieces of different lengths."""
    sampler = make(capacity)
    first = 0
    while first < num:
        length = min(1 + first % 7, num - first)
        sampler.put(rows(first, length))
        first += length
    return sampler


def assert_uniform(observed, lengths=None):
    """Pearson's chi-square over equally likely cells, or cells with probabilities in proportion to their lengths."""
    assert np.sum(observed) >= 20 * len(observed), "too few draws to tell"
    if len(observed) > 1:
        shares = np.full(len(observed), 1.0) if lengths is None else np.array(lengths, float)
        p = stats.chisquare(observed, shares / shares.sum() * np.sum(observed)).pvalue
        assert p >= LEAST_P, f"not uniform: p = {p:.2g}"


def check_rows(make, capacity=500, hits=400):
    """All rows are equally likely."""
    sampler = filled(make, capacity, 2 * capacity + 17)
    drawn = np.concatenate([sampler.sample(100)["id"] for _ in range(capacity * hits // 100)])
    assert_uniform(np.bincount(drawn - (capacity + 17), minlength=capacity))


def check_ages(make, capacity=40, hits=400):
    """All ages are equally likely at each fill about the seam, and only rows in the buffer are sampled."""
    for num in (1, capacity - 1, capacity, capacity + 1, 2 * capacity - 1):
        sampler = filled(make, capacity, num)
        held = min(num, capacity)
        ages = num - 1 - np.concatenate([sampler.sample(32)["id"] for _ in range(held * hits // 32 + 1)])
        assert ages.min() >= 0
        assert ages.max() < held
        assert_uniform(np.bincount(ages, minlength=held))


def check_batches(make, capacity=1000, batches=1000, num=32):
    """No batch repeats, and none predicts the next: chi-square on (bucket in a batch, bucket in the next)."""
    sampler = filled(make, capacity, capacity)
    drawn = np.stack([sampler.sample(num)["id"] for _ in range(batches)])
    assert len(np.unique(drawn, axis=0)) == batches, "the same batch came again"
    buckets = drawn * 8 // capacity
    for step in (1, 2):
        pairs = buckets[:-step] * 8 + buckets[step:]
        assert_uniform(np.bincount(pairs.ravel(), minlength=64))
    within = buckets[:, :-1:2] * 8 + buckets[:, 1::2]
    assert_uniform(np.bincount(within.ravel(), minlength=64))


def check_shards(make, hits=200):
    """All rows are equally likely over shards of uneven fills, each sampled in proportion to its fill."""
    fills = (7, 150, 43, 300)
    shards = [filled(make, 300, fill) for fill in fills]
    which = np.random.default_rng(5).choice(len(fills), sum(fills) * hits, p=np.array(fills) / sum(fills))
    drawn = [
        first + shard.sample(int(count))["id"]
        for first, shard, count in zip(
            np.cumsum((0, *fills)), shards, np.bincount(which, minlength=len(fills)), strict=False
        )
    ]
    assert_uniform(np.bincount(np.concatenate(drawn), minlength=sum(fills)))


def check_bound(draw, num=300_000):
    """`draw(bound, num)` favours no third and no residue, for bounds that are a large part of 2**32 and 2**63."""
    for bound in (3 << 30, 3 << 61, (1 << 32) - 1, (1 << 32) + 1, 3, 1000, (5 << 60) + 1):
        numbers = np.asarray(draw(bound, num))
        assert numbers.min() >= 0
        assert numbers.max() < bound
        edges = [bound * at // 3 for at in range(4)]
        thirds = np.bincount(np.searchsorted(edges[1:3], numbers, side="right"), minlength=3)
        assert_uniform(thirds, [end - start for start, end in itertools.pairwise(edges)])
        if bound % 3 == 0:
            assert_uniform(np.bincount((numbers % 3).astype(np.int64), minlength=3))


class PlainSampler:
    """A correct sampler over a Python list; the broken ones derive from it."""

    def __init__(self, capacity):
        self.capacity, self.ids, self.draw = capacity, [], random.Random(7)

    def put(self, data):
        self.ids = (self.ids + data["id"].tolist())[-self.capacity :]

    def sample(self, n):
        return {"id": np.array([self.ids[at] for at in self.indices(n)])}

    def indices(self, n):
        return [self.draw.randrange(len(self.ids)) for _ in range(n)]


class MissesTheNewest(PlainSampler):
    """Off by one at the write head."""

    def indices(self, n):
        return [self.draw.randrange(max(len(self.ids) - 1, 1)) for _ in range(n)]


class FavoursTheOldest(PlainSampler):
    """Modulo bias on a small range: 10 random bits for up to 1,000 rows."""

    def indices(self, n):
        return [self.draw.getrandbits(10) % len(self.ids) for _ in range(n)]


class Sees101Seeds(PlainSampler):
    """Draws its next seed, one of 101, from the generator that it seeds (as the published code of this API does)."""

    def indices(self, n):
        self.draw.seed(self.draw.randint(0, 100))
        return [self.draw.randrange(len(self.ids)) for _ in range(n)]


class RepeatsABatch(PlainSampler):
    """Every second batch depends on the batch before."""

    last = None

    def indices(self, n):
        fresh = super().indices(n)
        if self.last is not None and len(self.last) == n:
            fresh[: n // 4] = self.last[: n // 4]
        self.last = fresh
        return fresh


def modulo_draw(bound, num):
    """Modulo bias on a large range: 32 random bits (64 from 2**32 on) modulo the bound."""
    bits = np.random.default_rng(1).integers(0, 1 << (32 if bound < 1 << 32 else 63), num, dtype=np.uint64)
    return (bits % np.uint64(bound)).astype(np.int64)


def multiplying_draw(bound, num):
    """Multiply and shift without rejection: its bias spreads evenly over the range, so thirds do not show it."""
    if bound >= 1 << 32:
        return np.random.default_rng(1).integers(0, bound, num)
    bits = np.random.default_rng(1).integers(0, 1 << 32, num, dtype=np.uint64)
    return (bits * np.uint64(bound) >> np.uint64(32)).astype(np.int64)
