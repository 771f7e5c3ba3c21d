"""Files that another program cuts short while a buffer is open: flush, verify and close raise, and nothing crashes.

To read rows that are gone ends the process, as with any mapped file, so each buffer is in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
import numpy as np
from really import ReplayBuffer
from really.errors import FileError
folder, mode, *names = sys.argv[1:]
frames = np.random.default_rng(0).integers(0, 255, (64, 24, 24), np.uint8)
stacks = np.stack([frames[at : at + 4] for at in range(60)])
for name in names:
    for length in (0, 5000):
        path = f"{folder}/{name} {length}"
        buffer = ReplayBuffer(60, path=path, spare=10, alpha=0.6)
        buffer.put({"state": stacks[:-1], "state_new": stacks[1:], "a": np.arange(59)})
        if mode == "r":
            buffer.close()
            buffer = ReplayBuffer.open(path)
        if os.path.getsize(f"{path}/{name}") <= length:
            continue
        os.truncate(f"{path}/{name}", length)
        if mode == "exit":
            kept = buffer
            continue
        for call in (buffer.verify, buffer.close) if mode == "r" else (buffer.verify, buffer.flush, buffer.close):
            try:
                call()
                print("no error", name, length, call)
            except FileError as error:
                assert f"{name}: expected" in str(error) and "cut it short" in str(error), error
        try:
            ReplayBuffer.open(path, "r+")
            print("opened", name, length)
        except FileError as error:
            assert name in str(error), error
print("survived")
"""


@pytest.mark.parametrize("mode", ["r+", "r", "exit"])
def test_a_file_that_is_cut_short_under_an_open_buffer_is_an_error_of_its_next_call(mode, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), mode, "cursor", "records", "frames.0.table"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (child.returncode, child.stdout.splitlines()[-1:]) == (0, ["survived"]), child.stderr[-2000:]
    assert child.stdout == "survived\n"
