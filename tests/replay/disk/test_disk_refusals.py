"""Errors of a buffer on disk: another buffer, damaged files, another thing at the path, a full disk."""

import contextlib
import errno
import json
import os
import re
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from really import ReplayBuffer
from really._utils.mapped_files import MappedFile
from really.errors import DiskFullError, FileError, InvalidFileError, InvalidValueError
from really.replay.disk.folder import CURSOR, RECORDS
from really.replay.disk.schema import SCHEMA, identity_without_schema

SPEC = {"x": ("float32", (1000,)), "y": "int64"}
STRIDE = 4032


def rows(first, num):
    number = np.arange(first, first + num)
    return {"x": np.repeat(number[:, None], 1000, axis=1).astype(np.float32), "y": number}


@pytest.fixture
def folder(tmp_path):
    """A buffer of 10 rows with a spare of 2, into which 14 rows have been put."""
    with ReplayBuffer(10, spec=SPEC, path=tmp_path / "b", spare=2, seed=0) as buffer:
        buffer.put(rows(0, 14))
    return tmp_path / "b"


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != "lock"}


OTHERS = {
    "capacity": (11, {"spec": SPEC}, r"capacity: expected 10, as the buffer at .*/b has, got 11"),
    "spare": (10, {"spec": SPEC, "spare": 3}, r"spare: expected 2, .*, got 3"),
    "keys": (10, {"keys": ["x", "z"]}, r"keys: expected \['x', 'y'\], .*, got \['x', 'z'\]"),
    "fewer keys": (10, {"keys": ["x"]}, r"keys: expected \['x', 'y'\], .*, got \['x'\]"),
    "spec's keys": (10, {"spec": {"x": "f4"}}, r"spec: expected the keys \['x', 'y'\], .*, got \['x'\]"),
    "dtype": (
        10,
        {"spec": SPEC | {"y": "int32"}},
        r"spec: key 'y': expected int64 of shape \(\), .*, got int32 of shape",
    ),
    "shape": (
        10,
        {"spec": SPEC | {"x": ("f4", (10, 100))}},
        r"key 'x': expected float32 of shape \(1000,\), .*\(10, 100\)",
    ),
}


@pytest.mark.parametrize(("capacity", "arguments", "message"), OTHERS.values(), ids=OTHERS)
def test_another_buffer_is_refused_and_left_alone(folder, capacity, arguments, message):
    before = files(folder)
    with pytest.raises(InvalidValueError, match=message):
        ReplayBuffer(capacity, path=folder, **arguments)
    assert files(folder) == before
    ReplayBuffer(10, path=folder).close()


def changed(path, at, more=1):
    data = bytearray(path.read_bytes())
    data[at] = (data[at] + more) % 256
    path.write_bytes(bytes(data))


def renamed(folder, **changes):
    """schema.json with these entries of the file, or of the buffer in it, whose checksum is right."""
    text = json.loads((folder / SCHEMA).read_text())
    for name, value in changes.items():
        (text if name in text else text["buffer"])[name] = value
    text["crc32"] = zlib.crc32(json.dumps(text["buffer"], sort_keys=True).encode())
    (folder / SCHEMA).write_text(json.dumps(text))


DAMAGES = {
    "records cut": (
        lambda at: os.truncate(at / RECORDS, 4096),
        r"records: expected a file of 48,384 bytes, got 4,096",
    ),
    "records longer": (
        lambda at: os.truncate(at / RECORDS, 1 << 20),
        r"records: expected a file of 48,384 bytes, got",
    ),
    "records gone": (lambda at: (at / RECORDS).unlink(), r"records: expected to open and map it, but No such file"),
    "cursor cut": (lambda at: os.truncate(at / CURSOR, 64), r"cursor: expected a file of 4,096 bytes, got 64"),
    "cursor empty": (lambda at: os.truncate(at / CURSOR, 0), r"cursor: expected a file of 4,096 bytes, got 0"),
    "magic": (
        lambda at: changed(at / CURSOR, 0),
        r"cursor: expected at its start 5245414c4c595242, got 5345414c4c5952",
    ),
    "version": (
        lambda at: changed(at / CURSOR, 8),
        r"cursor: expected as version 04[0]{14}, got 05[0]{14}: damaged or",
    ),
    "another's cursor": (
        lambda at: changed(at / CURSOR, 20),
        r"cursor: expected as the buffer's identity [0-9a-f]{32}, got",
    ),
    "rows put": (lambda at: changed(at / CURSOR, 71, 128), r"expected 0 <= first row <= rows put, got 0 and -\d+ "),
    "first row": (
        lambda at: changed(at / CURSOR, 73),
        r"expected 0 <= first row <= rows put, got 256 and 14 \(14 begun",
    ),
    "begun": (
        lambda at: changed(at / CURSOR, 82),
        r"expected 0 <= first row <= rows put, got 0 and 14 \(65550 begun, kept",
    ),
    "schema.json cut": (
        lambda at: os.truncate(at / SCHEMA, 100),
        r"schema.json: expected what a buffer is, got a damaged",
    ),
    "schema.json empty": (
        lambda at: os.truncate(at / SCHEMA, 0),
        r"schema.json: expected what a buffer is, got a damaged",
    ),
    "schema.json of others": (
        lambda at: (at / SCHEMA).write_text("[1]"),
        r"schema.json: expected what a buffer is, got",
    ),
    "a digit in it": (
        lambda at: (at / SCHEMA).write_text((at / SCHEMA).read_text().replace('"capacity": 10', '"capacity": 11')),
        r"schema.json: expected the checksum \d+, got \d+: it is damaged",
    ),
    "another version": (
        lambda at: renamed(at, version=1),
        r"expected really-buffer-folder of version 4, got .* version 1",
    ),
    "another format": (
        lambda at: renamed(at, format="x"),
        r"expected really-buffer-folder of version 4, got x of version",
    ),
    "byte order": (lambda at: renamed(at, byteorder="big"), r"expected rows of a little-endian machine, got big"),
    "layout": (lambda at: renamed(at, generator="MT"), r"schema.json: expected rows laid out as this version does"),
}


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_and_not_repaired(folder, damage, message, mode):
    damage(folder)
    before = files(folder)
    with pytest.raises((InvalidValueError, FileError), match=message):
        ReplayBuffer.open(folder, mode)
    assert files(folder) == before


PLACES = {
    "a file": (
        lambda at: at.write_text("hello"),
        r"expected the folder of a buffer, or nothing, got a file that starts",
    ),
    "a saved buffer": (lambda at: ReplayBuffer(3, spec={"x": "f4"}).save(at), r"got a file that starts with b'ARROW1"),
    "others' files": (
        lambda at: (at.mkdir(), (at / "thesis.tex").write_text("x")),
        r"expected the folder of a buffer, an empty one, or nothing, got .*, with thesis.tex",
    ),
    "a file on the way": (lambda at: at.parent.write_text("x"), r"expected to write the folder of a buffer, but"),
}


@pytest.mark.parametrize(("make", "message"), PLACES.values(), ids=PLACES)
def test_what_else_is_at_the_path_is_left_alone(tmp_path, make, message):
    path = tmp_path / "deep" / "b"
    if make is not PLACES["a file on the way"][0]:
        path.parent.mkdir()
    make(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((InvalidValueError, FileError), match=message):
        ReplayBuffer(5, spec=SPEC, path=path)
    assert sorted(tmp_path.rglob("*")) == before


NO_BUFFER = {
    "nothing": (lambda at: None, "expected the folder of a buffer, got nothing"),
    "empty": (lambda at: at.mkdir(), "got a folder without schema.json, with nothing in it"),
    "no put": (lambda at: ReplayBuffer(5, ["x"], path=at).close(), "folder without rows: its first put writes the sch"),
    "a file": (lambda at: at.write_text("hello"), "got a file that starts with b'hello'"),
}


@pytest.mark.parametrize(("make", "message"), NO_BUFFER.values(), ids=NO_BUFFER)
def test_open_needs_a_buffer(tmp_path, make, message):
    make(tmp_path / "b")
    with pytest.raises(InvalidValueError, match=message):
        ReplayBuffer.open(tmp_path / "b", "r+")


def test_modes(folder):
    with pytest.raises(InvalidValueError, match=r"mode: expected one of 'r', 'r\+', got 'w'"):
        ReplayBuffer.open(folder, "w")
    with pytest.raises(ValueError, match="spare: expected an integer from 1 to"):
        ReplayBuffer(10, path=folder, spare=0)


def test_a_refused_put_leaves_the_files_as_they_were(folder):
    with ReplayBuffer(10, path=folder) as buffer:
        before = files(folder)
        for wrong in ({"x": np.zeros((2, 999)), "y": [1, 2]}, {"x": np.zeros((2, 1000)), "y": [1.5, 2]}, {"y": [1]}):
            with pytest.raises((ValueError, TypeError), match="put: "):
                buffer.put(wrong)
        assert files(folder) == before


def test_a_capacity_that_does_not_fit_the_disk(tmp_path):
    left = os.statvfs(tmp_path)
    capacity = 2 * left.f_bavail * left.f_frsize // STRIDE
    message = r"needs [\d,]+ bytes of disk, available are [\d,]+ \(overcommit=True goes on\)"
    with pytest.raises(DiskFullError, match=message) as caught:
        ReplayBuffer(capacity, spec=SPEC, path=tmp_path / "b")
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "b").exists()
    buffer = ReplayBuffer(capacity, ["x", "y"], path=tmp_path / "b")
    with pytest.raises(DiskFullError, match=message):
        buffer.put(rows(0, 1))
    assert len(buffer) == 0
    buffer.close()
    with ReplayBuffer(capacity, spec=SPEC, path=tmp_path / "b", overcommit=True) as buffer:
        buffer.put(rows(0, 1))
        assert len(buffer) == 1


@contextlib.contextmanager
def mounted(at, size):
    """A file system in memory of that size, mounted at `at`."""
    at.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def attempt(call):
    """The DiskFullError of a call; None if there is none."""
    try:
        call()
    except DiskFullError as error:
        return error
    return None


def test_two_buffers_are_not_promised_the_same_disk(tmp_path):
    with mounted(tmp_path / "disk", "20m") as disk:
        one = ReplayBuffer(3000, spec=SPEC, path=disk / "one", spare=10)
        with pytest.raises(DiskFullError, match="needs 12,136,320 bytes of disk, available are"):
            ReplayBuffer(3000, spec=SPEC, path=disk / "two", spare=10)
        one.close()


def test_a_disk_that_fills_up_refuses_the_put_and_nothing_else(tmp_path):
    with mounted(tmp_path / "disk", "12m") as disk:
        buffer = ReplayBuffer(10_000, spec=SPEC, path=disk / "b", overcommit=True, spare=100, seed=0)
        put = 0
        while (refused := attempt(lambda first=put: buffer.put(rows(first, 100)))) is None:
            put += 100
        message = r"put: 100 rows do not fit, none is in: .*needs [\d,]+ bytes more, available are"
        assert re.search(message, str(refused))
        assert refused.errno == errno.ENOSPC
        assert put > 2000
        assert_holds(buffer, 0, put)
        with pytest.raises(DiskFullError, match="none is in"):
            buffer.put({"x": np.ones((500, 1000)), "y": np.arange(500)})  # converted first, and more than the spare
        assert_holds(buffer, 0, put)
        while put % 100 != 99:
            if attempt(lambda first=put: buffer.put(rows(first, 1))):  # fills the last page that is there
                break
            put += 1
        assert_holds(buffer, 0, put)
        buffer.close()
        (disk / "b" / "lock").write_text("")
        with ReplayBuffer(10_000, path=disk / "b") as again:
            assert_holds(again, 0, put)
            subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
            again.put(rows(put, 500))
            assert_holds(again, 0, put + 500)


def test_a_full_buffer_needs_no_more_disk(tmp_path):
    with mounted(tmp_path / "disk", "6m") as disk:
        with ReplayBuffer(1000, spec=SPEC, path=disk / "b", spare=100) as buffer:
            for first in range(0, 1200, 100):
                buffer.put(rows(first, 100))
            with open(disk / "rest", "wb", buffering=0) as rest, contextlib.suppress(OSError):
                while True:
                    rest.write(bytes(4096))
            for first in range(1200, 5000, 100):
                buffer.put(rows(first, 100))
            buffer.flush()
            assert_holds(buffer, 4000, 1000)
        with ReplayBuffer.open(disk / "b", "r+") as again:
            again.put(rows(5000, 300))
            assert_holds(again, 4300, 1000)


def assert_holds(buffer, first, num):
    held = buffer.take(range(len(buffer)))
    assert held["y"].tolist() == list(range(first, first + num))
    assert (held["x"] == held["y"][:, None]).all()


def test_a_full_disk_while_the_folder_is_made(tmp_path):
    with mounted(tmp_path / "disk", "1m") as disk:
        (disk / "rest").write_bytes(bytes(1020 << 10))
        with pytest.raises(FileError, match=r"available are|No space left"):
            ReplayBuffer(10, spec={"y": "int64"}, path=disk / "b", overcommit=True)
        (disk / "rest").unlink()
        with ReplayBuffer(10, spec={"y": "int64"}, path=disk / "b", overcommit=True) as buffer:
            buffer.put({"y": [1]})


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda path: path.write_bytes(b"\xff" * 32),
            InvalidFileError,
            "b/identity: expected the identity of a buffer",
        ),
        (lambda path: path.write_bytes(b"ab" * 9), InvalidFileError, "expected 32 hexadecimal digits, got 'abababab"),
        (lambda path: path.mkdir(), FileError, "b/identity: expected"),
    ],
)
def test_an_identity_that_cannot_be_read(tmp_path, make, kind, message):
    with ReplayBuffer(10, path=tmp_path / "b") as buffer:
        make(tmp_path / "b" / "identity")
        with pytest.raises(kind, match=message):
            buffer.put({"y": 1})


def test_an_identity_that_cannot_be_written(tmp_path):
    with pytest.raises(FileError, match="gone/identity: expected to write") as raised:
        identity_without_schema(tmp_path / "gone", keeps=True)
    assert raised.value.errno == errno.ENOENT


@pytest.mark.parametrize("name", ["pwrite", "ftruncate"])
def test_a_lock_whose_owner_finds_no_room_for_its_name_is_released(folder, monkeypatch, name):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, name, refuse)
        with pytest.raises(FileError, match=r"expected to write .* No space left"):
            ReplayBuffer.open(folder, "r+")
    with ReplayBuffer.open(folder, "r+") as buffer:
        buffer.flush()


def test_a_path_that_cannot_be_written(tmp_path):
    with mounted(tmp_path / "disk", "8m") as disk:
        ReplayBuffer(10, spec=SPEC, path=disk / "b", spare=2).close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for path in (disk / "b", disk / "other"):
            with pytest.raises(FileError, match="expected to write the folder of a buffer, but Read-only file system"):
                ReplayBuffer(10, spec=SPEC, path=path)
        assert len(ReplayBuffer.open(disk / "b")) == 0


def test_a_file_that_cannot_be_mapped(tmp_path):
    """Files of sysfs open and have a length but cannot be mapped, like files of some other file systems."""
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not file.exists():
        pytest.skip("needs a file of sysfs")
    with pytest.raises(FileError, match=r"expected a file system whose files can be mapped \(mmap\)"):
        MappedFile(file, file.stat().st_size, writable=False)


def test_a_copy_without_its_zeros_gets_its_blocks_back(tmp_path):
    with ReplayBuffer(2000, spec=SPEC, path=tmp_path / "b", spare=100) as buffer:
        buffer.put({"x": np.zeros((2000, 1000)), "y": np.zeros(2000, int)})
        buffer.flush()
    subprocess.run(["cp", "-r", "--sparse=always", tmp_path / "b", tmp_path / "copy"], check=True)
    assert (tmp_path / "copy" / RECORDS).stat().st_blocks * 512 < 1 << 20
    with ReplayBuffer(2000, path=tmp_path / "copy"):
        assert (tmp_path / "copy" / RECORDS).stat().st_blocks * 512 >= 2000 * STRIDE


def test_frames_for_which_the_disk_has_no_room_are_refused_and_nothing_is_lost(tmp_path):
    draw = np.random.default_rng(0)

    def noise(num):
        return {"state": draw.integers(0, 99, (num, 4, 20, 20), np.int64), "number": np.arange(num)}

    with mounted(tmp_path / "disk", "6m") as disk:
        spec = {"state": (np.int64, (4, 20, 20)), "number": np.int64}
        buffer = ReplayBuffer(2000, spec=spec, path=disk / "b", overcommit=True, spare=100, seed=0)
        parts = []
        while (refused := attempt(lambda: buffer.put(parts[-1]))) is None if parts else True:
            parts.append(noise(50))
        assert re.search(r"put: key 'state': .*no block more for frames, none is in: No space left", str(refused))
        kept = {key: np.concatenate([part[key] for part in parts[:-1]]) for key in spec}
        assert len(buffer) == len(kept["number"]) > 100
        held = buffer.take(np.arange(len(buffer)))
        assert all(np.array_equal(held[key], kept[key]) for key in spec)
        buffer.close()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        with ReplayBuffer.open(disk / "b", mode="r+") as again:
            again.put(parts[-1])
            held = again.take(np.arange(len(again)))
            assert np.array_equal(held["state"], np.concatenate([part["state"] for part in parts]))


def test_what_no_file_can_hold_is_refused(tmp_path):
    spec = {"x": (np.uint8, (1 << 25,))}
    with pytest.raises(FileError, match=r"needs [0-9,]+ bytes, more than a file can have"):
        ReplayBuffer((1 << 39) + 1, spec=spec, path=tmp_path / "buffer", overcommit=True, dedup=False)
