"""A process that writes a buffer on disk is killed at any instant: no acknowledged row is lost, no row is torn."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from really import ReplayBuffer
from tests.disk_writer import SPEC, torn
from tests.sanitize import pytest_of

WRITER = Path(__file__).parents[2] / "disk_writer.py"
CAPACITY, SPARE = 3000, 400
RECORD = 48  # bytes that the writer says at a time


def killed(folder, seed, seconds, after):
    """The output of a writer that is killed `seconds` after its record number `after`, which counts from 1."""
    command = [sys.executable, str(WRITER), str(folder), str(CAPACITY), str(SPARE), str(seed)]
    # Unbuffered: `communicate` would not see what a buffer has read ahead, and the last records would be lost.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        said = b""
        while len(said) < RECORD * after and (more := process.stdout.read(RECORD * after - len(said))):
            said += more
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass  # a sleep ends some 0.1 ms late, and a file is made in that time
        process.kill()
        rest, errors = process.communicate()
    assert process.returncode == -9, errors.decode()
    return said + rest


def check(folder, said, num_before):
    """Opens what a killed process left: no acknowledged row is lost, no row is torn. Returns how many have been put."""
    records = [said[at : at + RECORD] for at in range(0, len(said), RECORD)]
    acknowledged = max(num_before, *(int(np.frombuffer(record[:8], np.int64)[0]) for record in records))
    with ReplayBuffer(CAPACITY, spec=SPEC, path=folder, spare=SPARE) as buffer:
        num_put = buffer._ring.num_put
        assert num_put >= acknowledged
        assert len(buffer) == min(num_put, CAPACITY)
        if num_put:
            batch = buffer.take(np.arange(len(buffer)))
            assert not torn(batch).any(), f"{torn(batch).sum()} torn rows"
            assert batch["number"].tolist() == list(range(num_put - len(buffer), num_put))
        if len(records) > 1:
            assert_generator(buffer._ring.generator_bytes(), records[-1][8:])
    return num_put


def assert_generator(kept, said):
    """The generator is at the last record, or one batch of 16 rows (two per draw) further, and not torn."""
    further = np.random.SFC64(0)
    words = np.frombuffer(said[:32], np.uint64).copy()
    further.state = {"bit_generator": "SFC64", "state": {"state": words}, "has_uint32": 0, "uinteger": 0}
    reachable = [said[:32]]
    for _ in range(12):  # a draw is thrown away once in a million
        further.random_raw()
        reachable.append(further.state["state"]["state"].tobytes())
    assert kept[:32] in (reachable[0], *reachable[8:])


def survive(folder, kills, seed):
    """Kills writers of one folder, every fourth one while it opens the folder; returns how many rows all have put."""
    draw = np.random.default_rng(seed)
    num_put = 0
    for life in range(kills):
        after, seconds = (1, draw.uniform(0, 2e-3)) if life % 4 == 0 else (2, draw.uniform(0, 0.03))
        num_put = check(folder, killed(folder, seed + life, seconds, after), num_put)
    return num_put


def test_killed_at_any_instant(tmp_path):
    assert survive(tmp_path / "buffer", kills=int(os.environ.get("KILLS", "24")), seed=1) > CAPACITY + SPARE


def test_killed_while_the_folder_is_made(tmp_path):
    draw, cut = np.random.default_rng(2), 0
    for life in range(200):
        folder = tmp_path / str(life)
        said = killed(folder, life, draw.uniform(0, 2e-3), after=1)
        cut += folder.exists() and not (folder / "schema.json").exists()
        check(folder, said, 0)
        if cut == 4:
            break
    assert cut == 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_length(tmp_path):
    for seed in range(10):
        survive(tmp_path / str(seed), kills=40, seed=1000 * seed)


@pytest.mark.slow
def test_a_commit_before_the_rows_is_found(tmp_path, monkeypatch):
    """On a busy machine 24 kills may miss the moment; the first that finds it ends the test."""
    monkeypatch.setenv("KILLS", "96")
    said = pytest_of(tmp_path, "disk_kills", "any_instant", REALLY_EARLY_COMMIT="1")
    assert "1 failed" in said
    assert "torn rows" in said
