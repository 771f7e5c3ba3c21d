"""Progress bars: shown when asked for, or on a terminal for whatever takes longer than two seconds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

# Seconds that something may take before a bar appears that nobody asked for.
PATIENCE = 2.0
# And from one picture of it to the next.
INTERVAL = 0.2


def progress_bar(what: str, total: int | None, unit: str, wanted: bool | None = None) -> tqdm[Any]:
    """A bar from 0 to `total`, or a count where that is None.

    `wanted` True shows it at once, False never, None on a terminal after two seconds.
    """
    delay = 0.0 if wanted else PATIENCE
    disable = None if wanted is None else not wanted
    return tqdm(
        total=total, desc=what, unit=unit, delay=delay, disable=disable, leave=bool(wanted), mininterval=INTERVAL
    )


def advance(bar: tqdm[Any], done: int) -> None:
    """Moves a bar to `done`, however far it was."""
    bar.update(done - bar.n)


@contextlib.contextmanager
def steps_of(what: str) -> Iterator[Callable[[str], None]]:
    """Gives a function to tell what is being done: on a terminal it is shown, with the time, after two seconds.

    Nothing of it stays on the screen. A thread draws, since a step may be one long call.
    """
    line = tqdm(
        desc=what, bar_format="{desc} [{elapsed}]", disable=None, leave=False, delay=PATIENCE, mininterval=0, miniters=0
    )
    if line.disable:
        yield lambda step: None
        return
    over = threading.Event()

    def draw() -> None:
        while not over.wait(INTERVAL):
            line.update(0)

    thread = threading.Thread(target=draw, name="really-progress", daemon=True)
    thread.start()
    try:
        yield lambda step: line.set_description_str(f"{what}: {step}", refresh=False)
    finally:
        over.set()
        thread.join()
        line.close()
