"""Interrupts (Ctrl-C) at random moments of each method of a buffer: no lock is lost, no temporary file is left."""

from __future__ import annotations

import _thread
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from really import Mixture, ReplayBuffer
from really.errors import EmptyBufferError, OvertakenError

ROOT = Path(__file__).parents[2]


class Putter:
    """A thread that puts without end, and counts its puts."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.num_puts, self._stopping = 0, False
        self._put, self._rows = buffer.put, {"x": np.zeros((2000, 16), np.float32)}
        self.progress = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            self._put(self._rows)
            with self.progress:
                self.num_puts += 1
                self.progress.notify_all()

    def goes_on(self) -> bool:
        """Whether two more puts end."""
        with self.progress:
            goal = self.num_puts + 2
            return self.progress.wait_for(lambda: self.num_puts >= goal, 30)

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(30)


def interrupted(action: Callable[[], object], rng: np.random.Generator) -> None:
    """Repeats the action until an interrupt ends it, or has come where Python ignores it, as in a finaliser."""
    with contextlib.suppress(KeyboardInterrupt):
        try:
            signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(5e-5, 2e-3)))
            while signal.getitimer(signal.ITIMER_REAL)[0] > 0:
                action()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def drain(batches: Iterator[object], num: int) -> None:
    for _ in range(num):
        next(batches)


def overtaken(epochs: Iterator[object]) -> None:
    """Takes three batches of an epoch, whose rows the other thread may drop meanwhile."""
    with contextlib.suppress(OvertakenError):
        drain(epochs, 3)


def drawn(draw: Callable[[], object]) -> None:
    """Draws batches by priority, unless the puts of the other thread drop rows of each of 100 draws."""
    try:
        draw()
    except EmptyBufferError as error:
        if "expected rows that stay while a batch is copied" not in str(error):
            raise


METHODS: dict[str, Callable[[ReplayBuffer, str], object]] = {
    "sample": lambda buffer, path: drawn(lambda: buffer.sample(64)),
    "take": lambda buffer, path: buffer.take([0, 1]),
    "len": lambda buffer, path: len(buffer),
    "state_dict": lambda buffer, path: buffer.state_dict(),
    "load_state_dict": lambda buffer, path: buffer.load_state_dict(buffer.state_dict()),
    "batches": lambda buffer, path: drawn(lambda: drain(buffer.batches(8, prefetch=0), 3)),
    "put": lambda buffer, path: buffer.put({"x": [[0.0] * 16]}),
    "clear": lambda buffer, path: buffer.clear(),
    "open_reader": lambda buffer, path: buffer.open_reader(keeps=True).close(),
    "snapshot": lambda buffer, path: buffer.snapshot().__exit__(),
    "save": lambda buffer, path: buffer.save(path),
    "to_arrow": lambda buffer, path: buffer.to_arrow().schema,
    "memory": lambda buffer, path: buffer.memory(),
    "update_priorities": lambda buffer, path: buffer.update_priorities([len(buffer)], [1.0]),
    "pickling": lambda buffer, path: buffer.__reduce_ex__(5),
    "numbers": lambda buffer, path: buffer.numbers(),
    "update": lambda buffer, path: buffer.update(buffer.numbers([0]), {"x": np.ones((1, 16), np.float32)}),
    "remove": lambda buffer, path: buffer.remove(buffer.numbers([0])),
    "to_parquet": lambda buffer, path: buffer.to_parquet(f"{path}.parquet"),
    "verify": lambda buffer, path: buffer.verify(),
    "flush": lambda buffer, path: buffer.flush(),
    "check_open": lambda buffer, path: buffer.check_open("interrupt"),
    "load": lambda buffer, path: ReplayBuffer.load(f"{path}.whole"),
    "from_parquet": lambda buffer, path: ReplayBuffer.from_parquet(f"{path}.rows"),
    "epochs": lambda buffer, path: overtaken(buffer.epochs(500)),
    "mixture": lambda buffer, path: drawn(lambda: Mixture({buffer: 1.0}).sample(8)),
}
LOCKED_BY_OTHERS = {
    *("close", "dataset", "episodes", "from_arrow", "from_minari", "loaded", "open", "restore", "sample_indices"),
    "to_minari",
}
"""Methods that end or make the buffer, or read it through the methods above."""


ON_DISK = ("verify", "flush")


def test_each_public_method_is_interrupted():
    public = {name for name in dir(ReplayBuffer) if not name.startswith("_") and callable(getattr(ReplayBuffer, name))}
    assert public - LOCKED_BY_OTHERS <= METHODS.keys()


def fork() -> None:
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os._exit(0)
    os.waitpid(child, 0)


METHODS["fork"] = lambda buffer, path: fork()


def interrupt(names: list[str], times: int, folder: str) -> None:
    """Interrupts these methods in this process; exits with 0 if another thread goes on to put after each of them."""
    signal.signal(signal.SIGALRM, lambda number, frame: _thread.interrupt_main())
    for name in names:
        path = f"{folder}/{name}" if name in ON_DISK else None
        buffer, rng = ReplayBuffer(6000, seed=0, alpha=0.6, path=path), np.random.default_rng(0)
        buffer.put({"x": np.zeros((6000, 16), np.float32)})
        buffer.save(f"{folder}/saved.whole")
        buffer.to_parquet(f"{folder}/saved.rows")
        putter = Putter(buffer)
        for _ in range(times):
            interrupted(lambda: METHODS[name](buffer, f"{folder}/saved"), rng)  # noqa: B023
        if not putter.goes_on():
            print(name, "lost a lock", flush=True)
            os._exit(1)
        putter.stop()
        if left := [file for file in os.listdir(folder) if file.endswith(".partial")]:
            print(name, "left", left, flush=True)
            os._exit(1)
    os._exit(0)


def columns(kind: str, num: int) -> Any:
    numbers = np.arange(num)
    if kind == "frames":
        pictures = np.random.default_rng(0).integers(0, 255, (num + 3, 40, 40), np.uint8)
        return {"x": np.stack([pictures[at : at + 4] for at in range(num)]), "y": numbers}
    found = {"x": numbers.astype(np.float32), "y": numbers}
    if kind == "lists":
        return {key: values.tolist() for key, values in found.items()}
    return pa.RecordBatch.from_pydict(found) if kind == "Arrow" else found


@contextlib.contextmanager
def interrupted_at(place: int) -> Iterator[None]:
    """Raises KeyboardInterrupt at a line or call of the package, counted in this block."""
    left = place

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if "/really/" not in frame.f_code.co_filename:
            return None
        left -= event in ("line", "call")
        if left == 0:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


@pytest.mark.parametrize("kind", ["arrays", "lists", "Arrow", "frames"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_an_interrupt_of_a_put_leaves_all_of_its_rows_or_none(kind, on_disk, tmp_path, record_property):
    buffer = ReplayBuffer(900, seed=0, path=tmp_path / "rows" if on_disk else None)
    buffer.put(columns(kind, 30))
    for place in itertools.count(1):
        rows, before = columns(kind, 30), len(buffer)
        try:
            with interrupted_at(place):
                buffer.put(rows)
            break
        except KeyboardInterrupt:
            assert len(buffer) - before in (0, 30)
        if len(buffer) > 800:
            buffer.clear()
    # The ring takes arrays and frames without a line of Python.
    assert place == 1 if kind in ("arrays", "frames") else place > 2
    record_property("attacks", ("interrupts", place - 1, place - 1))
    buffer.close()


@pytest.mark.parametrize("times", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_an_interrupt_loses_no_lock(times, tmp_path, record_property):
    """In a process of its own: an interrupt of an import or a fork loses locks of the standard library."""
    script = f"from tests.replay import test_interrupts as t; t.interrupt([*t.METHODS], {times}, {str(tmp_path)!r})"
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    num = times * len(METHODS)
    record_property("attacks", ("interrupts", num, num if child.returncode == 0 else 0))
    assert child.returncode == 0, child.stdout + child.stderr[-2000:]
