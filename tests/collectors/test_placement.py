"""Placement: which node a runner gets, among nodes that are alive, have CPUs and were not lost just now."""

from __future__ import annotations

import pytest

from really._ray import placement
from really._ray.placement import Placement

LEARNER, ONE, TWO = "learner", "one", "two"


@pytest.fixture(autouse=True)
def _cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes as Ray tells of them: the learner's without CPUs, two with two, and a dead one."""
    rows = [(LEARNER, True, {}), (ONE, True, {"CPU": 2.0}), (TWO, True, {"CPU": 2.0}), ("dead", False, {"CPU": 9.0})]
    nodes = [{"NodeID": node, "Alive": alive, "Resources": resources} for node, alive, resources in rows]
    monkeypatch.setattr("ray.nodes", lambda: nodes)


def test_runners_spread_over_living_nodes_with_cpus() -> None:
    runners = Placement()
    assert [runners.choose(number) for number in range(4)] == [ONE, TWO, ONE, TWO]
    assert runners.choose(1) == TWO, "a runner does not count where it was before"


def test_a_second_manager_takes_the_nodes_that_the_first_left() -> None:
    first, second = Placement(), Placement()
    first.nodes = {0: ONE, 1: ONE}
    assert second.choose(0) == TWO
    first.clear()
    assert second.choose(1) == ONE


def test_a_node_with_more_cpus_takes_more_runners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cpus_of_nodes", lambda: {ONE: 1.0, TWO: 3.0})
    runners = Placement()
    assert sorted(str(runners.choose(number)) for number in range(4)) == [ONE, TWO, TWO, TWO]


def test_a_lost_node_is_avoided_while_there_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    runners = Placement()
    runners.nodes = {0: ONE, 1: TWO}
    assert runners.lose(0)
    assert [runners.choose(0), runners.choose(2)] == [TWO, TWO]
    assert not runners.lose(1), "there is no other"
    assert runners.choose(3) == ONE
    monkeypatch.setattr(placement, "AVOIDED_SECONDS", -1.0)
    assert runners.lose(1), "it may be back"


def test_a_cluster_without_cpus_leaves_the_choice_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cpus_of_nodes", dict)
    runners = Placement()
    assert runners.choose(0) is None
    assert placement.affinity(None) == "SPREAD"
    assert not runners.nodes
