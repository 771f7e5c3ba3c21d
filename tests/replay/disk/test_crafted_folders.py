"""Buffers on disk whose checksums are right but whose files ask for more, or other, than a buffer can have."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import FileError, InvalidFileError
from really.replay.disk import priority_files
from tests.crafting import change_schema


def column(**changes):
    return lambda buffer: buffer["columns"][0].update(changes)


SCHEMAS = {
    "Python objects": column(dtype="|O"),
    "a class of ml_dtypes": column(dtype="ml_dtypes.finfo"),
    "Python objects in a record": column(dtype=[["a", "<i4"], ["b", "|O"]]),
    "no width": column(dtype="|V0"),
    "no dtype": column(dtype="hello"),
    "a huge dtype": column(dtype="|S4000000000"),
    "negative length": column(shape=[-3]),
    "a length that is no integer": column(shape=[1.5]),
    "a huge length": column(shape=[1 << 40]),
    "huge together": column(shape=[1 << 30, 1 << 30]),
    "too many axes": column(shape=[1] * 64),
    "two columns of one key": lambda buffer: buffer["columns"].append(dict(buffer["columns"][0])),
    "a key that is no text": column(key=3),
    "no columns": lambda buffer: buffer.update(columns=None),
    "capacity": lambda buffer: buffer.update(capacity=-1),
    "huge capacity": lambda buffer: buffer.update(capacity=1 << 50),
    "spare": lambda buffer: buffer.update(spare=0),
    "steps": lambda buffer: buffer.update(n_step=-2, gamma=0.9),
    "unit": lambda buffer: buffer.update(unit=["__import__", {}]),
    "sampler": lambda buffer: buffer.update(sampler=[3]),
    "a column that is not there": lambda buffer: buffer["shared"].append([[7], 4, 0]),
    "a negative column": lambda buffer: buffer["shared"].append([[-1], 4, 0]),
    "a stack of none": lambda buffer: buffer["shared"].append([[0], 0, 0]),
    "a huge stack": lambda buffer: buffer["shared"].append([[0], 1 << 30, 0]),
    "a short row of frames": lambda buffer: buffer["shared"].append([[0], 1, 0]),
    "an axis that is not there": lambda buffer: buffer["shared"].append([[0], 1, 9]),
    "identity": lambda buffer: buffer.update(identity="zz"),
}


@pytest.fixture
def folder(tmp_path):
    with ReplayBuffer(10, ["x"], path=tmp_path / "b") as buffer:
        buffer.put({"x": np.arange(10, dtype=np.int64) + 0x4141414141})
    return tmp_path / "b"


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("change", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_that_no_buffer_has_is_refused(folder, change, mode):
    change_schema(folder, change)
    with pytest.raises(FileError, match=r"b/(schema.json|records|cursor): "):
        ReplayBuffer.open(folder, mode)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"version": 1' + "0" * 5000 + "}", "null"])
def test_json_that_is_too_deep_or_none_is_refused(folder, text):
    (folder / "schema.json").write_text(text)
    with pytest.raises(FileError, match=r"schema.json: expected what a buffer is, got a damaged file"):
        ReplayBuffer.open(folder)


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize(
    "name", ["schema.json", "records", "cursor", "frames.0", "frames.0.table", "priorities", "lock"]
)
def test_devices_and_fifos_are_no_files(tmp_path, name, mode):
    with ReplayBuffer(10, path=tmp_path / "b", alpha=0.6) as buffer:
        frames = np.arange(8 * 1024, dtype=np.uint8).reshape(8, 1024)
        buffer.put({"state": frames[:-1], "state_new": frames[1:]})
    file = tmp_path / "b" / name
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir):
        shutil.move(file, tmp_path / "kept")
        make(file)
        if (name, mode) != ("lock", "r"):
            with pytest.raises(FileError, match=rf"b(/{name})?: expected"):
                ReplayBuffer.open(tmp_path / "b", mode)
        file.rmdir() if file.is_dir() else file.unlink()
        shutil.move(tmp_path / "kept", file)
    assert len(ReplayBuffer.open(tmp_path / "b", mode)) == 7


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("name", ["bit_generator", "state", "has_uint32"])
def test_a_generator_of_priorities_that_none_is_names_the_file(tmp_path, name, mode):
    with ReplayBuffer(10, ["x"], path=tmp_path / "b", alpha=0.6) as buffer:
        buffer.put({"x": np.arange(10)})
    path = tmp_path / "b" / "priorities"
    state = priority_files.read_file(path)
    state["generator"][f"{name}2"] = state["generator"].pop(name)
    priority_files.write(path, state)
    (tmp_path / "b" / "checksums").unlink()
    if mode == "r":  # a reader draws with a generator of its own
        assert len(ReplayBuffer.open(tmp_path / "b", mode)) == 10
        return
    with pytest.raises(InvalidFileError, match=rf"b/priorities: expected the priorities of a buffer.* but .*{name}"):
        ReplayBuffer.open(tmp_path / "b", mode)
