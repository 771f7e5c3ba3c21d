"""A shard's folder in a process that only reads it: rows by places, puts and returns of the writer meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from really.service.ledger import NOWHERE
from really.service.mapped_shard import MappedShard, ShardDoor
from really.service.places import Places
from really.service.shard import Shard


def put(shard: Shard, first: int, num: int, place: int, number: int) -> None:
    shard.put_at(place, number, {"id": np.arange(first, first + num)})


def test_it_takes_rows_by_their_places_while_the_shard_puts(tmp_path: Path) -> None:
    reader = MappedShard(tmp_path / "one")
    assert reader.take_at(np.array([0])) is None, "no shard is there"
    with Shard(20, path=tmp_path / "one") as shard:
        put(shard, 0, 5, 0, 100)
        assert reader.take_at(np.array([[0, 4], [1, 1]]))["id"].tolist() == [[0, 4], [1, 1]]
        put(shard, 10, 6, 10, 200)  # places 5 to 9 were refused
        for taken in (shard.take_at, reader.take_at, ShardDoor(str(tmp_path / "one")).take_at):
            assert taken(np.array([4, 10, 15]))["id"].tolist() == [4, 10, 15]
        assert reader.take_at(np.array([16])) is None, "a row to come"
        put(shard, 16, 18, 16, 300)
        assert reader.take_at(np.array([4])) is None, "a row that dropped out"
        assert reader.take_at(np.array([33]))["id"].tolist() == [33]
    assert reader.take_at(np.array([33]))["id"].tolist() == [33], "the shard is closed, its rows are there"
    reader.close()


def test_it_follows_a_return_to_a_checkpoint(tmp_path: Path) -> None:
    with Shard(20, path=tmp_path / "one") as shard:
        put(shard, 0, 10, 0, 0)
        moment = shard.take_moment(0)
        shard.keep_moment(moment)
        reader = MappedShard(tmp_path / "one")
        put(shard, 10, 5, 12, 30)
        assert reader.take_at(np.array([12]))["id"].tolist() == [10]
        shard.return_to(moment, 10, 10)
        put(shard, 50, 5, 10, 10)
        found = reader.take_at(np.array([9, 12]))
        found = reader.take_at(np.array([9, 12])) if found is None else found
        assert found["id"].tolist() == [9, 52]
        shard.forget(100, 1000)
        assert shard.runs.tolist() == []
        put(shard, 60, 5, 100, 1000)
        assert shard.runs.tolist() == [[1000, 100, 5]]
        assert shard.take_moment(NOWHERE).first == shard.take_moment(105).num_put
        reader.close()
    with Shard(20, path=tmp_path / "one") as shard:
        assert shard.runs.tolist() == [[1000, 100, 5]]


def test_reading_places_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "places"
    places = Places(file)
    places.add(0, 3, 5)
    places.add(7, 20, 30)
    with open(file, "ab") as end:
        end.write(b"half")
    stored = file.read_bytes()
    found = Places.of_file(file)
    assert found.rings(np.array([3, 9, 20, 25])).tolist() == [0, 6, 7, 12]
    assert file.read_bytes() == stored
