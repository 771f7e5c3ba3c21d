"""The buffer of a manager in shards: the same batches as in one buffer, in the foreground and in the background."""

from __future__ import annotations

from typing import Any

import numpy as np

from really import SampleManager, ShardedBuffer
from tests.environments import Counter
from tests.models import QNet
from tests.service.test_sharded_buffer import assert_same


def manager_of(**arguments: Any) -> SampleManager:
    given = {"use_ray": False, "num_steps": 5, "action_sampling_type": "epsilon_greedy", "seed": 3}
    return SampleManager(QNet, Counter, 2, 20, **(given | arguments))


def test_batches_of_shards_are_those_of_one_buffer() -> None:
    with manager_of() as one, manager_of() as sharded:
        for manager, shards in ((one, None), (sharded, 3)):
            manager.initialize_buffer(100, ["state", "reward"], shards=shards, alpha=0.6)
            manager.collect(130)
        for _ in range(3):
            expected, got = one.sample(16, beta=0.5), sharded.sample(16, beta=0.5)
            assert_same(expected, got)
            for manager in (one, sharded):
                manager.buffer.update_priorities(expected["index"], expected["reward"] ** 2)
        with one.batches(8) as expected_batches, sharded.batches(8) as got_batches:
            assert_same(next(expected_batches), next(got_batches))
        assert sharded.info()["buffer_bytes"] > 0


def test_the_background_fills_shards(tmp_path: Any) -> None:
    with manager_of(returns=["episode_end"]) as manager:
        manager.initialize_buffer(100, ["state", "state_new", "reward", "episode_end", "terminal"], shards=2, n_step=3)
        assert isinstance(manager.buffer, ShardedBuffer)
        assert manager.buffer.gamma == 0.99
        with manager.collect_in_background():
            while len(manager.buffer) < 100:
                manager.sample(10)
        manager.save_checkpoint(tmp_path)
        held = manager.buffer.take(np.arange(100))
        manager.collect()
        manager.load_checkpoint(tmp_path)
        assert_same(held, manager.buffer.take(np.arange(100)))


def test_shards_on_disk_go_on(tmp_path: Any) -> None:
    for num in (40, 80):
        with manager_of() as manager:
            manager.initialize_buffer(100, path=tmp_path / "rows", shards=2)
            manager.collect(40)
            assert len(manager.buffer) == num
            manager.buffer.close()
