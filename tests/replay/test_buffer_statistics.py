"""Batches are uniform and independent. Each check is seen to fail on a sampler with the defect that it looks for."""

import numpy as np
import pytest

from really import ReplayBuffer
from really.replay._ring import draw_below, draw_in_line
from tests import sampling_checks as checks

ALL = [checks.check_rows, checks.check_ages, checks.check_batches, checks.check_shards]


def really_buffer(seed):
    return lambda capacity: ReplayBuffer(capacity, seed=seed)


@pytest.mark.parametrize("check", ALL)
@pytest.mark.parametrize("seed", range(5))
def test_buffer_passes(check, seed):
    check(really_buffer(seed))


@pytest.mark.parametrize("seed", range(3))
def test_bounded_numbers_pass(seed):
    source = np.random.SFC64(seed)
    checks.check_bound(lambda bound, num: draw_below(source, bound, num))


def numbers_of(words, bound, num):
    """Lemire's method in Python, two numbers from each word of 64 bits. What a block of 64 leaves of a word is lost."""
    numbers, surplus = [], (1 << 32) % bound
    while len(numbers) < num:
        block, wanted = [], min(64, num - len(numbers))
        while len(block) < wanted:
            word = int(words.random_raw())
            products = [half * bound for half in (word & 0xFFFFFFFF, word >> 32)]
            block += [product >> 32 for product in products if product & 0xFFFFFFFF >= surplus]
        numbers += block[:wanted]
    return numbers


# With (1 << 33) // 3 a third of the halves is rejected; with the other bounds few are, or none.
@pytest.mark.parametrize("bound", [1, 2, 100_000, 1 << 31, (1 << 33) // 3, (1 << 32) - 1])
@pytest.mark.parametrize("num", [1, 2, 3, 31, 64, 65, 1000])
@pytest.mark.parametrize("generator", [np.random.SFC64, np.random.PCG64])
def test_bounded_numbers_are_those_of_the_formula(generator, num, bound):
    drawn, words = generator(num), generator(num)
    for _ in range(3):
        assert draw_below(drawn, bound, num).tolist() == numbers_of(words, bound, num)
    assert drawn.random_raw() == words.random_raw()


def test_sfc64_is_drawn_in_line():
    assert draw_in_line(np.random.SFC64(1))


@pytest.mark.parametrize("check", ALL)
def test_a_right_sampler_passes(check):
    check(checks.PlainSampler)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        (checks.check_rows, checks.MissesTheNewest),
        (checks.check_rows, checks.FavoursTheOldest),
        (checks.check_ages, checks.MissesTheNewest),
        (checks.check_batches, checks.Sees101Seeds),
        (checks.check_batches, checks.RepeatsABatch),
        (checks.check_shards, checks.MissesTheNewest),
        (checks.check_shards, checks.FavoursTheOldest),
    ],
)
def test_a_broken_sampler_fails(check, broken):
    with pytest.raises(AssertionError, match=r"not uniform|the same batch|max|min|assert"):
        check(broken)


@pytest.mark.parametrize("biased", [checks.modulo_draw, checks.multiplying_draw])
def test_modulo_bias_fails(biased):
    with pytest.raises(AssertionError, match="not uniform"):
        checks.check_bound(biased)


@pytest.mark.parametrize("n", [100, (5, 20)])
def test_without_replacement_every_row_is_as_likely_at_every_place(n):
    buffer = ReplayBuffer(100, seed=2)
    buffer.put(checks.rows(0, 130))
    drawn = np.concatenate([np.atleast_2d(buffer.sample(n, replace=False)["id"]) - 30 for _ in range(400)])
    places = np.arange(drawn.shape[1]) * 10 // drawn.shape[1]
    cells = (drawn // 10) * 10 + places
    assert all(len(set(batch)) == len(batch) for batch in drawn.tolist())
    checks.assert_uniform(np.bincount(cells.ravel(), minlength=100))


def test_every_column_of_a_row_is_of_that_row():
    buffer = ReplayBuffer(64, seed=3)
    ids = np.arange(1000)
    for first in range(0, 1000, 13):
        part = ids[first : first + 13]
        buffer.put(
            {"a": part, "b": part.astype(np.float32), "c": np.repeat(part, 300).reshape(-1, 300), "d": part % 256}
        )
        batch = buffer.sample(50)
        assert np.array_equal(batch["a"], batch["b"])
        assert np.array_equal(np.repeat(batch["a"], 300).reshape(-1, 300), batch["c"])
        assert np.array_equal(batch["a"] % 256, batch["d"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_at_length(seed):
    checks.check_rows(really_buffer(seed), capacity=5000, hits=400)
    checks.check_ages(really_buffer(seed), capacity=200, hits=2000)
    checks.check_batches(really_buffer(seed), batches=20_000)
    checks.check_shards(really_buffer(seed), hits=4000)
    source = np.random.SFC64(seed)
    checks.check_bound(lambda bound, num: draw_below(source, bound, num), num=10_000_000)
