"""A buffer that another process owns: an owner that is silent, editions in several threads, damaged folders."""

from __future__ import annotations

import dataclasses
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from really import RunnerError
from really.errors import InvalidFileError
from really.service import ShardedBuffer
from really.service import connected as module
from really.service.connected import ConnectedBuffer
from really.service.mapped_shard import ShardDoor, Unreadable
from really.service.publishing import Publisher
from really.service.shard import PLACES

pytestmark = pytest.mark.usefixtures("ray_runtime")


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardedBuffer]:
    with ShardedBuffer(60, shards="nodes", path=tmp_path_factory.mktemp("rows"), name="owner") as buffer:
        buffer.put({"id": np.arange(50)})
        yield buffer


@pytest.fixture
def reader(owner: ShardedBuffer) -> Iterator[ConnectedBuffer]:
    with ShardedBuffer.connect("owner", seed=1) as buffer:
        while len(buffer) < 50:
            time.sleep(0.05)
        yield buffer


def test_a_reader_does_not_wait_for_ever_for_the_first_edition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.5)
    publisher = Publisher("silent", module.own_node(), lambda number: None)
    try:
        with pytest.raises(RunnerError, match=r"'silent'\): expected the ledger of its owner within 0.5 s, got none"):
            ShardedBuffer.connect("silent").sample(1)
    finally:
        publisher.close()


def test_readers_get_an_error_once_the_owner_can_no_longer_publish() -> None:
    def collect(number: int) -> None:
        raise RunnerError("no ledger")

    publisher = Publisher("broken", module.own_node(), collect)
    try:
        with pytest.raises(RunnerError, match="expected an owner that publishes its ledger, but it has ended"):
            ShardedBuffer.connect("broken").sample(1)
    finally:
        began = time.monotonic()
        publisher.close()
    assert time.monotonic() - began < 1


def test_an_owner_that_no_longer_answers_is_an_error(reader: ConnectedBuffer, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(module, "OWNER_SECONDS", 0.3)
    reader._time_out = 0.3
    stopped = reader._board.__ray_call__.remote(lambda board: time.sleep(1.5))
    reader._next_look = 0.0
    with pytest.raises(RunnerError, match=r"expected the ledger of its owner within 0.3 s, got none"):
        reader.sample(1)
    ray.get(stopped)
    assert len(reader.sample(8)["id"]) == 8


def test_another_thread_may_close_while_one_waits_for_the_owner(reader: ConnectedBuffer) -> None:
    import ray

    stopped = reader._board.__ray_call__.remote(lambda board: time.sleep(1))
    reader._next_look = 0.0
    thread = threading.Thread(target=reader.info)
    thread.start()
    time.sleep(0.1)
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 0.5
    thread.join()
    ray.get(stopped)


def test_info_is_of_one_edition_while_another_thread_takes_newer_ones(reader: ConnectedBuffer) -> None:
    known = reader._current()
    newer = dataclasses.replace(known, number=known.number + 1, shards=known.shards * 2, away=np.zeros(2, np.bool_))
    reader._next_look = np.inf

    class Overtaken:
        """A lock after which another thread is next, and takes a newer edition."""

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            reader._use(newer)

    reader._lock = Overtaken()
    assert [len(reader.info()["shards"]) for _ in range(2)] == [1, 2]


def test_a_damaged_folder_is_told_by_name(
    owner: ShardedBuffer, reader: ConnectedBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(reader.sample(8)["id"]) == 8
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    places = next(owner.path.glob(f"*/{PLACES}"))
    stored = places.read_bytes()
    places.write_bytes(np.array([[5, 5, 5], [3, 3, 3]]).tobytes())
    with pytest.raises(InvalidFileError, match=r"^sample: the shard of node .*: .*places: expected places of rows"):
        reader.sample(8)
    places.write_bytes(stored)
    assert len(reader.sample(8)["id"]) == 8, "and it goes on once it can be read"


def test_the_door_of_the_owners_node_ends_with_the_buffer(tmp_path: Path) -> None:
    import ray

    with ShardedBuffer(60, shards="nodes", path=tmp_path, name="door") as buffer:
        buffer.put({"id": np.arange(50)})
        door = buffer._shards.opened()[0].actor
        assert ray.get(door.take_at.remote(np.array([7])))["id"].tolist() == [7]

    def ask_until_it_is_gone() -> None:  # a call may reach the process before the kill does
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            ray.get(door.take_at.remote(np.array([7])), timeout=5)

    with pytest.raises(ray.exceptions.RayActorError):
        ask_until_it_is_gone()


def test_the_door_tells_why_a_folder_cannot_be_read(tmp_path: Path) -> None:
    told = ShardDoor(str(tmp_path)).take_at(np.array([0]))
    assert isinstance(told, Unreadable)
    assert "No such file" in str(pickle.loads(pickle.dumps(told)).error)
