"""Rate limiter: the checks of Reverb's own tests, and two threads that it keeps in step."""

from __future__ import annotations

import threading

import pytest

from really.collectors.rate_limiter import RateLimiter
from really.errors import InvalidValueError


def never() -> bool:
    return False


def always() -> bool:
    return True


def test_blocks_samples_until_min_inserts_are_reached() -> None:
    limiter = RateLimiter(None, min_rows=3, error_buffer=1)
    limiter.insert(2)
    assert not limiter.can_sample(1)
    assert not limiter.sample(1, cancelled=always)
    limiter.insert(1)
    assert limiter.sample(1000, cancelled=never)
    assert (limiter.inserted, limiter.sampled) == (3, 1000)


def test_without_a_ratio_only_min_rows_limits() -> None:
    limiter = RateLimiter(None, min_rows=0, error_buffer=1)
    limiter.insert(10**9)
    assert limiter.can_insert()
    assert limiter.can_sample(10**9)


def test_blocks_calls_beyond_the_error_buffer() -> None:
    limiter = RateLimiter(2.0, min_rows=10, error_buffer=8)
    limiter.insert(10)
    assert limiter.diff == 0
    assert limiter.can_insert()
    limiter.insert(5)
    assert limiter.diff == 10
    assert not limiter.can_insert(), "10 samples ahead, 8 allowed"
    assert limiter.sample(16, cancelled=never)
    assert limiter.diff == -6
    assert limiter.can_insert()
    assert limiter.can_sample(2)
    assert not limiter.can_sample(3), "the ninth sample ahead"
    assert not limiter.sample(3, cancelled=always)
    assert limiter.sampled == 16


@pytest.mark.parametrize("rows", [1, 7, 16, 17, 10_000])
def test_never_blocks_both_sides(rows: int) -> None:
    limiter = RateLimiter(3.0, min_rows=0, error_buffer=8)
    for _ in range(1000):
        assert limiter.can_insert() or limiter.can_sample(rows)
        if limiter.can_sample(rows):
            limiter.sample(rows, cancelled=never)
        else:
            limiter.insert(1)


def test_keeps_two_threads_in_step() -> None:
    limiter = RateLimiter(4.0, min_rows=0, error_buffer=40)
    widest = [0.0]

    def insert() -> None:
        for _ in range(500):
            limiter.await_insert(never)
            limiter.insert(2)
            widest[0] = max(widest[0], abs(limiter.diff))

    thread = threading.Thread(target=insert)
    thread.start()
    for _ in range(400):
        assert limiter.sample(10, cancelled=never)
        widest[0] = max(widest[0], abs(limiter.diff))
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert (limiter.inserted, limiter.sampled) == (1000, 4000)
    assert widest[0] <= 40 + 2 * 4.0


@pytest.mark.parametrize(("ratio", "error_buffer"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0)])
def test_bad_numbers_are_refused(ratio: float, error_buffer: float) -> None:
    with pytest.raises(InvalidValueError, match=r"expected a number > 0, got"):
        RateLimiter(ratio, 1, error_buffer)
