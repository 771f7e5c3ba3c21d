"""Saved buffers and Parquet files whose checksums are right but whose content no buffer can have."""

from __future__ import annotations

import json
import os
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from really import ReplayBuffer
from really.data.arrow_types import DTYPE, SHAPE
from really.errors import FileError, InvalidFileError, InvalidTypeError
from really.replay.io import saving
from really.replay.io.checksums import CHECK, fingerprint


def crafted(path, change_about=lambda about: None, change_field=lambda field: field):
    """Saves a prioritized buffer, and writes it again with a changed description and fields, and right checksums."""
    buffer = ReplayBuffer(10, alpha=0.6, seed=0)
    buffer.put({"x": np.arange(4.0), "y": np.full(4, "text")})
    buffer.save(path)
    with pa.ipc.open_file(path.read_bytes()) as file:
        schema, (batch, check) = file.schema, file.get_batch_with_custom_metadata(0)
    about = json.loads(schema.metadata[saving.ABOUT])
    change_about(about)
    text = json.dumps(about).encode()
    schema = pa.schema([change_field(field) for field in schema])
    check_all = str(fingerprint(schema, zlib.crc32(text))).encode()
    schema = schema.with_metadata({saving.ABOUT: text, CHECK: check_all})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(batch.columns, schema=schema.remove_metadata()), custom_metadata=check)


def described(**changes):
    def change(field):
        added = {name.encode(): text.encode() for name, text in changes.items()}
        return field.with_metadata({**(field.metadata or {}), **added}) if field.name == "y" else field

    return {"change_field": change}


CRAFTED = {
    "rows before the first": {"change_about": lambda about: about["priorities"].update(newest=-5)},
    "rows after the last": {"change_about": lambda about: about["priorities"].update(newest=1 << 63)},
    "no number": {"change_about": lambda about: about["priorities"].update(newest="x")},
    "capacity": {"change_about": lambda about: about.update(capacity=-1)},
    "huge capacity": {"change_about": lambda about: about.update(capacity=1 << 70)},
    "more rows than are kept": {"change_about": lambda about: about.update(num_rows=11)},
    "columns": {"change_about": lambda about: about.update(columns=["x", "z"])},
    "columns of no text": {"change_about": lambda about: about.update(columns=[1])},
    "generator": {"change_about": lambda about: about.update(generator={"bit_generator": "os.system"})},
    "array of objects": {"change_about": lambda about: about.update(generator={"array": [1], "dtype": "|O"})},
    "array of huge texts": {
        "change_about": lambda about: about.update(generator={"array": [1], "dtype": "S1000000000"})
    },
    "unit": {"change_about": lambda about: about.update(unit=["os.system", {}])},
    "stack": {"change_about": lambda about: about.update(stack=[1 << 40, 0])},
    "Python objects": described(**{"really.dtype": '"|O"'}),
    "negative shape": described(**{"really.shape": "[-1]"}),
    "deep": described(**{"really.shape": "[" * 100_000}),
    "frames of nothing": described(**{"really.frames": '{"column": "z"}'}),
    "frames of no object": described(**{"really.frames": "[]"}),
}


@pytest.mark.parametrize("changes", CRAFTED.values(), ids=CRAFTED)
def test_what_no_buffer_has_is_refused(tmp_path, changes):
    crafted(tmp_path / "buffer", **changes)
    with pytest.raises(
        FileError, match=rf"{tmp_path}/buffer: expected a saved buffer|{tmp_path}/buffer: expected rows"
    ):
        ReplayBuffer.load(tmp_path / "buffer")


def test_what_is_written_again_unchanged_loads(tmp_path):
    crafted(tmp_path / "buffer")
    assert ReplayBuffer.load(tmp_path / "buffer").take([3])["y"] == ["text"]


def test_a_column_longer_than_its_memory_is_refused(tmp_path):
    """The length of a record batch in its header, which Arrow does not compare with the bytes that follow."""
    buffer, path = ReplayBuffer(1 << 20, seed=0), tmp_path / "buffer"
    buffer.put({"x": np.arange(1000, dtype=np.int64)})
    buffer.save(path, compression="none")
    content, fell = path.read_bytes(), 0
    length = struct.pack("<q", 1000)
    places = [at for at in range(len(content) - 8) if content[at : at + 8] == length and content[at - 8 : at] != length]
    for at in places:
        path.write_bytes(content[:at] + struct.pack("<q", 1 << 18) + content[at + 8 :])
        try:
            found = ReplayBuffer.load(path)
        except FileError:
            fell += 1
            continue
        np.testing.assert_array_equal(found.take(np.arange(1000))["x"], np.arange(1000))
    assert fell >= 1


def test_devices_and_fifos_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name, read in [
        (name, read) for name in ("fifo", "zeros") for read in (ReplayBuffer.load, ReplayBuffer.from_parquet)
    ]:
        with pytest.raises(FileError, match=f"{name}: expected a .*got a {'FIFO' if name == 'fifo' else 'device'}"):
            read(tmp_path / name)


def test_one_changed_word_of_shared_frames_is_refused(tmp_path):
    """Also a key of the metadata of a field, which decides whether the column shares frames."""
    frames = np.random.default_rng(0).integers(0, 255, (24, 16, 16), np.uint8)
    stacks = np.stack([frames[at : at + 4] for at in range(21)])
    buffer, path = ReplayBuffer(64, seed=0), tmp_path / "buffer"
    buffer.put({"state": stacks[:-1], "action": np.arange(20), "state_new": stacks[1:]})
    buffer.save(path, compression="none")
    good, content = buffer.take(np.arange(20)), path.read_bytes()
    keys = [at for at in range(len(content)) if content.startswith(b"really.", at)]
    rng = np.random.default_rng(1)
    for at in [*keys, *rng.integers(8, len(content), 100)]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            found = ReplayBuffer.load(path)
        except FileError:
            continue
        for key, column in found.take(np.arange(20)).items():
            np.testing.assert_array_equal(column, good[key])


def test_batches_that_change_places_are_refused(tmp_path):
    path = tmp_path / "buffer"
    buffer = ReplayBuffer(40, seed=0)
    buffer.put({"x": np.arange(40.0)})
    saving.save(buffer, path, compression="none", chunk_bytes=80)
    with pa.ipc.open_file(path.read_bytes()) as file:
        schema = file.schema
        batches = [file.get_batch_with_custom_metadata(at) for at in range(file.num_record_batches)]
    batches[0], batches[1] = batches[1], batches[0]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch, check in batches:
            writer.write_batch(batch, custom_metadata=check)
    with pytest.raises(FileError, match="rows 0 to 9 are damaged"):
        ReplayBuffer.load(path)


@pytest.mark.parametrize("about", [(b"x", b"[1]"), (b'"|O"', b"[]"), (b'"<f4"', b"[-1]")])
def test_parquet_whose_metadata_name_no_dtype_and_shape_is_a_damaged_file(tmp_path, about):
    field = pa.field("reward", pa.float32(), metadata=dict(zip((DTYPE, SHAPE), about, strict=True)))
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"reward": pa.array([1.0], pa.float32())}, schema=pa.schema([field])), path)
    with pytest.raises(InvalidFileError, match=r"rows\.parquet: expected a whole Parquet file, but .*key 'reward'"):
        ReplayBuffer.from_parquet(path)


def test_parquet_of_this_package_whose_column_lost_its_dtype_is_a_damaged_file(tmp_path):
    path = tmp_path / "rows.parquet"
    buffer = ReplayBuffer(3)
    buffer.put({"name": np.array(["a", "b", "c"])})
    buffer.to_parquet(path)
    table = pq.read_table(path)
    bare = pa.schema([table.schema.field("name").with_metadata({SHAPE: b"[]"})], metadata=table.schema.metadata)
    with pq.ParquetWriter(path, bare) as writer:
        writer.write_table(table.cast(bare))
        writer.add_key_value_metadata({CHECK: b"0"})
    with pytest.raises(InvalidFileError, match=r"rows\.parquet: expected columns that a buffer can have, but .*'name'"):
        ReplayBuffer.from_parquet(path)


def test_a_column_that_no_buffer_can_have_is_named_with_its_file(tmp_path):
    pq.write_table(pa.table({"who": ["a"], "reward": [1.0]}), tmp_path / "rows.parquet")
    with pytest.raises(InvalidTypeError, match=r"rows\.parquet: put: key 'who': expected numbers of fixed width, got"):
        ReplayBuffer.from_parquet(tmp_path / "rows.parquet")
    assert len(ReplayBuffer.from_parquet(tmp_path / "rows.parquet", keys=["reward"])) == 1
