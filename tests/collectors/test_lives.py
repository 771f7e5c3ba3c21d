"""The life of environments: thread, end and interruption are the same in runners' processes as in this one."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import SampleManager
from really.collectors.side_channel import SideChannel, ask
from tests.environments import Tenant
from tests.models import QNet


def make(folder: Path, **changes: Any) -> SampleManager:
    given = {"num_parallel": 3, "total_steps": 60, "num_steps": 20, "returns": ["agent"], **changes}
    config = {"folder": str(folder), **given.pop("env_config", {})}
    return SampleManager(QNet, Tenant, env_config=config, **given)


def steps_made(folder: Path) -> list[int]:
    """The numbers of steps that closed environments made; those of environments that only were inspected are left."""
    return sorted(count for file in folder.iterdir() if (count := int(file.read_text())))


@pytest.mark.usefixtures("ray_runtime")
@pytest.mark.parametrize("use_ray", [True, False])
def test_environments_work_in_the_main_thread_and_are_closed_with_their_manager(use_ray: bool, tmp_path: Path) -> None:
    """An error of `close` is a warning, and does not keep the other environments from closing."""
    manager = make(tmp_path, use_ray=use_ray, num_workers=2, seed=1, env_config={"owes": True})
    manager.get_data()
    data = manager.get_data()
    np.testing.assert_array_equal(data["state_new"], data["state"] + 1)
    assert not steps_made(tmp_path)
    with pytest.warns(UserWarning, match="'Tenant': expected close to succeed, .* OSError: the rent is due") as warned:
        manager.close()
    assert len(warned) == 3
    assert steps_made(tmp_path) == [40, 40, 40]


@pytest.mark.usefixtures("ray_runtime")
def test_orders_that_run_are_interrupted_and_their_environments_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    folder = tmp_path / "left"
    folder.mkdir()
    given = {"num_parallel": 2, "num_workers": 2, "num_steps": 5_000, "total_steps": 1, "remote_min_returns": 1}
    given["action_sampling_type"] = "epsilon_greedy"
    with make(folder, env_config={"token": str(token), "seconds": 0.1}, **given) as manager:
        manager.get_data(total_steps=10_000)
        token.touch()
        # The order of the slow agent would take eight minutes.
        while token.exists():
            manager.get_data()
        manager.get_data()
    assert len(steps_made(folder)) == 2
    assert not caplog.text


def test_a_side_channel_answers_while_the_process_is_busy() -> None:
    channel = SideChannel("test-answers", {"where": lambda: "here \udcff", "fail": lambda: str(1 / 0)})
    try:
        assert ask("test-answers", "where") == "here \\udcff"
        for unanswered in ("unknown", "fail", "x" * 1000):
            assert ask("test-answers", unanswered) is None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect("\0really-test-answers")
        assert ask("test-answers", "where") == "here \\udcff"
        assert "test-answers" in Path("/proc/net/unix").read_text()
    finally:
        # In a runner it lasts as long as the process. A shutdown wakes the thread that waits in `accept`.
        channel._listener.shutdown(socket.SHUT_RDWR)
        channel._listener.close()
    assert ask("test-answers", "where") is None
