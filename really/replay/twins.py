"""Twins: forked processes with copies of one generator, such as workers of a loader, draw the same rows."""

from __future__ import annotations

import weakref
from typing import Protocol

from really._utils.forks import ForkGroup, Order


class Drawing(Protocol):
    """What draws rows with a generator of its own."""

    def tell_of_twin(self) -> None:
        """In a forked process: the next draw warns, as another forked process draws the same rows."""


class Twins(ForkGroup[Drawing]):
    """Buffers, and from which of them this process has forked another that may draw.

    The first fork may be meant: a process that draws in place of this one. From the second on there are twins.
    """

    def __init__(self) -> None:
        super().__init__(Order.SAMPLERS, in_child=self._tell)
        self._forked: weakref.WeakSet[Drawing] = weakref.WeakSet()

    def after_in_parent(self) -> None:
        """Notes that each buffer has a copy."""
        self._forked.update(self)

    def _tell(self, thing: Drawing) -> None:
        if thing in self._forked:
            thing.tell_of_twin()


TWINS = Twins()
