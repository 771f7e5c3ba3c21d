"""File handles and mappings of buffers on disk: none is left. A process without handles gets a FileError."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import FileError, InvalidFileError
from tests.fuzzing import folder_in_memory

NUM = 30


def rows(first: int = 0, num: int = NUM) -> dict[str, np.ndarray]:
    """Rows that share frames, and whose action is their number."""
    frames = np.random.default_rng(first).integers(0, 255, (num + 4, 24, 24), np.uint8)
    stacks = np.stack([frames[at : at + 4] for at in range(num + 1)])
    return {"state": stacks[:-1], "action": np.arange(first, first + num), "state_new": stacks[1:]}


def made(place: Path) -> Path:
    with ReplayBuffer(NUM, path=place / "b", spare=10, seed=0, alpha=0.6) as buffer:
        buffer.put(rows())
    return place / "b"


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path)


def held_by_process(folder: Path) -> tuple[int, int]:
    """Handles of the process, and its mappings of files in the folder."""
    gc.collect()
    with open("/proc/self/maps") as maps:
        return len(os.listdir("/proc/self/fd")), sum(str(folder) in line for line in maps)


def opened_and_read(folder: Path) -> None:
    with ReplayBuffer.open(folder) as buffer:
        buffer.sample(4)
        buffer.verify()


def opened_and_written(folder: Path) -> None:
    with ReplayBuffer.open(folder, "r+") as buffer:
        buffer.put(rows(NUM, 3))


def dropped(folder: Path) -> None:
    ReplayBuffer.open(folder, "r+").sample(4)


def saved(folder: Path) -> None:
    with ReplayBuffer.open(folder) as buffer:
        buffer.save(folder.parent / "saved")
    ReplayBuffer.load(folder.parent / "saved")
    buffer = ReplayBuffer.from_parquet(to_parquet(folder))
    buffer.sample(3)


def to_parquet(folder: Path) -> Path:
    with ReplayBuffer.open(folder) as buffer:
        buffer.to_parquet(folder.parent / "rows.parquet")
    return folder.parent / "rows.parquet"


def refused(folder: Path) -> None:
    (folder.parent / "none").mkdir(exist_ok=True)
    for path in (folder.parent / "none", folder / "records"):
        with pytest.raises(ValueError, match="expected the folder of a buffer"):
            ReplayBuffer.open(path)
    content = (folder / "cursor").read_bytes()
    (folder / "cursor").write_bytes(b"x" * 4096)
    for mode in ("r", "r+"):
        with pytest.raises(InvalidFileError):
            ReplayBuffer.open(folder, mode)
    (folder / "cursor").write_bytes(content)


ACTIONS = (opened_and_read, opened_and_written, dropped, saved, refused)


@pytest.mark.parametrize("times", [8, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("action", ACTIONS)
def test_no_handle_and_no_mapping_is_left(action, times, record_property, tmp_path):
    """In memory, where an action does not wait for a disk."""
    with folder_in_memory(tmp_path) as place:
        folder = made(place)
        for _ in range(3):
            action(folder)
        before = held_by_process(folder)
        for _ in range(times):
            action(folder)
        after = held_by_process(folder)
    record_property("attacks", ("handles and mappings left", times, times if after == before else 0))
    assert after == before


@contextlib.contextmanager
def few_handles(number: int) -> Iterator[None]:
    """Leaves the process so many more handles until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [handle for handle in range(max(used) + number + 2) if handle not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[number], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def refusal(action: Callable[[Path], None], folder: Path, number: int) -> FileError | None:
    """The error of an action with so many handles; None if they are enough."""
    try:
        with few_handles(number):
            action(folder)
    except FileError as error:
        return error
    return None


@pytest.mark.parametrize("action", [opened_and_read, opened_and_written, saved])
def test_a_process_without_handles_gets_a_file_error_and_goes_on_later(folder, action):
    """Whichever handle is the first that it does not get."""
    action(folder)  # imports what it needs
    before, fewest = held_by_process(folder), 0
    while (error := refusal(action, folder, fewest)) is not None:
        assert str(folder.parent) in str(error)
        fewest += 1
    assert 2 <= fewest < 20
    assert held_by_process(folder) == before
    with ReplayBuffer.open(folder) as buffer:
        assert buffer.verify().is_whole


def in_another_process(buffer: ReplayBuffer, path: Path | None, answer: Any) -> None:
    found = buffer.take(np.arange(len(buffer)))
    in_order = np.array_equal(found["action"], found["action"][0] + np.arange(len(buffer)))
    answer.put((in_order, len(buffer), buffer.path))
    buffer.close()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pickles_of_other_start_methods_hold_rows_of_one_moment_while_a_thread_puts(folder, method):
    """The pickle of a writer is a copy in memory, that of a reader opens the folder."""
    context = multiprocessing.get_context(method)
    with ReplayBuffer.open(folder, "r+") as writer, ReplayBuffer.open(folder) as reader:
        done = threading.Event()

        def put() -> None:
            first = NUM
            while not done.is_set():
                writer.put(rows(first, 5))
                first += 5

        putting = threading.Thread(target=put)
        putting.start()
        try:
            for buffer, path in ((writer, None), (reader, folder)):
                answers = context.SimpleQueue()
                child = context.Process(target=in_another_process, args=(buffer, path, answers))
                child.start()
                assert answers.get() == (True, NUM, path)
                child.join()
                assert child.exitcode == 0
        finally:
            done.set()
            putting.join()
        assert len(writer) == NUM
