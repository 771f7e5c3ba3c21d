"""A folder that is moved, removed or replaced while its buffer is open: an error or a warning, no file of another's.

The programs run in processes of their own, which end in the ordinary way: what Python would print then is seen, too.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from really import FileError, ReplayBuffer

CALLS = ("flush", "verify", "remove", "checkpoint", "return", "close")
PROGRAM = """
import shutil, sys
from pathlib import Path
import numpy as np
from really import ReplayBuffer
from really.errors import FileError

folder, what, *calls = sys.argv[1:]


def filled(path, first):
    buffer = ReplayBuffer(100, path=path, alpha=0.6, spare=10)
    buffer.put({"x": np.arange(first, first + 50)})
    return buffer


def moved(name):
    place = Path(folder) / name
    buffer, saved = filled(place / "ring", 0), None
    buffer.update_priorities(np.arange(50), np.linspace(1, 1000, 50))
    buffer.flush()
    buffer.put({"x": np.arange(50, 60)})
    if name == "return":
        saved = buffer.moments.take(buffer.state_dict())
    (place / "ring").rename(place / "moved")
    if what == "removed":
        shutil.rmtree(place / "moved")
    if what == "replaced":
        filled(place / "ring", 1000).close()
    return buffer, {
        "flush": lambda: buffer.flush(),
        "verify": lambda: buffer.verify(),
        "remove": lambda: buffer.remove([0]),
        "checkpoint": lambda: buffer.moments.take(buffer.state_dict()),
        "return": lambda: buffer.moments.roll_back(saved),
        "close": lambda: buffer.close(),
    }.get(name)


for name in calls:
    buffer, call = moved(name)
    try:
        call()
        print(name, "no error")
    except FileError as error:
        print(name, error)
    del buffer, call
buffer, call = moved("drop")
del buffer, call
kept = moved("exit")
"""


@pytest.mark.parametrize(
    ("what", "got"), [("moved", "nothing"), ("removed", "nothing"), ("replaced", "another folder")]
)
def test_nothing_is_written_to_the_path_of_a_folder_that_was_moved(what, got, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), what, *CALLS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said, told = done.stdout.splitlines(), done.stderr.splitlines()
    for name, line in zip(CALLS, said, strict=True):
        assert f"{name}/ring: expected the folder of the buffer that is open, got {got}: it was moved" in line
    # A buffer that is dropped tells once what it cannot write, and no traceback.
    assert all("ring: expected the folder of the buffer that is open" in line for line in told), done.stderr
    assert [line.split("/ring:")[0].rpartition("/")[2] for line in told] == [*CALLS[:-1], "drop", "exit"]
    for name in (*CALLS, "drop", "exit"):
        if what != "removed":
            with ReplayBuffer.open(tmp_path / name / "moved") as buffer:
                assert buffer.take(np.arange(60))["x"].tolist() == list(range(60))
                assert buffer.verify().is_whole
        if what == "replaced":
            with ReplayBuffer.open(tmp_path / name / "ring", "r+") as buffer:
                assert buffer.take(np.arange(50))["x"].tolist() == list(range(1000, 1050))
                assert len(buffer.verify().unchecked) == 0
                assert np.unique(buffer.sample(64)["weight"]).tolist() == [1], "new rows have one priority"


def test_the_first_rows_do_not_go_to_the_folder_of_another_buffer(tmp_path):
    buffer = ReplayBuffer(100, path=tmp_path / "ring")
    (tmp_path / "ring").rename(tmp_path / "moved")
    with ReplayBuffer(100, path=tmp_path / "ring") as new:
        new.put({"x": np.arange(50)})
        with pytest.raises(FileError, match="ring: expected the folder of the buffer that is open, got another folder"):
            buffer.put({"x": np.arange(7)})
        assert new.take(np.arange(50))["x"].tolist() == list(range(50))
    with ReplayBuffer.open(tmp_path / "ring") as new:
        assert new.verify().is_whole
