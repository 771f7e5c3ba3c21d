"""Priorities on disk: `flush`, `close` and a process's end write them, opening continues them, damage is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import FileError, InvalidValueError, NotEnoughMemoryError

ALPHA = 0.7
WRITER = """
import os, signal, sys
import numpy as np
from really import ReplayBuffer

buffer = ReplayBuffer(50, alpha=0.7, path=sys.argv[1], seed=3)
buffer.put({"number": np.arange(40)})
buffer.update_priorities(np.arange(40), np.arange(40.0))
"""


def made(path: Path, capacity: int = 50, **options) -> ReplayBuffer:
    return ReplayBuffer(capacity, path=path, **{"alpha": ALPHA, "seed": 3, **options})


def filled(path: Path, num: int = 40) -> ReplayBuffer:
    """Row r has priority r."""
    buffer = made(path)
    for first in range(0, num, 25):
        buffer.put({"number": np.arange(first, min(first + 25, num))})
    buffer.update_priorities(np.arange(num), np.arange(float(num)))
    return buffer


def values(buffer: ReplayBuffer) -> np.ndarray:
    """(priority + eps)^alpha of the rows held."""
    return buffer.sampler.priorities_of(buffer._ring, *buffer._ring.held_rows())["values"]


def run(path: Path, then: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run([sys.executable, "-c", WRITER + then, str(path)], env=environment, timeout=120).returncode


def expected(priorities: np.ndarray) -> np.ndarray:
    return (priorities + 1e-6) ** ALPHA


@pytest.mark.parametrize("num", [0, 1, 40, 50, 125])
def test_it_goes_on_as_if_it_had_not_been_closed(tmp_path, num):
    twin = filled(tmp_path / "twin", num) if num else made(tmp_path / "twin", spec={"number": np.int64})
    with filled(tmp_path / "buffer", num) if num else made(tmp_path / "buffer", spec={"number": np.int64}) as buffer:
        assert buffer.is_prioritized
    for opening in (made, lambda path: ReplayBuffer.open(path, "r+")):
        again = opening(tmp_path / "buffer")
        np.testing.assert_array_equal(values(again), values(twin))
        for one in (again, twin):
            one.put({"number": np.arange(1000, 1010)})
        for _ in range(20):
            got, wanted = again.sample(16, beta=0.5), twin.sample(16, beta=0.5)
            assert got.keys() == wanted.keys()
            for key, column in got.items():
                np.testing.assert_array_equal(column, wanted[key])
        again.close()


def test_a_killed_process_leaves_those_of_its_last_flush(tmp_path):
    then = """
buffer.flush()
buffer.put({"number": np.arange(40, 60)})
buffer.update_priorities(np.arange(30, 60), np.full(30, 1000.0))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(tmp_path / "buffer", then) == -signal.SIGKILL
    buffer = made(tmp_path / "buffer")
    assert len(buffer) == 50  # rows 10 to 59
    np.testing.assert_allclose(values(buffer), expected(np.r_[10:40, np.full(20, 39)].astype(float)))
    assert set(buffer.sample(4096)["index"].tolist()) <= {*range(10, 60)}


@pytest.mark.parametrize("then", ["", "del buffer\n", "sys.exit(0)\n"], ids=["end", "dropped", "exit"])
def test_a_process_that_ends_keeps_them(tmp_path, then):
    assert run(tmp_path / "buffer", then) == 0
    np.testing.assert_allclose(values(made(tmp_path / "buffer")), expected(np.arange(40.0)))


def test_a_forked_process_leaves_them_to_the_one_that_writes(tmp_path):
    buffer = filled(tmp_path / "buffer")
    child = os.fork()
    if child == 0:
        buffer.update_priorities([0], [1e6])
        buffer.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with ReplayBuffer.open(tmp_path / "buffer") as reader:
        np.testing.assert_allclose(values(reader), expected(np.ones(40)))  # as when it was made: nobody has flushed
    buffer.flush()
    with ReplayBuffer.open(tmp_path / "buffer") as reader:
        np.testing.assert_allclose(values(reader), expected(np.arange(40.0)))


def test_a_reader_draws_by_priority_with_a_generator_of_its_own(tmp_path):
    buffer = filled(tmp_path / "buffer")
    buffer.flush()
    one, same, other = (ReplayBuffer.open(tmp_path / "buffer", seed=seed) for seed in (1, 1, 2))
    first = one.sample(64)
    np.testing.assert_array_equal(first["index"], same.sample(64)["index"])
    assert (first["index"] != other.sample(64)["index"]).any()
    assert first["index"].mean() > 22  # 26 by priority, 19.5 if drawn evenly
    one.update_priorities([3], [50.0])  # of its own copy
    one.close()
    np.testing.assert_allclose(values(ReplayBuffer.open(tmp_path / "buffer")), expected(np.arange(40.0)))


def test_a_uniform_buffer_becomes_one_that_draws_by_priority(tmp_path):
    with ReplayBuffer(50, path=tmp_path / "buffer") as uniform:
        uniform.put({"number": np.arange(40)})
    with made(tmp_path / "buffer") as buffer:
        np.testing.assert_allclose(values(buffer), expected(np.ones(40)))
    assert ReplayBuffer.open(tmp_path / "buffer").is_prioritized


def test_what_is_left_of_a_buffer_that_was_not_made_is_nothing(tmp_path):
    made(tmp_path / "buffer").close()  # without a schema
    assert [file.name for file in (tmp_path / "buffer").iterdir() if file.name == "priorities"] == ["priorities"]
    with ReplayBuffer(50, path=tmp_path / "buffer") as uniform:
        uniform.put({"number": np.arange(4)})
    assert not ReplayBuffer.open(tmp_path / "buffer").is_prioritized


def test_a_kill_that_cuts_the_writing_of_them_leaves_nothing_for_long(tmp_path):
    folder, part = tmp_path / "buffer", ".priorities.abc.partial"
    folder.mkdir()
    (folder / part).write_bytes(b"ARROW1")  # the folder's creation was cut there
    filled(folder).close()
    assert not (folder / part).exists()
    (folder / part).write_bytes(b"ARROW1")
    assert ReplayBuffer.open(folder).is_prioritized
    assert (folder / part).exists()  # it may be the one that another process is writing
    ReplayBuffer.open(folder, "r+").close()
    assert not (folder / part).exists()


def test_a_file_that_is_gone_is_missed(tmp_path):
    filled(tmp_path / "buffer").close()
    (tmp_path / "buffer" / "priorities").unlink()
    for opening in (made, ReplayBuffer.open, lambda path: ReplayBuffer.open(path, "r+")):
        with pytest.raises(InvalidValueError, match=r"priorities: expected the priorities .* got no such file"):
            opening(tmp_path / "buffer")


def test_their_memory_counts_on_disk_too(tmp_path):
    spec = {"x": np.bool_}
    with pytest.raises(
        NotEnoughMemoryError, match=r"priorities of 400,000,000,000 rows: needs [0-9,]+ bytes, available"
    ):
        ReplayBuffer(4 * 10**11, spec=spec, alpha=ALPHA, path=tmp_path / "buffer")
    assert not (tmp_path / "buffer").exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def damage(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    at = raw.index(np.float64(values_of_seven()).tobytes())
    raw[at] ^= 1
    file.write_bytes(raw)


def values_of_seven() -> float:
    return float(expected(np.float64(7.0)))


def replace(file: Path) -> None:
    file.write_text("something else")


@pytest.mark.parametrize(
    ("harm", "message"), [(cut, "are whole"), (damage, "got damaged ones"), (replace, "starts with b'somethin'")]
)
def test_a_damaged_file_is_refused(tmp_path, harm, message):
    filled(tmp_path / "buffer").close()
    file = tmp_path / "buffer" / "priorities"
    harm(file)
    harmed = file.read_bytes()
    for opening in (made, ReplayBuffer.open, lambda path: ReplayBuffer.open(path, "r+")):
        with pytest.raises(InvalidValueError, match=f"priorities: expected the priorities of a buffer.*{message}"):
            opening(tmp_path / "buffer")
        assert file.read_bytes() == harmed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.5}, "alpha: expected 0.7, as the buffer at .* has, got 0.5"),
        ({"alpha": None}, "alpha: expected 0.7, as the buffer at .* has, got None"),
        ({"eps": 0.1}, "eps: expected 1e-06, as the buffer at .* has, got 0.1"),
    ],
)
def test_another_way_of_drawing_is_refused(tmp_path, options, message):
    filled(tmp_path / "buffer").close()
    with pytest.raises(InvalidValueError, match=message):
        made(tmp_path / "buffer", **options)
    np.testing.assert_allclose(values(made(tmp_path / "buffer")), expected(np.arange(40.0)))


def test_where_they_cannot_be_written_it_is_said_and_the_folder_is_let_go(tmp_path):
    buffer = filled(tmp_path / "buffer")
    buffer.flush()
    file = tmp_path / "buffer" / "priorities"
    file.rename(tmp_path / "kept")
    file.mkdir()
    with pytest.raises((FileError, InvalidValueError), match="priorities"):
        buffer.close()
    file.rmdir()
    (tmp_path / "kept").rename(file)
    assert len(made(tmp_path / "buffer")) == 40
