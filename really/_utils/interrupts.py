"""Interrupts (Ctrl-C) that wait for the end of a step that must not be cut short, and exits by a signal."""

from __future__ import annotations

import signal
import threading
import traceback
from types import FrameType
from typing import Any


class HeldInterrupts:
    """From `hold_back()` to the end of the `with`, an interrupt of the main thread waits; a second one does not."""

    def __init__(self) -> None:
        self._before: Any = None
        self._has_come = False

    def hold_back(self) -> None:
        """Holds interrupts back from now on. Does nothing in other threads, which are not interrupted."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._has_come:
            self._before(number, frame)
        self._has_come = True

    def __enter__(self) -> HeldInterrupts:
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self._has_come:
                signal.raise_signal(signal.SIGINT)


def ends_program(error: BaseException) -> bool:
    """Whether an exit or an interrupt is the program's own, and not that of the code that was called.

    Ctrl-C raises a KeyboardInterrupt at any place, so each one is the program's. So is an exit of a signal's handler,
    and one of Ray, which it raises to end the process of an actor.
    """
    return not isinstance(error, Exception) and (
        isinstance(error, KeyboardInterrupt) or is_of_handler(error) or is_exit_of_ray(error)
    )


def is_exit_of_ray(error: BaseException) -> bool:
    """Whether Ray raised this SystemExit to end a process of its own, as it does after SIGTERM."""
    return isinstance(error, SystemExit) and hasattr(error, "ray_terminate_msg")


def is_of_handler(error: BaseException) -> bool:
    """Whether a signal's handler written in Python raised an error: Python gives it the frame that it interrupts."""
    frames: list[FrameType] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        given = [each for value in frame.f_locals.values() for each in (value if type(value) is tuple else (value,))]
        if any(isinstance(each, FrameType) and each in frames for each in given):
            return True
        frames.append(frame)
    return False
