"""Buffers on disk whose frames, tables and records are damaged: an error or rows, in both modes, and never a crash."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import struct

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import FileError, InvalidFileError

NUM = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of 60 rows that share frames, and the rows."""
    folder = tmp_path_factory.mktemp("frames") / "b"
    frames = np.random.default_rng(0).integers(0, 255, (NUM + 4, 24, 24), np.uint8)
    stacks = np.stack([frames[at : at + 4] for at in range(NUM + 1)])
    rows = {"state": stacks[:-1], "action": np.arange(NUM), "state_new": stacks[1:]}
    with ReplayBuffer(NUM, path=folder, spare=10, seed=0) as buffer:
        buffer.put(rows)
    return folder, rows


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "b")


def overwritten(file, at, content):
    with open(file, "r+b") as handle:
        handle.seek(at)
        handle.write(content)


def number_at(folder, row, value, key="state", frame=0):
    """Sets the number of a frame of a row, by the layout that the folder has."""
    columns = {
        column["key"]: column for column in json.loads((folder / "schema.json").read_text())["buffer"]["columns"]
    }
    stride = (folder / "records").stat().st_size // (NUM + 10)
    overwritten(folder / "records", row * stride + columns[key]["offset"] + 4 * frame, struct.pack("<I", value))


DAMAGE = {
    "a short file of frames": (lambda at: os.truncate(at / "frames.0", 4096), r"frames.0.table: expected blocks"),
    "no frames": (lambda at: os.truncate(at / "frames.0", 0), r"frames.0.table: expected blocks"),
    "a place beyond the file": (
        lambda at: overwritten(at / "frames.0.table", 64, b"\x7f\0\0\0"),
        r"frames.0.table: expected blocks",
    ),
    "one block in two places": (
        lambda at: overwritten(at / "frames.0.table", 68, (at / "frames.0.table").read_bytes()[64:68]),
        r"frames.0.table: expected blocks",
    ),
}


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_table_that_names_other_blocks_is_refused(folder, damage, message, mode):
    if (damage, mode) == (DAMAGE["one block in two places"][0], "r"):
        pytest.skip("a reader only reads both")
    damage(folder)
    with pytest.raises(InvalidFileError, match=message):
        ReplayBuffer.open(folder, mode)


@pytest.mark.parametrize("value", [0xFFFFFFFF, NUM + 5, 1 << 31, 40])
def test_wrong_numbers_of_frames_are_refused_by_a_writer(folder, value):
    number_at(folder, 20, value)
    with pytest.raises(InvalidFileError, match=r"records: expected numbers of frames .* in the row of index 20"):
        ReplayBuffer.open(folder, "r+")


@pytest.mark.parametrize("key", ["state", "state_new"])
@pytest.mark.parametrize("row", [8, 14, 30, NUM - 1])
def test_a_writer_refuses_numbers_before_the_oldest_frame_of_a_row_and_behind_the_newest_of_all(folder, row, key):
    own = row + (key == "state_new")
    for frame in (1, 3):
        for value in (row - 1, row, row + 1, row + 9, row + 33, NUM + 3, NUM + 4, NUM + 99):
            number_at(folder, row, value, key, frame)
            if row <= value < NUM + 4:
                ReplayBuffer.open(folder, "r+").close()
            else:
                with pytest.raises(InvalidFileError, match=f"records: expected .* in the row of index {row}: damaged"):
                    ReplayBuffer.open(folder, "r+")
        number_at(folder, row, own + frame, key, frame)


@pytest.mark.parametrize("stack", [1, 2, 3, 4, 5])
def test_each_number_of_rows_that_go_on_one_frame_each_is_looked_at(tmp_path, stack):
    frames = np.random.default_rng(0).integers(0, 255, (NUM + stack, 24, 72), np.uint8)
    stacks = np.stack([frames[at : at + stack] for at in range(NUM + 1)])
    with ReplayBuffer(NUM, path=tmp_path / "b", spare=10, stack=(stack, 1), seed=0) as buffer:
        rows = np.moveaxis(stacks, 1, 2)  # the stack is the second axis of a row
        buffer.put({"state": rows[:-1], "action": np.arange(NUM), "state_new": rows[1:]})
    for row in (0, 1, 30, NUM - 1):
        for frame, key in itertools.product(range(stack), ("state", "state_new")):
            own = row + frame + (key == "state_new")
            number_at(tmp_path / "b", row, NUM + 7, key, frame)
            with pytest.raises(InvalidFileError, match=f"records: expected .* in the row of index {row}: damaged"):
                ReplayBuffer.open(tmp_path / "b", "r+")
            number_at(tmp_path / "b", row, own, key, frame)
    ReplayBuffer.open(tmp_path / "b", "r+").close()


def test_wrong_numbers_of_frames_are_refused_by_a_reader_when_it_reads_them(folder):
    number_at(folder, 20, 0x7FFFFF)
    buffer = ReplayBuffer.open(folder)
    assert buffer.take([19, 21])["action"].tolist() == [19, 21]
    for read in (
        lambda: buffer.take(np.arange(NUM)),
        lambda: buffer.sample(1000),
        lambda: buffer.sample(1000, out=buffer.take(np.zeros(1000, np.int64))),
        lambda: buffer.save(folder.parent / "saved"),
        lambda: buffer.open_reader().read(NUM),
    ):
        with pytest.raises(FileError, match="expected rows whose frames are stored"):
            read()
