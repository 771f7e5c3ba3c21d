"""Background collection: the buffer fills while the learner samples, within bounds, and errors reach the learner."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import ReallyError, SampleManager
from tests.environments import Counter, Raising, SlowAlone
from tests.models import QNet

pytestmark = pytest.mark.usefixtures("ray_runtime")


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def make(environment: Any = Counter, **changes: Any) -> SampleManager:
    given = {
        "num_parallel": 4,
        "total_steps": 100,
        "num_steps": 50,
        "action_sampling_type": "epsilon_greedy",
        **changes,
    }
    manager = SampleManager(QNet, environment, **given)
    manager.initialize_buffer(100_000, ["state", "state_new", "reward"])
    return manager


@pytest.mark.parametrize("use_ray", [True, False])
def test_the_buffer_fills_while_the_learner_samples(use_ray: bool) -> None:
    with make(use_ray=use_ray) as manager:
        with manager.collect_in_background(min_rows=500) as background:
            for _ in range(20):
                batch = manager.sample(64)
                np.testing.assert_array_equal(batch["state_new"], batch["state"] + 1)
            deadline = time.monotonic() + 30
            while background.rows < 20_000 and time.monotonic() < deadline:
                time.sleep(0.01)
        assert background.rows >= 20_000
        assert not background.running
        assert len(manager.buffer) == min(background.rows, 100_000)
        assert manager.info()["background_sampled"] == 20 * 64
        assert len(manager.get_data()["reward"]) >= 100, "the manager collects in the foreground again"


def test_the_rate_limiter_bounds_collection() -> None:
    with make() as manager:
        with manager.collect_in_background(samples_per_insert=1.0, min_rows=1000, error_buffer=1000) as background:
            manager.sample(100)
            time.sleep(1.0)
            rows = background.rows
            assert rows <= 2100 + 2 * 4096, "at most two chunks beyond the limit"
            time.sleep(0.5)
            assert background.rows == rows
            start = time.monotonic()
            for _ in range(300):
                manager.sample(100)
            assert background.rows >= 300 * 100 - 1000
            assert time.monotonic() - start < 60
        assert manager.info()["background_insert_blocked"] > 0


def test_settings_apply_to_later_chunks() -> None:
    with make(epsilon=1.0) as manager:
        manager.initialize_buffer(2000, ["action", "state"])
        agent = manager.get_agent()

        def is_greedy() -> bool:
            batch = manager.sample(1000)
            return np.array_equal(batch["action"], agent.act(batch["state"], greedy=True))

        with manager.collect_in_background(min_rows=2000):
            assert not is_greedy()
            manager.set_epsilon(0.0)
            # A runner that starts late has two chunks of the settings before, whatever others deliver meanwhile.
            wait_until(is_greedy)


def test_it_ends_after_max_rows() -> None:
    with make() as manager, manager.collect_in_background(max_rows=5000) as background:
        deadline = time.monotonic() + 30
        while background.running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not background.running
        assert 5000 <= background.rows <= 5000 + 4 * 4096


def test_only_one_at_a_time_collects() -> None:
    with make() as manager, manager.collect_in_background():
        for use in (manager.get_data, manager.collect, manager.collect_in_background):
            with pytest.raises(ReallyError, match=r"expected no collection in the background; call stop\(\)"):
                use()


def test_the_buffer_cannot_be_replaced_meanwhile() -> None:
    with make() as manager, manager.collect_in_background():
        buffer = manager.buffer
        with pytest.raises(ReallyError, match=r"initialize_buffer\(\): expected no collection in the background"):
            manager.initialize_buffer(10, ["state"])
        assert manager.buffer is buffer


def test_an_error_reaches_the_learner() -> None:
    with make(Raising, env_config={"at": 3}) as manager:
        background = manager.collect_in_background(min_rows=100_000)
        with pytest.raises(ReallyError, match=r"background collection ended with EnvironmentFailedError: .*OSError"):
            manager.sample(10)
        assert not background.running


def test_closing_the_manager_stops_it() -> None:
    manager = make()
    background = manager.collect_in_background()
    manager.close()
    assert not background.running


@pytest.mark.parametrize("use_ray", [True, False])
def test_a_deleted_manager_stops_it(use_ray: bool) -> None:
    manager = make(use_ray=use_ray, num_workers=1)
    manager.collect_in_background()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "really-background"]
    manager.sample(10)
    fleet = weakref.ref(manager._fleet)
    del manager
    # The thread may be the last to let go of the fleet, and closes the environments then.
    wait_until(lambda: gc.collect() >= 0 and fleet() is None and not thread.is_alive())


def test_an_environment_that_hangs_raises_in_the_learner(tmp_path: Path) -> None:
    token = tmp_path / "token"
    config = {"token": str(token), "seconds": 120}
    with make(SlowAlone, env_config=config, num_workers=1, remote_time_out=1.0) as manager:
        background = manager.collect_in_background()
        manager.sample(10)
        token.touch()
        wait_until(lambda: not background.running)
        with pytest.raises(ReallyError, match=r"(?s)RunnerTimeoutError: .* within 1.0 s, .*runner 0 .*'SlowAlone'"):
            manager.sample(10)


def test_a_chunk_that_hangs_at_the_end_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    token = tmp_path / "token"
    config = {"token": str(token), "seconds": 120}
    with make(SlowAlone, env_config=config, num_workers=1, remote_time_out=3.0) as manager:
        with manager.collect_in_background():
            manager.sample(10)
            token.touch()
            time.sleep(1.0)
        assert "remote_time_out: collection ends without late results: runner 0 (agents 0 to 3)" in caplog.text
        rows = len(manager.buffer)
        assert rows > 0


def test_closing_gives_up_a_chunk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("really.collectors.ray_fleet.RayFleet.end_patience", 1.0)
    token = tmp_path / "token"
    manager = make(SlowAlone, env_config={"token": str(token), "seconds": 120}, num_workers=1)
    background = manager.collect_in_background()
    manager.sample(10)
    token.touch()
    time.sleep(1.0)
    start = time.monotonic()
    manager.close()
    assert time.monotonic() - start < 60
    wait_until(lambda: not background.running)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples_per_insert": "two"}, "samples_per_insert: expected a number > 0, got 'two'"),
        ({"samples_per_insert": 0}, "samples_per_insert: expected a number > 0, got 0"),
        ({"error_buffer": 10}, "error_buffer: expected samples_per_insert with it, .* got 10 alone"),
        ({"samples_per_insert": 1, "error_buffer": -1}, "error_buffer: expected a number > 0, got -1"),
        ({"max_rows": 0}, "max_rows: expected an integer >= 1, got 0"),
        ({"min_rows": -1}, "min_rows: expected an integer >= 0, got -1"),
    ],
)
def test_invalid_arguments_raise(given: dict[str, Any], message: str) -> None:
    with make(use_ray=False) as manager:
        with pytest.raises(ReallyError, match=message):
            manager.collect_in_background(**given)
        assert len(manager.get_data()["reward"]) >= 100, "no background collection runs"
