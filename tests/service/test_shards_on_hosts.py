"""Shards on real hosts: one is lost in the middle of a put, cut off, slow, or loses its raylet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts import Driver, Hosts, are_possible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(not are_possible(), reason="needs root, iproute2 and unshare"),
]

SHARDS = """
    import logging
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    from really import ShardedBuffer
    warnings = []
    class Kept(logging.Handler):
        def emit(self, record):
            warnings.append(record.getMessage())
    logging.getLogger("really").addHandler(Kept())
    def made(**options):
        return ShardedBuffer(6000, shards="nodes", seed=5, **options)
    def put(buffer, first, end):
        for start in range(first, end, 500):
            numbers = np.arange(start, start + 500)
            buffer.put({"id": numbers, "same": np.repeat(numbers[:, None], 50, axis=1)})
    def ids(buffer):
        found = buffer.take(np.arange(len(buffer)))
        assert (np.diff(found["id"]) > 0).all() and (found["same"] == found["id"][:, None]).all()
        return found["id"].tolist()
    def shard_of(buffer, address):
        node = next(n["NodeID"] for n in ray.nodes() if n["NodeManagerAddress"] == address and n["Alive"])
        return next(at for at, shard in enumerate(buffer.info()["shards"]) if node[:8] in shard["shard"])
"""


def test_a_host_that_is_killed_in_the_middle_of_a_put_costs_its_own_rows_alone() -> None:
    with Hosts(0, 1, 1) as hosts:
        driver = Driver(
            hosts,
            SHARDS,
            """
            buffer = made()
            put(buffer, 0, 20_000)
            lost = shard_of(buffer, "10.77.0.3")
            say("go")
            before, first = 0, 20_000
            while not before or first < before + 8_000:
                put(buffer, first, first + 500)  # the host is killed meanwhile
                first += 500
                if not before and buffer.info()["shards"][lost]["away"]:
                    before = first
            began = time.monotonic()
            buffer.sample(1000)
            say("waited", time.monotonic() - began)
            assert ids(buffer) == list(range(first - 6000, first)), "the others have room for all rows"
            say("rows", len(buffer), buffer.info()["shards"][lost]["rows"])
            buffer.close()
            """,
        )
        driver.said("go")
        hosts.kill(2)
        assert float(driver.said("waited")[0]) < 5
        assert driver.said("rows") == ["6000", "0"]
        driver.end()


def test_a_host_that_is_cut_off_for_20_seconds_is_away_and_comes_back_with_all_rows() -> None:
    with Hosts(0, 1, 1) as hosts:
        driver = Driver(
            hosts,
            SHARDS,
            """
            buffer = made(time_out=2.0)
            put(buffer, 0, 12_000)
            assert ids(buffer) == list(range(6_000, 12_000))
            cut_off = shard_of(buffer, "10.77.0.3")
            say("go")
            input()
            began = time.monotonic()
            buffer.sample(1000)
            say("waited", time.monotonic() - began)
            say("left", len(buffer), buffer.info()["shards"][cut_off]["away"])
            put(buffer, 12_000, 13_000)
            while time.monotonic() < began + 20:
                buffer.sample(1000)
            say("reconnect")
            while len(buffer) < 6000:
                buffer.sample(1)
            assert ids(buffer) == list(range(7_000, 13_000))
            info = buffer.info()
            say("back", info["lost"], info["refused"], sum("does not answer" in line for line in warnings))
            buffer.close()
            """,
        )
        driver.said("go")
        hosts.cut_off(2)
        driver.answer()
        driver.said("the shard of node")
        assert float(driver.said("waited")[0]) < 5
        assert driver.said("left") == ["4000", "True"]
        driver.said("reconnect")
        hosts.reconnect(2)
        assert driver.said("back") == ["0", "0", "1"]
        driver.end()


def test_a_raylet_that_is_killed_costs_the_rows_of_its_node_unless_they_are_on_its_disk(tmp_path: Path) -> None:
    with Hosts(0, 1, 1) as hosts:
        driver = Driver(
            hosts,
            SHARDS,
            f"path = {str(tmp_path)!r}\n",
            """
            buffer = made(path=path, time_out=5.0)
            put(buffer, 0, 12_000)
            held = ids(buffer)
            killed = shard_of(buffer, "10.77.0.3")
            num = buffer.info()["shards"][killed]["rows"]
            say("go")
            input()
            began = time.monotonic()
            buffer.sample(1000)
            say("waited", time.monotonic() - began)
            while buffer.info()["lost"] == 0:
                buffer.sample(1)
            say("lost", buffer.info()["lost"] == num)
            put(buffer, 12_000, 13_000)
            buffer.close()
            say("restart")
            input()
            buffer = made(path=path)
            say("found", len(set(held) & set(ids(buffer))) )
            buffer.close()
            """,
        )
        driver.said("go")
        hosts.kill_raylet(2)
        driver.answer()
        assert float(driver.said("waited")[0]) < 5
        assert driver.said("lost") == ["True"]
        driver.said("restart")
        hosts.restart_ray(2)
        driver.answer()
        assert driver.said("found") == ["5000"]
        driver.end()


def test_a_slow_link_delays_batches_and_loses_nothing() -> None:
    with Hosts(0, 1) as hosts:
        driver = Driver(
            hosts,
            SHARDS,
            """
            buffer = made(time_out=30.0)
            put(buffer, 0, 2_000)
            say("go")
            input()
            put(buffer, 2_000, 12_000)
            with buffer.batches(256, prefetch=4) as batches:
                for _ in range(10):
                    batch = next(batches)
                    assert (batch["same"] == batch["id"][:, None]).all()
            assert ids(buffer) == list(range(6_000, 12_000))
            say("away", any(shard["away"] for shard in buffer.info()["shards"]))
            buffer.close()
            """,
        )
        driver.said("go")
        hosts.slow_down(1, "20mbit")
        driver.answer()
        assert driver.said("away") == ["False"]
        driver.end()
