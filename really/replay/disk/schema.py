"""schema.json: what a buffer on disk is. The layout of the folder's other files follows from it."""

from __future__ import annotations

import json
import os
import sys
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self, SupportsIndex

from really._utils.atomic_files import replacing, sync_folder
from really._utils.checks import checked_bool, checked_integer
from really._utils.file_formats import read_json
from really._utils.input_files import as_file_error, read_small
from really._utils.system import reason_of
from really.data.frames import Sharing, check_sharings, field_nbytes, frame_nbytes
from really.data.schema import ColumnSpec, Spec, dtype_from_json, dtype_to_json, shape_from_json
from really.errors import FileError, InvalidFileError, InvalidValueError
from really.replay._ring import row_stride
from really.replay.arguments import MOST_ROWS
from really.replay.options import BufferOptions
from really.replay.registry import Kind

FORMAT, VERSION = "really-buffer-folder", 4
SCHEMA, PARTIAL, IDENTITY = "schema.json", "schema.json.partial", "identity"
WHAT = "the folder of a buffer"
LEAST_SPARE = 8192
GENERATOR = "SFC64"


class FolderOptions(NamedTuple):
    """What a folder is made with besides the buffer's options; None is the default, or what the folder has.

    `spare` are rows beyond the capacity, by default max(8192, capacity / 64). `checksums` says whether rows get some.
    """

    spare: int | None = None
    checksums: bool | None = None

    @classmethod
    def checked(cls, spare: SupportsIndex | None, checksums: bool | None) -> Self:
        """Those that a caller gives; raises InvalidValueError or InvalidTypeError, naming the argument."""
        return cls(
            None if spare is None else checked_integer("spare", spare, 1, MOST_ROWS),
            None if checksums is None else checked_bool("checksums", checksums),
        )


@dataclass(frozen=True)
class FolderSchema:
    """What a buffer on disk is, from its first row to its last.

    `identity` is the same in schema.json and in the cursor, so that files of two buffers are never mixed.
    `prioritized` says that there has to be a file of priorities. `sampler` and `unit` are as in `BufferOptions`.
    `checksums` says whether rows get checksums.
    """

    capacity: int
    spare: int
    spec: Spec
    shared: tuple[Sharing, ...]
    identity: str
    n_step: int = 1
    gamma: float | None = None
    prioritized: bool = False
    sampler: Kind | None = None
    unit: Kind | None = None
    checksums: bool = True

    @classmethod
    def new(cls, options: BufferOptions, spec: Spec, given: FolderOptions, identity: str) -> FolderSchema:
        """The schema of a buffer to be made."""
        spare = max(LEAST_SPARE, options.capacity // 64) if given.spare is None else given.spare
        steps = (options.n_step, options.gamma, options.alpha is not None)
        parts = (options.sampler, options.unit)
        shared, checksums = tuple(options.plan(spec)), given.checksums is not False
        return cls(options.capacity, spare, spec, shared, identity, *steps, *parts, checksums)

    def options(self) -> dict[str, Any]:
        """The options that the folder keeps, as a buffer's constructor takes them; priorities keep alpha and eps."""
        found = {"capacity": self.capacity, "n_step": self.n_step, "gamma": self.gamma}
        return found | {"sampler": self.sampler, "unit": self.unit}

    @cached_property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        return row_stride(field_nbytes(self.spec, self.shared))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all files when the buffer is full, if frames are shared as far as they can be."""
        return int(self.num_slots * (self.stride + frame_nbytes(self.spec, self.shared)))

    @property
    def num_slots(self) -> int:
        """Places for rows."""
        return self.capacity + self.spare

    def to_json(self, offsets: list[int]) -> dict[str, Any]:
        """All of it as JSON has it: lists in place of tuples."""
        columns = [
            {"key": key, "dtype": dtype_to_json(dtype), "shape": list(shape), "offset": offset}
            for (key, (dtype, shape)), offset in zip(self.spec.items(), offsets, strict=True)
        ]
        names = {"capacity": self.capacity, "spare": self.spare, "stride": self.stride, "columns": columns}
        names |= {"shared": [[list(columns), stack, axis] for columns, stack, axis in self.shared]}
        names |= {"n_step": self.n_step, "gamma": self.gamma, "prioritized": self.prioritized}
        names |= {name: kind for name, kind in (("sampler", self.sampler), ("unit", self.unit)) if kind is not None}
        names |= {} if self.checksums else {"checksums": False}
        names |= {"generator": GENERATOR, "byteorder": sys.byteorder, "identity": self.identity}
        has_tuples = self.sampler or self.unit or not all(isinstance(column["dtype"], str) for column in columns)
        return dict(json.loads(json.dumps(names))) if has_tuples else names

    @classmethod
    def from_json(cls, names: dict[str, Any]) -> FolderSchema:
        """The schema that `to_json` gave; raises ValueError, TypeError or KeyError if no buffer can have it."""
        for name in ("capacity", "spare"):
            checked_integer(name, names[name], 1, MOST_ROWS)
        spec = {
            column["key"]: ColumnSpec(dtype_from_json(column["dtype"]), shape_from_json(column["shape"]))
            for column in names["columns"]
        }
        _checked_identity(names["identity"])
        if not all(isinstance(key, str) for key in spec) or len(spec) != len(names["columns"]):
            raise InvalidValueError(f"columns: expected different keys, got {list(spec)}")
        shared = tuple(Sharing(tuple(columns), stack, axis) for columns, stack, axis in names["shared"])
        check_sharings(spec, shared)
        given = {name: names[name] for name in ("capacity", "spare", "identity", "n_step", "gamma", "prioritized")}
        given |= {name: (names[name][0], names[name][1]) for name in ("sampler", "unit") if name in names}
        checksums = checked_bool("checksums", names.get("checksums", True))
        return cls(spec=spec, shared=shared, checksums=checksums, **given)


def identity_without_schema(folder: Path, keeps: bool) -> str:
    """Reads the identity of a buffer without a schema. If there is none, makes one.

    With `keeps` it writes the new one to the folder, where later calls find it. Raises FileError if it cannot be read
    or written.
    """
    path = folder / IDENTITY
    if path.exists():
        return _read_identity(path)
    new = uuid.uuid4().hex
    if keeps:
        with replacing(path, b"", "a buffer's identity") as file:
            file.write(new.encode())
    return new


def _read_identity(path: Path) -> str:
    try:
        return _checked_identity(read_small(path).decode())
    except OSError as error:
        raise as_file_error(path, error) from error
    except ValueError as error:
        raise InvalidFileError(f"{path}: expected the identity of a buffer, got a damaged file: {error}") from error


def _checked_identity(text: str) -> str:
    if len(bytes.fromhex(text)) != 16:
        raise InvalidValueError(f"identity: expected 32 hexadecimal digits, got {text!r}")
    return text


def read(folder: Path) -> dict[str, Any] | None:
    """The content of schema.json, checked; None if there is no such file."""
    path = folder / SCHEMA
    try:
        text = read_json(path, "what a buffer is")
        found = text["format"], text["version"], text["crc32"], text["buffer"]
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise InvalidFileError(f"{path}: expected what a buffer is, got a damaged file: {error}") from error
    except OSError as error:
        raise as_file_error(path, error) from error
    if found[:2] != (FORMAT, VERSION):
        raise InvalidFileError(f"{path}: expected {FORMAT} of version {VERSION}, got {found[0]} of version {found[1]}")
    names: dict[str, Any] = found[3]
    if found[2] != _crc32(names):
        raise InvalidFileError(f"{path}: expected the checksum {_crc32(names)}, got {found[2]}: it is damaged")
    if not isinstance(names, dict) or names.get("byteorder") != sys.byteorder:
        there = names.get("byteorder") if isinstance(names, dict) else names
        raise InvalidFileError(f"{path}: expected rows of a {sys.byteorder}-endian machine, got {there}")
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
        raise FileError(error.errno, f"{folder}: expected to write {WHAT}, but {reason_of(error, folder)}") from error


def differences(
    stored: FolderSchema, options: BufferOptions, spec: Spec | None, own: FolderOptions
) -> Iterator[tuple[str, Any, Any]]:
    """Yields (argument, stored value, given value) for each option that differs from the buffer on disk."""
    given = {"capacity": (f"{stored.capacity:,}", f"{options.capacity:,}")}
    if own.spare is not None:
        given["spare"] = (f"{stored.spare:,}", f"{own.spare:,}")
    if own.checksums is not None:
        given["checksums"] = (f"{stored.checksums}", f"{own.checksums}")
    steps, parts = (stored.n_step, stored.gamma), (stored.sampler, stored.unit)
    yield from ((name, there, here) for name, (there, here) in given.items() if there != here)
    yield from _column_differences(stored.spec, options.keys, spec)
    if (options.n_step, options.gamma) != steps:
        yield "n_step, gamma", steps, f"{(options.n_step, options.gamma)}; ReplayBuffer.open takes others"
    if (options.sampler, options.unit) != parts:
        yield "sampler, unit", parts, (options.sampler, options.unit)
    if (options.stack is not None or not options.dedup) and (plan := tuple(options.plan(stored.spec))) != stored.shared:
        yield "dedup, stack", [*map(tuple, stored.shared)], [*map(tuple, plan)]


def _column_differences(
    stored: Spec, keys: tuple[str, ...] | None, spec: Spec | None
) -> Iterator[tuple[str, Any, Any]]:
    if keys is not None and set(keys) != set(stored):
        yield "keys", list(stored), list(keys)
    if spec is not None and set(spec) != set(stored):
        yield "spec", f"the keys {list(stored)}", list(spec)
    for key, kind in (spec or {}).items():
        if kind != stored[key]:
            yield f"spec: key {key!r}", "{} of shape {}".format(*stored[key]), "{} of shape {}".format(*kind)


def _crc32(names: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(names, sort_keys=True).encode())
