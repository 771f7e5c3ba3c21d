"""Late results: the next call delivers them if they are fresh enough, or drops and counts them; no row comes twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import SampleManager
from tests.environments import HeldAlone
from tests.models import QNet

pytestmark = pytest.mark.usefixtures("ray_runtime")


def collect_with_one_late_agent(tmp_path: Path, returns: list[str], **changes: Any) -> tuple[SampleManager, list, int]:
    """Collects, with new weights before each call, until the late agent's rows are delivered or dropped."""
    token, held = tmp_path / "token", tmp_path / "token.held"
    given = {"num_parallel": 2, "num_workers": 2, "num_steps": 10, "total_steps": 40, "remote_min_returns": 1}
    config = {"token": str(token)}
    manager = SampleManager(QNet, HeldAlone, returns=["agent", *returns], env_config=config, **given, **changes)
    calls = [manager.get_data()]
    held.touch()
    token.touch()
    while len(np.unique(calls[-1]["agent"])) == 2:  # results of pending orders
        calls.append(manager.get_data())
    first_late = len(calls)
    for _ in range(500):
        manager.set_agent([weight + 0.01 for weight in manager.get_agent().get_weights()])
        calls.append(manager.get_data())
        held.unlink(missing_ok=True)
        if manager.info()["dropped_rows"] or len(np.unique(calls[-1]["agent"])) == 2:
            return manager, calls, first_late
    raise AssertionError("the late agent's result never arrived")


def assert_no_row_twice(calls: list[dict[str, np.ndarray]]) -> None:
    for agent in range(2):
        counts = np.concatenate([call["state"][call["agent"] == agent, 0] for call in calls])
        assert (np.diff(counts) >= 1).all()


def test_late_results_are_delivered_off_policy(tmp_path: Path) -> None:
    manager, calls, _ = collect_with_one_late_agent(tmp_path, ["policy_version", "episode_end"])
    with manager:
        assert manager.info()["dropped_rows"] == 0
        versions = calls[-1]["policy_version"]
        assert versions.min() < versions.max()
        assert_no_row_twice(calls)


def test_late_results_are_dropped_on_policy(tmp_path: Path) -> None:
    returns = ["log_prob", "policy_version", "episode_end"]
    manager, calls, first_late = collect_with_one_late_agent(tmp_path, returns)
    with manager:
        assert manager.info()["dropped_rows"] % 10 == 0
        for version, call in enumerate(calls[first_late:], start=1):
            assert set(call["policy_version"]) == {version}
        assert_no_row_twice(calls)
        for call in calls:
            for agent in np.unique(call["agent"]):
                assert call["episode_end"][call["agent"] == agent][-1] == 1, (
                    "the last row before a gap is marked as a cut"
                )


def test_max_staleness_is_the_limit(tmp_path: Path) -> None:
    manager, calls, _ = collect_with_one_late_agent(tmp_path, ["log_prob", "policy_version"], max_staleness=1000)
    with manager:
        assert manager.info()["dropped_rows"] == 0
        assert_no_row_twice(calls)
