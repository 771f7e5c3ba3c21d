"""Rate limiter: holds the ratio of sampled to inserted rows, between a collecting and a learning thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from really._utils.checks import checked_positive

# Seconds between two checks whether a wait is cancelled.
CHECK_INTERVAL = 0.1


class RateLimiter:
    """Keeps sampling and inserting in step, as Reverb's `SampleToInsertRatio` does.

    Let `diff = samples_per_insert * (inserted - min_rows) - sampled`. Sampling waits until `min_rows` are inserted and
    `diff >= -error_buffer` will hold after it. Inserting waits while `diff > error_buffer`. Both never wait at the same
    time. Without a ratio, sampling only waits for `min_rows`, and inserting never waits.

    Args:
        samples_per_insert: rows to sample for each row inserted; None sets no limit.
        min_rows: rows to insert before the first is sampled.
        error_buffer: number of samples by which either side may be ahead.

    Attributes:
        inserted, sampled: rows inserted and sampled so far.
        blocked_seconds: how long "insert" and "sample" have waited.

    Raises:
        InvalidTypeError, InvalidValueError: an argument is no number, or not a positive one.
    """

    def __init__(self, samples_per_insert: float | None, min_rows: int, error_buffer: float = 1.0) -> None:
        self._ratio = None if samples_per_insert is None else checked_positive("samples_per_insert", samples_per_insert)
        self._min_rows, self._error_buffer = min_rows, checked_positive("error_buffer", error_buffer)
        self.inserted = self.sampled = 0
        self.blocked_seconds = {"insert": 0.0, "sample": 0.0}
        self._changed = threading.Condition()

    @property
    def diff(self) -> float:
        """Number of samples by which inserting is ahead; negative if sampling is ahead."""
        return (self._ratio or 0.0) * (self.inserted - self._min_rows) - self.sampled

    def can_insert(self) -> bool:
        """Whether rows may be inserted now."""
        return self._ratio is None or self.inserted < self._min_rows or self.diff <= self._error_buffer

    def can_sample(self, rows: int) -> bool:
        """Whether `rows` may be sampled now."""
        if self.inserted < self._min_rows:
            return False
        # Without `min`, a batch larger than twice the error buffer could never be sampled.
        return self._ratio is None or self.diff + self._error_buffer >= min(rows, 2 * self._error_buffer)

    def insert(self, rows: int) -> None:
        """Records that rows were inserted."""
        with self._changed:
            self.inserted += rows
            self._changed.notify_all()

    def await_insert(self, cancelled: Callable[[], bool]) -> bool:
        """Waits until rows may be inserted. Returns False if `cancelled()` becomes true before that."""
        return self._wait("insert", self.can_insert, cancelled)

    def sample(self, rows: int, cancelled: Callable[[], bool]) -> bool:
        """Waits until `rows` may be sampled, and records them. Returns False if `cancelled()` is true before that."""
        with self._changed:
            if not self._wait("sample", lambda: self.can_sample(rows), cancelled):
                return False
            self.sampled += rows
            self._changed.notify_all()
            return True

    def _wait(self, side: str, allowed: Callable[[], bool], cancelled: Callable[[], bool]) -> bool:
        with self._changed:
            start = time.monotonic()
            try:
                while not allowed():
                    if cancelled():
                        return False
                    self._changed.wait(CHECK_INTERVAL)
                return True
            finally:
                self.blocked_seconds[side] += time.monotonic() - start
