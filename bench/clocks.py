"""The clock of repeated calls, for the profiles and tables of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def timed(call: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds that so many calls take by a clock, such as `time.thread_time`."""
    began = clock()
    for _ in range(repeats):
        call()
    return clock() - began
