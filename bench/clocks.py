"""The clock of repeated calls, for the profiles and tables of this folder."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any


def timed(call: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds that so many calls take by a clock, such as `time.thread_time`."""
    began = clock()
    for _ in range(repeats):
        call()
    return clock() - began


def medians(
    calls: Mapping[str, Callable[[], Any]], clock: Callable[[], float], rounds: int, least: float
) -> dict[str, float]:
    """Seconds of each call: medians over rounds in which all take turns, of `least` seconds or more each."""
    repeats, found = {}, {name: [] for name in calls}
    for name, call in calls.items():
        call()  # which may have to look at all rows first
        repeats[name] = 1
        while timed(call, repeats[name], clock) < least:
            repeats[name] *= 2
    for at in range(rounds):
        for name in list(calls)[:: 1 if at % 2 else -1]:
            found[name].append(timed(calls[name], repeats[name], clock) / repeats[name])
    return {name: statistics.median(times) for name, times in found.items()}
