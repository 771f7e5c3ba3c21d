"""Shards that are lost or away: which rows batches have, and that no steps go from one episode into another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import EmptyBufferError, InvalidValueError, OvertakenError
from really._ray.remote_rows import RemoteRows
from really.data.schema import ColumnSpec
from really.replay.options import BufferOptions
from really.service import ShardedBuffer
from really.service.allotment import Allotment
from really.service.ray_shards import RayShards
from tests.service.unsteady_shards import unsteady

STEPS = {"n_step": 3, "gamma": 1.0}


def put(buffer: ShardedBuffer, first: int, end: int) -> None:
    for start in range(first, end, 5):
        buffer.put({"id": np.arange(start, start + 5)})


def episode(number: int, first: int, num: int, ends: bool = True) -> dict[str, np.ndarray]:
    """Rows of an episode from step `first` on, whose rewards are its number."""
    end = np.zeros(num, np.float32)
    end[-1] = ends
    return {"id": 1000 * number + np.arange(first, first + num), "reward": np.full(num, number, np.float32),
            "episode_end": end, "terminal": end, "state_new": np.arange(first + 1, first + num + 1)}  # fmt: skip


def assert_steps_stay_in_their_episode(buffer: ShardedBuffer) -> None:
    """Every reward is a number of times the reward of its episode, as many as there are steps up to the last one."""
    found = buffer.take(np.arange(len(buffer)))
    number, step = found["id"] // 1000, found["id"] % 1000
    taken = found["state_new"] - step
    assert ((taken >= 1) & (taken <= 3)).all()
    np.testing.assert_array_equal(found["reward"], number * taken)


def test_a_put_that_is_not_divided_goes_to_the_shard_with_the_fewest_rows_that_has_room() -> None:
    allotment = Allotment(240, 3)
    counts, rooms = np.array([0, 50, 40]), np.array([0, 190, 200])
    assert allotment.next_shard(10, counts, rooms) == 2, "shard 0 is lost"
    assert allotment.next_shard(195, counts[::-1], rooms) == 2, "shard 1 has not room for all"
    assert allotment.next_shard(300, counts[::-1], rooms) == 2, "none has"
    assert allotment.next_shard(10, counts, rooms + 10) == 0, "the run goes on"


def test_steps_stay_in_their_episode_once_a_shard_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, shards = unsteady(monkeypatch, 240, 3, **STEPS)  # runs of 20 rows
    for number in range(1, 9):
        buffer.put(episode(number, 0, 30))
    shards.lose(0)
    for number in range(9, 30):
        buffer.put(episode(number, 0, 50))
    assert len(buffer) == 240
    assert buffer.info()["shards"][1]["rows"] > 0
    assert buffer.info()["shards"][2]["rows"] > 0
    assert_steps_stay_in_their_episode(buffer)


@dataclass(frozen=True)
class RowsOfANode(RemoteRows):
    """Rows of a runner, which are in this process."""

    columns: Any = None

    def fetch(self) -> Any:
        return {key: column[self.start : self.start + self.num_rows] for key, column in self.columns.items()}


def test_no_steps_go_over_rows_of_an_episode_that_a_full_shard_left_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, shards = unsteady(monkeypatch, 240, 3, **STEPS)
    buffer.put(episode(1, 0, 10, ends=False))
    room, shards._rooms[0] = shards._rooms[0], 20
    buffer.put(episode(1, 10, 30))
    shards._rooms[0] = room
    buffer.put(episode(2, 0, 30))
    buffer.put(episode(3, 0, 30))
    assert [shard["rows"] > 0 for shard in buffer.info()["shards"]] == [True] * 3
    shards.leave(1)
    shards.leave(2)
    buffer.put(episode(4, 0, 10))
    shards.come_back(1)
    shards.come_back(2)
    assert buffer.info()["rows"] == 109
    assert_steps_stay_in_their_episode(buffer)


def test_rows_of_runners_whose_shard_is_lost_go_to_another_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, shards = unsteady(monkeypatch, 240, 3, **STEPS)
    buffer.put(episode(1, 0, 30))
    shards.lose(0)
    for number in range(2, 20):
        buffer.put(RowsOfANode(50, "node 0", columns=episode(number, 0, 50)))
    assert_steps_stay_in_their_episode(buffer)
    assert buffer.info()["moved"] == 18 * 50


def test_no_steps_go_over_rows_of_an_episode_that_went_on_in_another_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, shards = unsteady(monkeypatch, 240, 3, **STEPS)
    buffer.put(episode(1, 0, 10, ends=False))
    shards.leave(0)
    buffer.put(episode(1, 10, 30, ends=False))
    shards.come_back(0)
    buffer.put(episode(1, 40, 10))
    shards.leave(1)
    shards.leave(2)
    buffer.put(episode(2, 0, 10))
    shards.come_back(1)
    shards.come_back(2)
    buffer.info()
    rows = [*range(1000, 1009), *range(1010, 1050), *range(2000, 2010)]
    assert buffer.take(np.arange(len(buffer)))["id"].tolist() == rows
    assert_steps_stay_in_their_episode(buffer)


@pytest.mark.parametrize("ends", [True, False])
def test_no_steps_go_over_rows_that_a_shard_refused(ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, shards = unsteady(monkeypatch, 240, 3, **STEPS)
    buffer.put(episode(1, 0, 10, ends))
    shards.refuse_next_put()
    buffer.put(episode(1, 10, 10, ends=False))
    buffer.put(episode(1, 20, 10))
    rows = [*range(1000, 1010), *range(1020, 1030)]
    buffer.info()
    assert buffer.take(np.arange(len(buffer)))["id"].tolist() == [row for row in rows if ends or row != 1009]
    assert_steps_stay_in_their_episode(buffer)


def test_a_reader_leaves_out_the_rows_of_a_shard_that_turns_out_to_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, shards = unsteady(monkeypatch, 60, 3)
    for first in range(0, 60, 5):
        buffer.put(episode(0, first, 5))
    with buffer.open_reader() as reader:
        some = reader.read(10, (key for key in ["reward", "id"]))
        found = some["id"].tolist()
        assert (list(some), found) == (["id", "reward"], list(range(10)))
        shards.silent.add(1)
        while reader.num_left:
            found += reader.read(10)["id"].tolist()
    ids = buffer.take(np.arange(len(buffer)))["id"]
    assert sorted({*found} | {*range(10)}) == sorted({*ids.tolist()} | {*range(10)})
    with buffer.open_reader() as reader:
        reader.read(1)
        for first in range(60, 180, 5):
            buffer.put(episode(0, first, 5))
        with pytest.raises(OvertakenError, match="read faster"):
            reader.read(60)


@pytest.mark.parametrize("method", ["make_durable", "verify_at", "take_moment", "keep_moment", "return_to"])
def test_a_node_may_join_during_any_call(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, shards = unsteady(monkeypatch, 60, 3, path=tmp_path)
    with buffer:
        put(buffer, 0, 50)
        shards.joins_at = method
        buffer.flush()
        assert buffer.verify().num_rows == 50
        moment = buffer.moments.take(buffer.state_dict())
        buffer.moments.keep(moment)
        expected = buffer.sample(20)
        put(buffer, 50, 70)
        assert buffer.moments.roll_back(moment).rows_dropped == 20
        buffer.load_state_dict(moment.generator)
        assert buffer.sample(20)["id"].tolist() == expected["id"].tolist()
        put(buffer, 50, 200)
        assert buffer.take(np.arange(60))["id"].tolist() == list(range(140, 200))
        assert [shard["rows"] > 0 for shard in buffer.info()["shards"]] == [True] * 4


@pytest.mark.usefixtures("ray_runtime")
def test_a_node_that_joins_while_shards_on_nodes_answer_is_left_out() -> None:
    shards = RayShards("nodes", BufferOptions.checked(60), 5.0)
    own = shards.start({"id": ColumnSpec(np.dtype(np.int64))})
    assert len(own) == 1

    def joins() -> str:
        shards._remotes.append(object())
        return "done"

    shards._own.joins = joins
    try:
        assert shards.each("joins") == ["done"]
        del shards._remotes[1:]
        assert shards.each("joins", [()]) == ["done"]
        assert shards.each("about", [()]) == [(None, 0)]
    finally:
        del shards._remotes[1:]
        shards.close()


def test_draws_of_the_newest_rows_go_on_once_a_shard_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, shards = unsteady(monkeypatch, 60, 3, sampler=("newest", {"num_rows": 20}))
    put(buffer, 0, 60)
    assert sorted(buffer.sample(20, replace=False)["id"]) == list(range(40, 60))
    shards.lose(int(buffer._rows.ledger.last_shard))
    buffer.info()
    newest = buffer.take(np.arange(len(buffer)))["id"][-20:].tolist()
    assert [sorted(batch) for batch in buffer.sample((2, 20), replace=False)["id"]] == [newest] * 2
    assert set(buffer.sample(500)["id"]) == set(newest)
    assert set(buffer.sample(9, replace=False)["id"]) <= set(newest)
    with pytest.raises(InvalidValueError, match=r"expected at most 20 rows with replace=False, got 21"):
        buffer.sample(21, replace=False)


def test_a_sampler_that_prefers_rows_of_a_lost_shard_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, shards = unsteady(monkeypatch, 1200, 3, sampler=("half_life", {"half_life": 1}))
    put(buffer, 0, 1200)
    shards.lose(int(buffer._rows.ledger.last_shard))
    buffer.info()
    with pytest.raises(EmptyBufferError, match=r"sample: .*got rows of shards that are lost .* of HalfLifeSampler"):
        buffer.sample(5)
