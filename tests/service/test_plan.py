"""The plan for clusters: its arithmetic by hand, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import plan
from really.replay.priorities import Priorities


def test_ten_hosts_by_hand() -> None:
    ten = plan.Plan(10, plan.Host(10_000, 60e9, 0.45e9), plan.Rows(6_000, 50_000, 1_000, 2_600, 100))
    assert ten.capacity == 10 * 60e9 / 6_000 / 1.5
    assert ten.collected == 100_000
    assert ten.described == 100 * 2_600
    assert ten.batches == pytest.approx(0.45e9 / (100 * 50_000 * 0.9))
    assert ten.replay_ratio == pytest.approx(ten.batches / 1000)
    assert ten.learner_bytes(1e6, priorities=False) == 1000 * 56 + 1e6


def test_a_priority_takes_as_many_bytes_as_the_plan_says() -> None:
    assert Priorities(10**6).nbytes / 10**6 == pytest.approx(plan.PRIORITY, rel=0.01)


def test_the_page_on_clusters_shows_the_plan() -> None:
    text = plan.PAGE.read_text()
    assert plan.written(text) == text


def test_the_figure_shows_both_tasks(tmp_path: Path) -> None:
    plan.figure(tmp_path / "hosts.png")
    assert (tmp_path / "hosts.png").stat().st_size > 10_000
    assert plan.collected("Pong, 16") < plan.collected("CartPole, 64")
