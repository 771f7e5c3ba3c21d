"""The one registry of what a fork of this process has to do with live objects: hold their locks, reset them.

A child has only the thread that forked. A lock that another thread held at that moment would stay held there for ever,
and the other threads are missing. So each kind of object that has locks or threads registers a group here.
"""

from __future__ import annotations

import contextlib
import enum
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from really._utils import _locks


class Order(enum.IntEnum):
    """The order of the groups. A fork acquires their locks from the last group to the first.

    After the fork each process goes from the first group to the last: it releases the locks, and a child resets the
    objects. So the objects of a group can use those of the groups before it.
    """

    RINGS = 0
    SUM_TREES = 1
    SAMPLERS = 2
    READERS = 3
    FOLDERS = 4
    SHARDED = 5
    ITERATORS = 6


class Lockable(Protocol):
    """An object with a lock of its own.

    A repeated `acquire` or `release` does nothing: after an interrupt nobody knows which ones have returned.
    """

    def acquire(self) -> None:
        """Waits for the lock and takes it, unless this object holds it for a fork already."""

    def release(self) -> None:
        """Releases the lock if `acquire` took it."""


Thing = TypeVar("Thing")
Locked = TypeVar("Locked", bound=Lockable)


class ForkGroup(Generic[Thing]):
    """Live objects of one kind that a forked child has to reset. The group has weak references to them.

    Args:
        order: the group's place among the others.
        in_child: resets an object in a forked child.
    """

    def __init__(self, order: Order, in_child: Callable[[Thing], object]) -> None:
        self._things: weakref.WeakSet[Thing] = weakref.WeakSet()
        self._in_child = in_child
        self.order = order
        _groups.append(self)

    def add(self, thing: Thing) -> None:
        """Adds an object for as long as it lives."""
        self._things.add(thing)

    def __iter__(self) -> Iterator[Thing]:
        while True:
            try:
                return iter(list(self._things))
            except RuntimeError:  # another thread has added one meanwhile
                continue

    def before(self) -> None:
        """Runs before the fork."""

    def after_in_parent(self) -> None:
        """Runs in the parent after the fork."""

    def after_in_child(self) -> None:
        """Runs in the child after the fork."""
        for thing in self:
            self._in_child(thing)


class LockedGroup(ForkGroup[Locked]):
    """Live objects whose locks a fork holds, so that no thread is inside one of them while the process is copied."""

    def __init__(self, order: Order, in_child: Callable[[Locked], object] = lambda thing: None) -> None:
        super().__init__(order, in_child)
        self._held: list[Locked] = []

    def before(self) -> None:
        """Acquires all locks, also if it is called again after an interrupt."""
        self._held[:] = self
        for thing in self._held:
            thing.acquire()

    def after_in_parent(self) -> None:
        """Releases the locks."""
        for thing in self._held:
            thing.release()
        self._held.clear()

    def after_in_child(self) -> None:
        """Releases the locks, then resets the objects."""
        things = list(self._held)
        self.after_in_parent()
        for thing in things:
            self._in_child(thing)


_groups: list[ForkGroup[Any]] = []


def _in_order() -> list[ForkGroup[Any]]:
    return sorted(_groups, key=lambda group: group.order)


def _call_each(actions: Iterable[Callable[[], None]]) -> None:
    """Calls each action, even if one before it raises."""
    with contextlib.ExitStack() as stack:
        for action in reversed(list(actions)):
            stack.callback(action)


# Two threads that fork at once take turns: each needs the locks of all groups.
_forking = threading.RLock()


def _insist(action: Callable[[], None]) -> None:
    """Calls the action again until no interrupt ends it: an error of a hook does not stop the fork."""
    interrupted: KeyboardInterrupt | None = None
    while True:
        try:
            action()
            break
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


class _Thread(threading.local):
    """What this thread does: whether it is between the first and the last step of a fork."""

    is_forking = False


_this_thread = _Thread()


def _acquire_all() -> None:
    _this_thread.is_forking = True
    _forking.acquire()
    # Collection can come at any line, and the end of a buffer needs locks that this thread then holds for the fork.
    _locks.pause_for_fork()
    _call_each(group.before for group in reversed(_in_order()))


def _release(is_child: bool) -> None:
    """Lets Python collect garbage again, and releases this thread's hold on `_forking`, however often it took it."""
    _locks.resume_after_fork(is_child)
    with contextlib.suppress(RuntimeError):
        while True:
            _forking.release()
    _this_thread.is_forking = False


def _before() -> None:
    _insist(_acquire_all)


def _after_in_parent() -> None:
    if _this_thread.is_forking:
        _insist(lambda: _call_each([*(group.after_in_parent for group in _in_order()), partial(_release, False)]))


def _after_in_child() -> None:
    if _this_thread.is_forking:
        _insist(lambda: _call_each([*(group.after_in_child for group in _in_order()), partial(_release, True)]))


if hasattr(os, "register_at_fork"):
    # Twice: an interrupt that comes while the system forks is raised when the first hook is called, before its first
    # line, and ends it. Each hook may be repeated.
    for _ in range(2):
        os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
