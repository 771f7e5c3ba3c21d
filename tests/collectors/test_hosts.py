"""Real hosts, each with a network of its own: one is lost without a last word, cut off, slow, or lacks the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import really
from tests.hosts import Driver, Hosts, are_possible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(not are_possible(), reason="needs root, iproute2 and unshare"),
]

FLEET = """
    def hosts_of(manager):
        addresses = {node["NodeID"][:8]: node["NodeManagerAddress"] for node in ray.nodes()}
        return sorted(addresses[runner["node"]] for runner in manager.info()["runners"] if "node" in runner)
    def longest(manager, enough):
        most = 0.0
        while not enough():
            start = time.monotonic()
            manager.get_data()
            most = max(most, time.monotonic() - start)
        return most
    def after(seconds):
        end = time.monotonic() + seconds
        return lambda: time.monotonic() > end
    given = {"num_steps": 50, "returns": ["agent"], "env_config": {"length": 10**6}}
"""


def test_a_host_that_is_lost_stalls_no_call_and_one_that_joins_is_used() -> None:
    """It answers no more, and no connection ends, as without power. Ray notices a minute later."""
    with Hosts(0, 2, 2) as hosts:
        driver = Driver(
            hosts,
            FLEET,
            """
            manager = SampleManager(QNet, Counter, 8, 4000, **given)
            manager.get_data()
            say("placed", *hosts_of(manager))
            say("longest", longest(manager, after(20)))
            say("used", *hosts_of(manager))
            say("joined", longest(manager, lambda: "10.77.0.4" in hosts_of(manager)))
            # A runner that still gets ready is late: the others deliver, and it does in a later call.
            agents, until = set(), time.monotonic() + 120
            while len(agents) < 8 and time.monotonic() < until:
                agents |= set(manager.get_data()["agent"].tolist())
            say("agents", len(agents))
            manager.close()
            """,
        )
        assert driver.said("placed") == ["10.77.0.2", "10.77.0.2", "10.77.0.3", "10.77.0.3"]
        hosts.kill(2)
        assert float(driver.said("longest")[0]) < 3
        assert set(driver.said("used")) == {"10.77.0.2"}
        hosts.add(2)
        driver.said("joined")
        assert driver.said("agents") == ["8"]
        driver.end()


def test_the_end_of_background_collection_is_bounded_while_a_host_is_cut_off() -> None:
    with Hosts(0, 1, 1) as hosts:
        driver = Driver(
            hosts,
            FLEET,
            """
            manager = SampleManager(QNet, Counter, 4, 400, **given)
            manager.initialize_buffer(10_000, ["state"])
            manager._fleet.end_patience = 5.0
            with manager.collect_in_background() as background:
                manager.sample(10)
                say("go")
                input()
            say("left", background.running, len(manager.get_data()["reward"]) >= 400)
            manager.close()
            """,
        )
        driver.said("go")
        hosts.cut_off(2)
        driver.answer()
        assert driver.said("left") == ["False", "True"]
        hosts.reconnect(2)
        driver.end()


def test_a_host_without_the_package_is_named_and_can_have_it_sent(tmp_path: Path) -> None:
    installed = subprocess.run(
        [sys.executable, "-c", "import really; print(really.__file__)"],
        cwd="/",
        capture_output=True,
        text=True,
        env={},
        check=False,
    )
    packages = {Path(really.__file__).parent, *(Path(line).parent for line in installed.stdout.splitlines())}
    older = tmp_path / "older"
    older.mkdir()
    (older / "__init__.py").write_text('__version__ = "0.0.1"\n')
    empty = tmp_path / "empty"
    empty.mkdir()
    with Hosts(0) as hosts:
        hosts.add(1, {str(folder): str(empty) for folder in packages})
        driver = Driver(
            hosts,
            FLEET,
            """
            import really
            def refused(word):
                try:
                    SampleManager(QNet, Counter, 4, 400, **given)
                except ReallyError as error:
                    say(word, error)
            refused("alone")
            input()
            refused("both")
            ray.shutdown()
            ray.init("10.77.0.1:6379", _node_ip_address="10.77.0.1", runtime_env={"py_modules": [really]})
            with SampleManager(QNet, Counter, 4, 400, **given) as manager:
                manager.get_data()
                say("placed", *hosts_of(manager))
            """,
        )
        none = "(10.77.0.2): expected really 0.1.0 as here, got none. Install it there (pip install really-rl=="
        assert none in " ".join(driver.said("alone")), "the only host with CPUs is asked, too"
        hosts.add(1)
        hosts.add(1, {str(folder): str(older) for folder in packages})
        driver.answer()
        error = " ".join(driver.said("both"))
        assert none in error
        assert "(10.77.0.4): expected really 0.1.0 as here, got 0.0.1." in error
        assert driver.said("placed") == ["10.77.0.2", "10.77.0.3", "10.77.0.4"]
        driver.end()
