"""Cells of a notebook that run again: the manager that the cell made before frees its runners and folder first."""

from __future__ import annotations

import logging
import weakref
from typing import NamedTuple, Protocol

from really._utils.notebook import shell
from really.manager.buffers import Buffer

log = logging.getLogger("really")


class Cell(NamedTuple):
    """The place in a cell where a manager is made. A cell that is changed is another one."""

    file: str
    line: int
    execution: int


class Closable(Protocol):
    """A manager."""

    buffer: Buffer | None

    def close(self) -> None:
        """Releases its runners."""


_made: weakref.WeakKeyDictionary[Closable, Cell] = weakref.WeakKeyDictionary()


def cell_of(file: str, line: int) -> Cell | None:
    """The cell in which this line of code runs; None outside of notebooks."""
    running = shell()
    return None if running is None else Cell(file, line, running.execution_count)


def close_earlier(cell: Cell | None) -> None:
    """Closes the managers that the same place made in earlier runs of its cell, and tells of others with runners.

    Their buffers on disk are closed, too: a variable of the notebook may hold them, and the cell opens their folders.
    """
    if cell is None:
        return
    for manager, (file, line, execution) in list(_made.items()):
        if execution == cell.execution:
            continue  # a loop in the cell makes several
        if (file, line) == (cell.file, cell.line):
            log.warning("SampleManager: the manager that this cell made before is closed, and its runners are free")
            manager.close()
            if manager.buffer is not None and manager.buffer.path is not None:
                log.warning("SampleManager: its buffer %s is closed", manager.buffer.path)
                manager.buffer.close()
        else:
            log.warning("SampleManager: a manager of another cell still has its runners; manager.close() frees them")
            del _made[manager]  # told once


def note(manager: Closable, cell: Cell | None) -> None:
    """Notes which cell made a manager."""
    if cell is not None:
        _made[manager] = cell


def forget(manager: Closable) -> None:
    """Forgets a manager that is closed."""
    _made.pop(manager, None)
