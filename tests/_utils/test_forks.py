"""The registry of fork hooks: locks are held while a process forks, and objects are reset in order in the child."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from really._utils import forks
from really._utils.forks import ForkGroup, LockedGroup, Order


class Counter:
    """Has a lock, and lists what happens to it."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events, self.lock, self.is_held = name, events, threading.Lock(), False

    def acquire(self) -> None:
        if not self.is_held:
            self.lock.acquire()
            self.is_held = True
            self.events.append(f"acquire {self.name}")

    def release(self) -> None:
        if self.is_held:
            self.is_held = False
            self.lock.release()
            self.events.append(f"release {self.name}")

    def reset(self) -> None:
        self.events.append(f"reset {self.name}")


@pytest.fixture(autouse=True)
def other_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_groups", [])


def forked(check: Callable[[], bool]) -> bool:
    """Whether the check succeeds in a forked child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks among threads
        child = os.fork()
    if child == 0:
        os._exit(0 if check() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_locks_are_acquired_from_the_last_group_and_released_from_the_first() -> None:
    events: list[str] = []
    late, early = (LockedGroup(order, Counter.reset) for order in (Order.SUM_TREES, Order.RINGS))
    plain = ForkGroup(Order.READERS, Counter.reset)
    things = [Counter("tree", events), Counter("ring", events), Counter("reader", events)]
    for group, thing in zip((late, early, plain), things, strict=True):
        group.add(thing)
    acquired = ["acquire tree", "acquire ring"]
    in_child = ["release ring", "reset ring", "release tree", "reset tree", "reset reader"]
    assert forked(lambda: events == acquired + in_child)
    assert events == [*acquired, "release ring", "release tree"]


def test_a_group_forgets_an_object_that_nobody_holds() -> None:
    group = ForkGroup(Order.READERS, Counter.reset)
    group.add(Counter("reader", []))
    gc.collect()
    assert list(group) == []


class Collecting(Counter):
    """Python collects garbage as its lock is taken, as it may at any allocation."""

    def acquire(self) -> None:
        super().acquire()
        if gc.isenabled():
            gc.collect()


class Owner:
    """Garbage whose end needs a lock."""

    def __init__(self, counter: Counter) -> None:
        self.counter, self.me = counter, self

    def __del__(self) -> None:
        if is_free := self.counter.lock.acquire(blocking=False):
            self.counter.lock.release()
        self.counter.events.append("closed" if is_free else "stuck")


def test_garbage_whose_end_needs_a_lock_is_not_collected_within_a_fork() -> None:
    events: list[str] = []
    group, counter = LockedGroup(Order.RINGS, Counter.reset), Collecting("ring", events)
    group.add(counter)
    gc.collect()
    Owner(counter)
    assert forked(gc.isenabled)
    assert gc.isenabled()
    gc.collect()
    assert events == ["acquire ring", "release ring", "closed"]


def test_a_fork_leaves_collection_stopped_if_it_was() -> None:
    gc.disable()
    try:
        assert forked(lambda: not gc.isenabled())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_group_that_fails_does_not_stop_the_others() -> None:
    def fail(thing: Counter) -> None:
        raise ValueError(thing.name)

    events: list[str] = []
    things = [Counter("sampler", events), Counter("reader", events)]
    for order, reset, thing in zip((Order.SAMPLERS, Order.READERS), (fail, Counter.reset), things, strict=True):
        ForkGroup(order, reset).add(thing)
    assert forked(lambda: events == ["reset reader"])


def test_forks_of_several_threads_take_turns() -> None:
    class Slow(Counter):
        def acquire(self) -> None:
            time.sleep(0.01)
            super().acquire()

    events: list[str] = []
    group, thing = LockedGroup(Order.RINGS, Counter.reset), Slow("ring", events)
    group.add(thing)
    succeeded: list[bool] = []
    threads = [threading.Thread(target=lambda: succeeded.append(forked(lambda: True))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert succeeded == [True] * 4
    assert events == ["acquire ring", "release ring"] * 4
    assert not thing.lock.locked()
