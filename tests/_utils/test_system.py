"""Systems other than Linux: buffers in memory work there, and a buffer on disk says what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from really._utils import system

ROOT = Path(__file__).parents[2]

# Takes from this Python what Windows does not have, before anything of `really` is imported.
ELSEWHERE = """
import os, sys, gymnasium.vector, multiprocessing.connection, numpy as np
flags = ("O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY")
for name in ("posix_fallocate", "fchmod", "register_at_fork", "statvfs", "getuid", *flags):
    delattr(os, name)
for name in ("fcntl", "resource"):
    sys.modules[name] = None
sys.platform = "win32"
import really, really.checkpoints, really.manager
buffer = really.ReplayBuffer(100, alpha=0.6, seed=0)
buffer.put({"state": np.ones((20, 3), np.float32), "reward": np.arange(20.0)})
assert buffer.sample(8)["state"].shape == (8, 3)
for path in ("new", "new/below"):
    try:
        really.ReplayBuffer(100, path=os.path.join(sys.argv[1], path)).put({"x": [1.0]})
    except really.InvalidValueError as error:
        print(error)
"""


def test_other_systems_have_buffers_in_memory_and_refuse_those_on_disk(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    first, second = done.stdout.splitlines()
    expected = (
        "expected a system with flock and posix_fallocate, such as Linux, got win32; a buffer without path= is in"
    )
    assert first.startswith(f"{tmp_path / 'new'}")
    assert expected in first
    assert expected in second
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_refused_to_others_until_it_is_released(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    one, two = (os.open(file, os.O_RDWR) for _ in range(2))
    try:
        system.lock(one, wait=False)
        with pytest.raises(BlockingIOError):
            system.lock(two, wait=False)
        system.unlock(one)
        system.lock(two, wait=True)
    finally:
        os.close(one)
        os.close(two)


def test_only_these_modules_use_what_not_every_system_has() -> None:
    own = re.compile(r"\b(fcntl|posix_fallocate|O_DIRECTORY|O_NONBLOCK|O_CLOEXEC)\b")
    users = {path.name for path in ROOT.glob("really/**/*.py") if own.search(path.read_text())}
    assert users == {"system.py"}
