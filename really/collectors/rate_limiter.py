"""Rate limiting between two threads: how many rows may be sampled for each one that is inserted, and the other way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from really._utils.checks import check_positive

# Seconds between two looks at whether a wait has become pointless.
LOOK_AROUND = 0.1


class RateLimiter:
    """Keeps sampling and inserting in step, as Reverb's `SampleToInsertRatio` does.

    With `diff = samples_per_insert * (inserted - min_rows) - sampled`, sampling waits until `min_rows` are there and
    `diff >= -error_buffer` would hold afterwards; inserting waits while `diff > error_buffer`. Both can never wait at
    once. Without a ratio, only `min_rows` counts.

    Args:
        samples_per_insert: rows to be sampled for each row inserted; None does not limit.
        min_rows: rows to be inserted before the first is sampled.
        error_buffer: samples by which either side may be ahead.

    Raises:
        InvalidTypeError, InvalidValueError: what is no number, or not a positive one.
    """

    def __init__(self, samples_per_insert: float | None, min_rows: int, error_buffer: float = 1.0) -> None:
        self._ratio = None if samples_per_insert is None else check_positive("samples_per_insert", samples_per_insert)
        self._min_rows, self._slack = min_rows, check_positive("error_buffer", error_buffer)
        self.inserted = self.sampled = 0
        self.blocked_seconds = {"insert": 0.0, "sample": 0.0}
        self._changed = threading.Condition()

    @property
    def diff(self) -> float:
        """By how many samples inserting is ahead; negative where sampling is."""
        return (self._ratio or 0.0) * (self.inserted - self._min_rows) - self.sampled

    def can_insert(self) -> bool:
        """Whether the next rows may be inserted now."""
        return self._ratio is None or self.inserted < self._min_rows or self.diff <= self._slack

    def can_sample(self, rows: int) -> bool:
        """Whether `rows` may be sampled now."""
        if self.inserted < self._min_rows:
            return False
        # A batch larger than both buffers together could never be had otherwise.
        return self._ratio is None or self.diff + self._slack >= min(rows, 2 * self._slack)

    def insert(self, rows: int) -> None:
        """Counts rows that were inserted."""
        with self._changed:
            self.inserted += rows
            self._changed.notify_all()

    def await_insert(self, pointless: Callable[[], bool]) -> bool:
        """Waits until rows may be inserted; False where `pointless` says that they never will be."""
        return self._wait("insert", self.can_insert, pointless)

    def sample(self, rows: int, pointless: Callable[[], bool]) -> bool:
        """Waits until `rows` may be sampled, and counts them; False where `pointless` says that they never will be."""
        with self._changed:
            if not self._wait("sample", lambda: self.can_sample(rows), pointless):
                return False
            self.sampled += rows
            self._changed.notify_all()
            return True

    def _wait(self, side: str, allowed: Callable[[], bool], pointless: Callable[[], bool]) -> bool:
        with self._changed:
            began = time.monotonic()
            try:
                while not allowed():
                    if pointless():
                        return False
                    self._changed.wait(LOOK_AROUND)
                return True
            finally:
                self.blocked_seconds[side] += time.monotonic() - began
