"""Background collection: a thread that moves chunks from the runners into the buffer while the learner trains."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from really._utils.checks import checked_integer, checked_positive
from really.collectors.collector import LOOK, Collector
from really.collectors.demand import STREAMED_ROWS
from really.collectors.messages import PolicySettings
from really.collectors.rate_limiter import RateLimiter
from really.errors import InvalidStateError, InvalidValueError

if TYPE_CHECKING:  # runners import this wing, and need no buffer
    from really.replay.rows import Appended

log = logging.getLogger("really")

END_SECONDS = 2.0
"""How long the thread may go on once the runners have ended."""


class BackgroundCollection:
    """Collects into the buffer until `stop()`, or until the end of a `with` block.

    The number of pending chunks is bounded: each runner works on one and has one more queued. While the rate limiter
    blocks inserting, no chunk is ordered, so that the runners wait and do not fill the object store.
    """

    def __init__(
        self,
        collector: Collector,
        buffer: Appended,
        settings: Callable[[], PolicySettings],
        *,
        samples_per_insert: float | None = None,
        min_rows: int = 1,
        error_buffer: float | None = None,
        max_rows: int | None = None,
        rows_stay: bool = False,
    ) -> None:
        self._rows_stay = rows_stay
        self._limiter = _limiter(samples_per_insert, min_rows, error_buffer)
        # Larger orders would overrun the limiter's error buffer, or the most rows.
        self._grows = samples_per_insert is None and max_rows is None
        self._max_rows = None if max_rows is None else checked_integer("max_rows", max_rows)
        self._collector, self._buffer, self._settings = collector, buffer, settings
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._is_given_up, self._next_look = False, 0.0
        self._thread = threading.Thread(target=self._run, name="really-background", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether rows are still collected."""
        return self._thread.is_alive() and not self._is_given_up

    @property
    def rows(self) -> int:
        """Number of rows put into the buffer so far."""
        return self._limiter.inserted

    def info(self) -> dict[str, Any]:
        """Figures: rows put and sampled so far, and seconds for which the rate limiter blocked either side."""
        return {
            "background_rows": self._limiter.inserted,
            "background_sampled": self._limiter.sampled,
            **{f"background_{side}_blocked": round(s, 3) for side, s in self._limiter.blocked_seconds.items()},
        }

    def before_sample(self, rows: int, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Waits until the rate limiter allows a sample of `rows` rows, unless `cancelled()` is true.

        Raises:
            InvalidStateError: an error has ended collection; the message holds it.
        """
        self._give_up_if_ended()
        self._limiter.sample(rows, cancelled=lambda: self._is_over() or cancelled())
        self._raise_error()

    def end(self) -> None:
        """Requests the end of collection and does not wait for it."""
        self._stopping.set()

    def stop(self, patience: float | None = None) -> None:
        """Ends collection; pending chunks are still put into the buffer.

        Chunks are given up, with a warning, if they take longer than `remote_time_out` or half a minute, or if all of
        this takes longer than `patience` seconds. Runners of this process are not given up.

        Raises:
            InvalidStateError: an error has ended collection before; the message holds it.
        """
        self.end()
        end = math.inf if patience is None else time.monotonic() + patience
        while not self._is_over() and (left := end - time.monotonic()) > 0:
            self._thread.join(min(LOOK, left))
        if self.running:
            log.warning("background collection: pending chunks did not arrive within %g s and are given up", patience)
        self._raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _raise_error(self) -> None:
        """Raises the error that ended collection, if there is one, once."""
        error, self._error = self._error, None
        if error is not None:
            raise InvalidStateError(f"background collection ended with {type(error).__name__}: {error}") from error

    def _is_over(self) -> bool:
        """Whether no more rows are collected; looks at the runners, too."""
        self._give_up_if_ended()
        return not self.running

    def _give_up_if_ended(self) -> None:
        """Gives the thread up if the runners have ended and it goes on: a wait of Ray may outlast `ray.shutdown()`."""
        if self._is_given_up or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK
        error = self._collector.end_of_runners()
        if error is not None and self._thread.is_alive():
            self._thread.join(END_SECONDS)
            if self._thread.is_alive():
                self._error, self._is_given_up = error, True

    def _enough(self) -> bool:
        return self._stopping.is_set() or (self._max_rows is not None and self.rows >= self._max_rows)

    def _run(self) -> None:
        try:
            for part in self._collector.stream(self._settings, self._enough, grows=self._grows):
                self._limiter.await_insert(cancelled=self._stopping.is_set)
                self._buffer.put(part.batch_for(self._rows_stay))
                self._limiter.insert(part.rows)
        except BaseException as error:  # the thread that stops or samples raises it again
            self._error = error


def _limiter(samples_per_insert: float | None, min_rows: int, error_buffer: float | None) -> RateLimiter:
    min_rows = checked_integer("min_rows", min_rows, 0)
    if samples_per_insert is not None:
        # By default either side may be ahead by the samples of two rounds of chunks.
        default = 2.0 * STREAMED_ROWS * checked_positive("samples_per_insert", samples_per_insert)
        return RateLimiter(samples_per_insert, min_rows, default if error_buffer is None else error_buffer)
    if error_buffer is not None:
        raise InvalidValueError(
            f"error_buffer: expected samples_per_insert with it, as nothing else uses it, got {error_buffer!r} alone"
        )
    return RateLimiter(None, min_rows)
