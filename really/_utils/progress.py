"""Progress bars: shown on request, or on a terminal if a task takes longer than two seconds."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from really._utils.checks import checked_bool
from really._utils.notebook import shell
from really._utils.packages import needed

if TYPE_CHECKING:
    from tqdm import tqdm

# Seconds until a bar appears without a request.
PATIENCE = 2.0
# Seconds from one drawing of a bar to the next.
INTERVAL = 0.2


class NoBar:
    """A bar that shows nothing. It needs no lock, as tqdm's bars do, so an interrupt cannot leave one taken."""

    n = 0.0

    def update(self, done: float) -> None:
        """Counts on."""
        self.n += done

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> NoBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def progress_bar(what: str, total: int | None, unit: str, wanted: bool | None = None) -> tqdm[Any] | NoBar:
    """A bar from 0 to `total`, or a count if `total` is None.

    `wanted` True shows it at once, False never, None on a terminal after two seconds.
    """
    if wanted is not None:
        wanted = checked_bool("progress", wanted)
    if wanted is False or (wanted is None and not _is_watched()):
        return NoBar()
    # Imported at use: tqdm takes a tenth of the time of `import really`.
    tqdm = _bar_type(what)
    delay = 0.0 if wanted else PATIENCE
    disable = None if wanted is None else not wanted
    return tqdm(
        total=total, desc=what, unit=unit, delay=delay, disable=disable, leave=bool(wanted), mininterval=INTERVAL
    )


def _bar_type(what: str) -> Any:
    """The class of bars: a widget in a notebook that has ipywidgets, else text."""
    with needed(what, "tqdm for progress bars", None):
        if shell() is not None and importlib.util.find_spec("ipywidgets") is not None:
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
    return tqdm


def _is_watched() -> bool:
    """Whether somebody sees a bar: on a terminal or in a notebook."""
    return _is_terminal() or shell() is not None


def _is_terminal() -> bool:
    """Whether stderr, to which bars are drawn, is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def advance(bar: tqdm[Any] | NoBar, done: int) -> None:
    """Moves a bar to `done`."""
    bar.update(done - bar.n)


@contextlib.contextmanager
def steps_of(what: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that takes the name of the current step. A terminal shows it, with the time, after two seconds.

    The line is removed at the end. A thread draws it, because a step may be one long call.
    """
    if not _is_terminal() or shell() is not None:
        yield lambda step: None
        return
    tqdm = _bar_type(what)
    line = tqdm(desc=what, bar_format="{desc} [{elapsed}]", leave=False, delay=PATIENCE, mininterval=0, miniters=0)
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
