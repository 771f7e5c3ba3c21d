"""The kernels give the same bytes with the instructions and the cache of every processor, and name those they lack."""

import os
import subprocess
import sys

import pytest

from really.replay.engine import CPU_LEVEL, CPU_LEVELS
from tests.test_seeded_runs import HASHES

# Runs that reach every kernel: narrow and long rows, frames along both axes, shared or not, batches past the cache,
# draws by half-life, of rows that are left after others were removed, and of windows.
FRAMES = ("stacked_frames", "frames_of_the_last_axis", "shuffled_frames")
RUNS = ("many_dtypes", *FRAMES, "past_the_cache", "half_life", "removed_rows", "windows")
ALL = ("plain", "sse2", "avx2", "avx512", "neon")

WITH_A_CACHE = """
import runpy, sys
from really.replay import engine
engine.use_level(engine.CPU_LEVELS.index(engine.CPU_LEVEL), int(sys.argv.pop(1)))
runpy.run_module("tests.seeded_runs", run_name="__main__")
"""


def at_level(level, *command):
    """What a process prints whose kernels are forced to a level: (exit code, output, errors)."""
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, "REALLY_CPU": level}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_levels_begin_with_plain_c_and_end_with_the_one_that_is_used():
    assert CPU_LEVELS[0] == "plain"
    assert set(CPU_LEVELS) <= set(ALL)
    assert (os.environ.get("REALLY_CPU") or CPU_LEVELS[-1]) == CPU_LEVEL


@pytest.mark.parametrize("level", [level for level in ALL if level in CPU_LEVELS])
def test_every_level_gives_the_same_bytes(level):
    code, output, errors = at_level(level, "-m", "tests.seeded_runs", *RUNS)
    assert code == 0, errors
    assert dict(line.split() for line in output.splitlines()) == {name: HASHES[name] for name in RUNS}


@pytest.mark.parametrize("nbytes", [1 << 18, 1 << 22])
def test_every_size_of_the_cache_gives_the_same_bytes(nbytes):
    code, output, errors = at_level(CPU_LEVEL, "-c", WITH_A_CACHE, str(nbytes), *RUNS)
    assert code == 0, errors
    assert dict(line.split() for line in output.splitlines()) == {name: HASHES[name] for name in RUNS}


@pytest.mark.parametrize("level", ["fast", *(level for level in ALL if level not in CPU_LEVELS)])
def test_a_level_that_the_processor_lacks_is_refused(level):
    code, _, errors = at_level(level, "-c", "from really import ReplayBuffer")
    *_, last = errors.strip().splitlines()
    assert code == 1
    assert last.startswith("really.errors.InvalidValueError: REALLY_CPU, the instructions of this processor: expected ")
    assert all(repr(known) in last for known in CPU_LEVELS)
    assert repr(level) in last


def test_an_empty_level_is_none():
    code, output, errors = at_level("", "-c", "from really.replay.engine import CPU_LEVEL; print(CPU_LEVEL)")
    assert (code, output.strip()) == (0, CPU_LEVELS[-1]), errors
