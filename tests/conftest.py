"""Fixtures of all tests: one Ray runtime for the session, and quiet, single-threaded TensorFlow.

`make test` runs two processes (pytest-xdist). One of them runs every test that starts Ray, so that one Ray runtime and
one look at /dev/shm serve them all; the other files are shared out whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.scripts import LongDay, run_long_day, shared_files

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

NUM_CPUS = 2
TESTS = Path(__file__).parent
STARTS_RAY = {"ray_runtime", "long_day"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Puts each file's tests into one group for pytest-xdist, and those of all files that start Ray into `ray`.

    A test that starts Ray in a process of its own says so: `pytest.mark.xdist_group("ray")`.
    """
    with_ray = {item.path for item in items if STARTS_RAY & set(item.fixturenames)}
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(
                pytest.mark.xdist_group("ray" if item.path in with_ray else str(item.path.relative_to(TESTS)))
            )


@pytest.fixture(scope="session")
def ray_runtime(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray on this machine. It is shut down at the end, and its files in /dev/shm must then be gone."""
    import ray

    # Otherwise each process of pytest-xdist has a Ray runtime, and the two share two CPUs.
    grouped = request.config.getoption("loadgroup", False)
    assert not grouped or all("@" in item.nodeid for item in request.session.items), (
        f"pytest-xdist {version('pytest-xdist')} cannot group the tests of pytest {version('pytest')}"
    )
    before = shared_files()
    ray.init("local", num_cpus=NUM_CPUS, include_dashboard=False, log_to_driver=False, object_store_memory=512 << 20)
    yield
    ray.shutdown()
    deadline = time.monotonic() + 10
    while (left := shared_files() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"left behind in shared memory: {left}"


@pytest.fixture(scope="session")
def long_day() -> LongDay:
    """The result of a user's script that meets every kind of fault: its output, and what it left behind."""
    day = run_long_day()
    # Ray ends a driver whose raylet has died, which happens on a busy machine.
    return run_long_day() if "The program will terminate" in day.done.stderr else day
