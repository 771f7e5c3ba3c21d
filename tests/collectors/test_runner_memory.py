"""Runners that leak are replaced, and runners that the system ends for their memory too: no row is lost or repeated."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import SampleManager
from really.collectors import runner_memory
from really.collectors.messages import Chunk, Order, PolicySettings, RunnerSpec
from really.collectors.orders import PendingOrder, Worker
from really.data.record_batches import to_record_batch
from really.errors import InvalidTypeError, InvalidValueError
from tests.collectors.test_faults import check_rows
from tests.environments import Counter, Leaky, Once
from tests.models import QNet

MB = 10**6


def make(environment: Any = Leaky, **changes: Any) -> SampleManager:
    given = {"num_parallel": 4, "total_steps": 400, "num_steps": 50, "num_workers": 2, **changes}
    return SampleManager(QNet, environment, returns=["agent", "episode_end"], **given)


@pytest.mark.usefixtures("ray_runtime")
def test_runners_that_leak_are_replaced_between_orders_and_no_row_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "really")
    leak, limit = 400 * MB, 400 * MB
    with make(env_config={"step_bytes": leak // 1600}, num_workers=1, max_runner_memory=limit) as manager:
        data = [manager.get_data(total_steps=800) for _ in range(5)]
        (runner,) = manager.info()["runners"]
    assert [len(rows["reward"]) for rows in data] == [800] * 5
    for rows in data:
        check_rows(rows)
    assert runner["restarts"] >= 1
    assert runner["memory"] < limit + leak, "the limit, and the chunks that were ordered before it was passed"
    for agent in range(4):
        # Steps are counted without a gap or a repetition until a new process begins at 0.
        counts = np.concatenate([rows["state"][rows["agent"] == agent, 0] for rows in data])
        breaks = np.flatnonzero(np.diff(counts) != 1)
        assert (counts[breaks + 1] == 0).all()
        assert len(breaks) <= runner["restarts"]
    assert "was lost" not in caplog.text
    assert "max_runner_memory: runner 0 (agents 0 to 3) holds" in caplog.text


@pytest.mark.parametrize(
    ("started", "seeded", "message"),
    [
        (False, False, "runner 0 (agents 0 to 1) holds 200 MB after its first rows, more than the 100 MB at which it"),
        (True, False, "runner 0 (agents 0 to 1) holds 200 MB, more than 100 MB, and is replaced"),
        (True, True, "runner 0 (agents 0 to 1) holds 200 MB, more than 100 MB, and is replaced; a seeded run will not"),
    ],
)
def test_a_runner_that_has_outgrown_the_limit_gets_no_other_order_and_is_named_once(
    started: bool, seeded: bool, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "really")
    spec = RunnerSpec(None, (), 1, None, 1, 1, 0, None, seeded=seeded, max_runner_memory=100 * MB)  # type: ignore[arg-type]
    worker, batch = Worker(0, (0, 1), None, started=started), to_record_batch({"x": np.zeros(1)})
    runner_memory.watch(spec, worker, Chunk(batch, (), 1.0, memory=100 * MB))
    assert not worker.outgrown
    assert worker.takes_order
    for _ in range(2):
        runner_memory.watch(spec, worker, Chunk(batch, (), 1.0, memory=200 * MB))
    worker.pending.append(PendingOrder(0, Order((1, 1), PolicySettings(1, 1)), None, 0.0))
    assert worker.outgrown
    assert not worker.takes_order
    assert caplog.text.count(message) == 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_runner_memory": 0}, InvalidValueError, "max_runner_memory: expected"),
        ({"max_runner_memory": "2GB"}, InvalidTypeError, "max_runner_memory: expected a finite number"),
        ({"max_runner_memory": 1e9, "use_ray": False}, InvalidValueError, "max_runner_memory: .*with use_ray=False"),
    ],
)
def test_a_limit_that_cannot_be_used_is_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(Counter, **given)


GROUPS = Path("/sys/fs/cgroup/memory")


class LimitedGroup:
    """A control group (version 1) for processes, with a limit of their memory."""

    def __init__(self, nbytes: int) -> None:
        self.path = GROUPS / f"really-test-{os.getpid()}"
        self.path.mkdir()
        (self.path / "memory.limit_in_bytes").write_text(str(nbytes))

    def add(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        self.path.rmdir()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_runtime")
@pytest.mark.skipif(not os.access(GROUPS, os.W_OK), reason="needs a control group of memory that can be written")
def test_a_runner_that_the_kernel_ends_for_its_memory_loses_no_row(tmp_path: Path, caplog: Any) -> None:
    group = LimitedGroup(600 * MB)
    token = tmp_path / "token"
    try:
        with make(Once, env_config={"token": str(token)}) as manager:
            manager.get_data()
            victim = manager.info()["runners"][0]["pid"]
            group.add(victim)
            token.touch()
            data = manager.get_data(total_steps=4000)
            assert not token.exists(), "it took what the group does not have"
            assert len(data["reward"]) == 4000
            check_rows(data)
            # The other runner may have delivered these rows before the kernel ended this one.
            while (runners := manager.info()["runners"])[0]["restarts"] == 0:
                check_rows(manager.get_data())
            assert [runner["restarts"] for runner in runners] == [1, 0]
            assert runners[0]["pid"] != victim
        assert caplog.text.count("was lost and is restarted") == 1
    finally:
        group.close()
