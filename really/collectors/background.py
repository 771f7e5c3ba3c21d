"""Background collection: a thread that keeps the buffer supplied by the runners while the learner trains."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from really._utils.checks import check_count, check_positive
from really.collectors.collector import STREAMED_ROWS, Collector
from really.collectors.messages import PolicySettings
from really.collectors.rate_limiter import RateLimiter
from really.errors import InvalidValueError, ReallyError
from really.replay.buffer import ReplayBuffer

log = logging.getLogger("really")


class BackgroundCollection:
    """Runners work, and their chunks go into the buffer, until `stop()` or the end of the `with` block.

    What is under way is bounded: each runner works on one chunk and has one more queued. Where the rate limiter holds
    inserting back, no further chunk is ordered, so that runners wait instead of filling the object store.
    """

    def __init__(
        self,
        collector: Collector,
        buffer: ReplayBuffer,
        settings: Callable[[], PolicySettings],
        *,
        samples_per_insert: float | None = None,
        min_rows: int = 1,
        error_buffer: float | None = None,
        max_rows: int | None = None,
    ) -> None:
        self._limiter = _limiter(samples_per_insert, min_rows, error_buffer)
        self._max_rows = None if max_rows is None else check_count("max_rows", max_rows)
        self._collector, self._buffer, self._settings = collector, buffer, settings
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="really-background", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether rows still come in."""
        return self._thread.is_alive()

    @property
    def rows(self) -> int:
        """How many rows have been put into the buffer."""
        return self._limiter.inserted

    def info(self) -> dict[str, Any]:
        """Running figures: rows put and sampled, seconds that either side was held back."""
        return {
            "background_rows": self._limiter.inserted,
            "background_sampled": self._limiter.sampled,
            **{f"background_{side}_blocked": round(s, 3) for side, s in self._limiter.blocked_seconds.items()},
        }

    def before_sample(self, rows: int, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Holds a learner back that samples faster than `samples_per_insert` allows, unless `cancelled` says True.

        Raises:
            ReallyError: what ended collecting, where it ended by an error.
        """
        self._limiter.sample(rows, pointless=lambda: not self.running or cancelled())
        self._raise()

    def end(self) -> None:
        """Lets collecting end, and does not wait for it."""
        self._stopping.set()

    def stop(self, patience: float | None = None) -> None:
        """Ends collecting; chunks under way are still stored. Raises what ended it, where that was an error.

        They are given up, with a warning, where they take longer than `remote_time_out`, or where all that is left to
        be stored takes longer than `patience` seconds.
        """
        self.end()
        self._thread.join(patience)
        if self.running:
            log.warning("background collection: what is under way did not come within %g s and is given up", patience)
        self._raise()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise ReallyError(f"background collection ended with {type(error).__name__}: {error}") from error

    def _enough(self) -> bool:
        return self._stopping.is_set() or (self._max_rows is not None and self.rows >= self._max_rows)

    def _run(self) -> None:
        try:
            for part in self._collector.stream(self._settings, self._enough):
                self._limiter.await_insert(pointless=self._stopping.is_set)
                self._buffer.put(part.batch)
                self._limiter.insert(part.rows)
        except BaseException as error:  # raised again in the thread that stops or samples
            self._error = error


def _limiter(samples_per_insert: float | None, min_rows: int, error_buffer: float | None) -> RateLimiter:
    min_rows = check_count("min_rows", min_rows, 0)
    if samples_per_insert is not None:
        # Ahead by what two chunks are worth, where nothing else is said.
        slack = 2.0 * STREAMED_ROWS * check_positive("samples_per_insert", samples_per_insert)
        return RateLimiter(samples_per_insert, min_rows, slack if error_buffer is None else error_buffer)
    if error_buffer is not None:
        raise InvalidValueError(
            f"error_buffer: expected samples_per_insert with it, which alone uses it, got {error_buffer!r} alone"
        )
    return RateLimiter(None, min_rows)
