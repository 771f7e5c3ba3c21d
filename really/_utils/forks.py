"""Forks of this process: they wait until nobody is in what has a lock, which no thread of a child could let go."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Lockable(Protocol):
    """What has a lock of its own."""

    def acquire(self) -> None:
        """Waits for the lock and takes it."""

    def release(self) -> None:
        """Lets it go."""


Thing = TypeVar("Thing", bound=Lockable)


class HeldWhileForking(Generic[Thing]):
    """Living things, each held by whoever forks until both processes go on; `in_child` is then told of each there."""

    def __init__(self, in_child: Callable[[Thing], object] = lambda thing: None) -> None:
        self._things: weakref.WeakSet[Thing] = weakref.WeakSet()
        self._held: list[Thing] = []
        self._in_child = in_child
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before, after_in_parent=self._let_go, after_in_child=self._begin_in_child)

    def add(self, thing: Thing) -> None:
        """Has forks wait for it as long as it lives."""
        self._things.add(thing)

    def __iter__(self) -> Iterator[Thing]:
        while True:
            try:
                return iter(list(self._things))
            except RuntimeError:  # another thread has added one meanwhile
                continue

    def _before(self) -> None:
        self._held.extend(self)
        for thing in self._held:
            thing.acquire()

    def _let_go(self) -> None:
        for thing in self._held:
            thing.release()
        self._held.clear()

    def _begin_in_child(self) -> None:
        things = list(self._held)
        self._let_go()
        for thing in things:
            self._in_child(thing)
