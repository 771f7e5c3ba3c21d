"""What runners hold of the Ray cluster: no manager waits for another one, and what is not there is said."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from really import InvalidTypeError, InvalidValueError, SampleManager
from really._ray import reservations, runtime
from really._ray.placement import Placement
from tests.environments import Counter
from tests.models import QNet


def make(**changes: Any) -> SampleManager:
    return SampleManager(QNet, Counter, 2, 20, **{"num_steps": 10, **changes})


@pytest.mark.usefixtures("ray_runtime")
def test_managers_that_start_in_threads_at_the_same_moment_share_the_cpus(caplog: pytest.LogCaptureFixture) -> None:
    together = threading.Barrier(2, timeout=120)
    counts: list[int] = []

    def play() -> None:
        together.wait()
        with make(num_workers=1) as manager:
            assert len(manager.get_data()["reward"]) == 20
            counts.append(len(manager.info()["runners"]))
            together.wait()

    threads = [threading.Thread(target=play) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1, 1]
    assert "wanted for runners" not in caplog.text


@pytest.mark.usefixtures("ray_runtime")
def test_cpus_that_another_program_takes_first_are_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    session = runtime.start()
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline
    # Ray's count still has these CPUs for a moment, as it does if two drivers start at the same time.
    other = ray.util.placement_group([{"CPU": 1}] * 2)
    assert other.wait(20)
    try:
        found = reservations.reserve(session, 2, {})
        assert found.group is None
        assert found.options(0, Placement(), restart=False)["num_cpus"] == 0
        assert "CPUs" in caplog.text
        found.release()
    finally:
        ray.util.remove_placement_group(other)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_runtime")
def test_managers_that_start_in_tasks_at_the_same_moment_do_not_wait_for_each_other(tmp_path: Path) -> None:
    given = {"environment": Counter, "num_parallel": 2, "total_steps": 20, "num_steps": 10, "num_workers": 2}

    @ray.remote(num_cpus=0)
    def play(number: int) -> int:
        with SampleManager(QNet, **given) as manager:
            rows = len(manager.get_data()["reward"])
            (tmp_path / str(number)).touch()
            deadline = time.monotonic() + 100
            while len(list(tmp_path.iterdir())) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        return rows

    assert ray.get([play.remote(number) for number in range(2)]) == [20, 20]


@pytest.mark.usefixtures("ray_runtime")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_gpus": 0.5}, "num_gpus: expected 0.5 GPU to be free for a runner, got a cluster with 0 GPU, of which 0"),
        ({"resources": {"licence": 2}}, "resources: expected 2 licence to be free for a runner, got a cluster with 0"),
        ({"runtime_env": {"env_vars": 3}}, "runtime_env: expected a runtime environment of Ray, got {'env_vars': 3}"),
    ],
)
def test_resources_that_are_not_there_are_an_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        make(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_gpus": -1}, "num_gpus: expected a finite number >= 0, got -1"),
        ({"num_gpus": 1.5}, "num_gpus: expected a number up to 1, or a whole number, got 1.5"),
        ({"num_gpus": "one"}, "num_gpus: expected a finite number >= 0, got 'one'"),
        ({"resources": {"CPU": 2}}, "resources: expected names of custom resources, got 'CPU'; a process has one CPU"),
        ({"resources": {"licence": -1}}, r"resources\['licence'\]: expected a finite number >= 0, got -1"),
        ({"resources": ["licence"]}, r"resources: expected a dict or None, got \['licence'\]"),
        ({"runtime_env": "here"}, "runtime_env: expected a dict or None, got 'here'"),
        ({"num_gpus": 1, "use_ray": False}, "num_gpus: expected runners in processes of Ray, got num_gpus=1 with use_"),
        ({"resources": {"a": 1}, "use_ray": False}, "resources: expected runners in processes of Ray, got resources="),
        ({"runtime_env": {"env_vars": {}}, "use_ray": False}, "runtime_env: expected runners in processes of Ray, got"),
    ],
)
def test_invalid_resources_are_an_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        make(**given)


@pytest.mark.usefixtures("ray_runtime")
def test_a_runner_whose_cpu_is_gone_starts_without_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the loss of a node with its CPUs, while another program holds the remaining ones."""
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline
    other = ray.util.placement_group([{"CPU": 1}] * 2)
    assert other.wait(20)

    def waiting(reservation: reservations.Reservation) -> bool:
        reservation.group = ray.util.placement_group([{"CPU": 1}] * reservation.count)
        return True

    monkeypatch.setattr(reservations, "_fitting", lambda session, needs: 1)
    monkeypatch.setattr(reservations, "_grant", waiting)
    monkeypatch.setattr("really.collectors.ray_fleet.CPU_PATIENCE", 1.0)
    try:
        with make(num_workers=1) as manager:
            assert len(manager.get_data()["reward"]) == 20
    finally:
        ray.util.remove_placement_group(other)
    assert "runner 0 (agents 0 to 1): expected a CPU within 1 s, got none: starting without a CPU" in caplog.text
