"""What a buffer's folder says of itself: schema.json, from which the layout of the other files follows."""

from __future__ import annotations

import json
import os
import sys
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from really._utils.atomic_files import sync_folder
from really.data.frames import Sharing, field_nbytes, frame_nbytes
from really.errors import FileError, InvalidValueError
from really.replay._ring import row_stride
from really.replay.columns import Spec, dtype_from_json

FORMAT, VERSION = "really-buffer-folder", 3
SCHEMA, PARTIAL = "schema.json", "schema.json.partial"
WHAT = "the folder of a buffer"
LEAST_SPARE = 8192
GENERATOR = "SFC64"


class About(NamedTuple):
    """What a buffer on disk is, from its first row to its last."""

    capacity: int
    spare: int
    spec: Spec
    shared: tuple[Sharing, ...]
    identity: str  # the same in schema.json and cursor, so that files of two buffers are not taken for one
    n_step: int = 1
    gamma: float | None = None
    prioritized: bool = False  # it was made with priorities, so that a file of theirs has to be there

    @classmethod
    def new(
        cls,
        capacity: int,
        spec: Spec,
        spare: int | None,
        shared: Sequence[Sharing],
        drawn_by: tuple[int, float | None, bool],
    ) -> About:
        """That of a buffer to be made; a `spare` of None is the default, max(8192, capacity / 64)."""
        spare = max(LEAST_SPARE, capacity // 64) if spare is None else spare
        return cls(capacity, spare, spec, tuple(shared), uuid.uuid4().hex, *drawn_by)

    @property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        return row_stride(field_nbytes(self.spec, self.shared))

    @property
    def nbytes(self) -> int:
        """Bytes of all files when the buffer is full; of frames, those of rows that share as they may."""
        return int(self.num_slots * (self.stride + frame_nbytes(self.spec, self.shared)))

    @property
    def num_slots(self) -> int:
        """Places for rows."""
        return self.capacity + self.spare

    def to_json(self, offsets: list[int]) -> dict[str, Any]:
        """All of it in words that JSON has."""
        columns = [
            {"key": key, "dtype": np.lib.format.dtype_to_descr(dtype), "shape": list(shape), "offset": offset}
            for (key, (dtype, shape)), offset in zip(self.spec.items(), offsets, strict=True)
        ]
        names = {"capacity": self.capacity, "spare": self.spare, "stride": self.stride, "columns": columns}
        names |= {"shared": [[list(columns), stack, axis] for columns, stack, axis in self.shared]}
        names |= {"n_step": self.n_step, "gamma": self.gamma, "prioritized": self.prioritized}
        names |= {"generator": GENERATOR, "byteorder": sys.byteorder, "identity": self.identity}
        return dict(json.loads(json.dumps(names)))  # as it will be read: lists where there are tuples

    @classmethod
    def from_json(cls, names: dict[str, Any]) -> About:
        """What `to_json` gave."""
        spec = {
            column["key"]: (
                dtype_from_json(column["dtype"]),
                tuple(column["shape"]),
            )
            for column in names["columns"]
        }
        shared = tuple(Sharing(tuple(columns), stack, axis) for columns, stack, axis in names["shared"])
        given = (names[name] for name in ("identity", "n_step", "gamma", "prioritized"))
        return cls(names["capacity"], names["spare"], spec, shared, *given)


def read(folder: Path) -> dict[str, Any] | None:
    """What schema.json says, checked; None where there is none."""
    path = folder / SCHEMA
    try:
        text = json.loads(path.read_bytes())
        found = text["format"], text["version"], text["crc32"], text["buffer"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError(error.errno, f"{path}: expected to read it, but {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(f"{path}: expected what a buffer is, got a damaged file: {error}") from error
    if found[:2] != (FORMAT, VERSION):
        raise InvalidValueError(f"{path}: expected {FORMAT} of version {VERSION}, got {found[0]} of version {found[1]}")
    names: dict[str, Any] = found[3]
    if found[2] != _crc32(names):
        raise InvalidValueError(f"{path}: expected the checksum {_crc32(names)}, got {found[2]}: it is damaged")
    if names["byteorder"] != sys.byteorder:
        raise InvalidValueError(f"{path}: expected rows of a {sys.byteorder}-endian machine, got {names['byteorder']}")
    return names


def write(folder: Path, names: dict[str, Any]) -> None:
    """Writes schema.json under another name and renames it: from then on the folder is a buffer."""
    text = json.dumps({"format": FORMAT, "version": VERSION, "crc32": _crc32(names), "buffer": names}, indent=1)
    try:
        with open(folder / PARTIAL, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(folder / PARTIAL, folder / SCHEMA)
        sync_folder(folder)
    except OSError as error:
        raise FileError(error.errno, f"{folder}: expected to write {WHAT}, but {error.strerror}") from error


def differences(
    about: About,
    capacity: int,
    keys: tuple[str, ...] | None,
    spec: Spec | None,
    spare: int | None,
    steps: tuple[int, float | None],
) -> Iterator[tuple[str, Any, Any]]:
    """What of a buffer to be opened is not as that of `about`: name, expected, got."""
    if capacity != about.capacity:
        yield "capacity", f"{about.capacity:,}", f"{capacity:,}"
    if spare is not None and spare != about.spare:
        yield "spare", f"{about.spare:,}", f"{spare:,}"
    if keys is not None and set(keys) != set(about.spec):
        yield "keys", list(about.spec), list(keys)
    if spec is not None and set(spec) != set(about.spec):
        yield "spec", f"the keys {list(about.spec)}", list(spec)
    for key, kind in (spec or {}).items():
        if kind != about.spec[key]:
            yield f"spec: key {key!r}", "{} of shape {}".format(*about.spec[key]), "{} of shape {}".format(*kind)
    if steps != (about.n_step, about.gamma):
        yield "n_step, gamma", (about.n_step, about.gamma), f"{steps}; ReplayBuffer.open takes others"


def _crc32(names: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(names, sort_keys=True).encode())
