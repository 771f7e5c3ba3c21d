"""Saved buffers: one Arrow IPC file with a buffer's rows, oldest first, its generator and its options.

Any Arrow reader opens the file: it has record batches of `arrow_types`, compressed with zstd. The schema's metadata
describes the buffer as JSON, under `really.buffer`. Each record batch has the CRC-32 of its rows as the buffer holds
them, so that a damaged file is refused. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from really._utils.atomic_files import described, replacing, starts_with
from really._utils.checks import checked_integer, checked_path
from really._utils.file_formats import ARROW_MAGIC, array_to_json, arrow_path, json_object
from really._utils.input_files import DAMAGE, reading
from really._utils.progress import advance, progress_bar
from really.data.schema import spec_of_columns
from really.errors import InvalidFileError, InvalidValueError, one_of
from really.replay.arguments import MOST_ROWS
from really.replay.io.checksums import CHECK, crc32_of_columns, fingerprint
from really.replay.io.first_format import DEFAULTS, FIRST_FORMAT, first_crc32, first_fingerprint
from really.replay.options import BufferOptions
from really.replay.priorities import NO_END
from really.replay.removed_rows import from_text
from really.replay.samplers import VALUE
from really.replay.snapshot import Description
from really.replay.streams import Saved, SavedMoment

if TYPE_CHECKING:
    import pyarrow as pa

ABOUT = b"really.buffer"
FORMAT = "really-buffer-2"
WHAT, WHAT_READ = "a saved buffer", "a saved buffer that is whole"
CHUNK = 4 << 20
PLACES = "removed", "lost"
"""Parts of a description that say which rows, as text."""
COMPRESSIONS = ("zstd", "lz4", "none")
Buffer = TypeVar("Buffer", bound=Sized)
Restore = Callable[[Description, Iterable[dict[str, Any]]], Buffer]
"""Makes a buffer from a description and its rows, part by part."""


def save(buffer: Saved, path: str | PathLike[str], *, compression: str = "zstd", chunk_bytes: int = CHUNK) -> None:
    """As of `ReplayBuffer`. A record batch has `chunk_bytes` bytes."""
    import pyarrow as pa

    if compression not in COMPRESSIONS:
        raise InvalidValueError(one_of("compression", compression, COMPRESSIONS))
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    buffer.check_open("save")
    with replacing(checked_path("path", path), ARROW_MAGIC, WHAT) as file, buffer.snapshot("save") as snapshot:
        schema = _schema(snapshot)
        with pa.ipc.new_file(file, schema, options=options) as writer:
            if snapshot.spec is not None:
                _write_rows(snapshot, writer, schema, chunk_bytes)


def load(restore: Restore[Buffer], path: str | PathLike[str]) -> Buffer:
    """As of `ReplayBuffer`. `restore` makes the buffer, as `ReplayBuffer.restore` does."""
    import pyarrow as pa

    from really.data import arrow_columns

    _check_start(path)
    with reading(path, WHAT_READ), pa.OSFile(arrow_path(path)) as source, pa.ipc.open_file(source) as file:
        about, spec = _about(path, file.schema), None
        if len(file.schema):
            no_rows = _columns(arrow_columns.empty_batch(file.schema), about["columns"])
            spec = spec_of_columns(no_rows)
        priorities = about["priorities"]
        first = priorities["newest"] - about["num_rows"] if priorities else about.get("first_number", 0)
        places = [_places(about, name) for name in PLACES]
        description = Description(BufferOptions.from_dict(about), about["generator"], spec, first, priorities, *places)
        with progress_bar("loading", about["num_rows"], "row") as bar:
            keys = about["columns"] + ([VALUE] if priorities else [])
            parts = _read_rows(path, file, keys, about["format"], bar)
            buffer = restore(description, parts)
        num_rows = about["num_rows"] - len(from_text(description.removed, about["num_rows"]))
    if len(buffer) != num_rows:
        raise InvalidFileError(f"{path}: expected {num_rows:,} rows, got {len(buffer):,}")
    return buffer


def describe(path: str | PathLike[str]) -> dict[str, Any]:
    """The description of a saved buffer, without its rows: `capacity`, `num_rows`, `keys`, `generator`, ...

    Raises InvalidFileError as `load` does.
    """
    import pyarrow as pa

    _check_start(path)
    with reading(path, WHAT_READ), pa.OSFile(arrow_path(path)) as source, pa.ipc.open_file(source) as file:
        return _about(path, file.schema)


def _check_start(path: str | PathLike[str]) -> None:
    if not starts_with(checked_path("path", path), ARROW_MAGIC):
        hint = "; ReplayBuffer.open() opens the folder of a buffer" if checked_path("path", path).is_dir() else ""
        raise InvalidFileError(f"{path}: expected {WHAT}, got {described(path)}{hint}")


def _schema(snapshot: SavedMoment) -> pa.Schema:
    import pyarrow as pa

    from really.data import arrow_frames, arrow_types

    spec, priorities = snapshot.spec or {}, snapshot.priorities
    about = {"format": FORMAT, "num_rows": snapshot.num_rows, "columns": list(spec), "generator": snapshot.generator}
    about["priorities"] = priorities and {name: part for name, part in priorities.items() if name != "values"}
    if snapshot.first_number and not priorities:
        about["first_number"] = snapshot.first_number
    about |= {name: text for name in PLACES if (text := getattr(snapshot, name))}
    text = json.dumps(about | snapshot.options.to_dict(), default=array_to_json).encode()
    fields = arrow_frames.fields(spec, snapshot.sharings)
    names = {field.name for field in fields}
    rest = arrow_types.schema_of({key: kind for key, kind in spec.items() if key not in names})
    value = [pa.field(VALUE, pa.float64(), nullable=False)] if priorities else []
    schema = pa.schema([*rest, *value, *fields])
    return schema.with_metadata({ABOUT: text, CHECK: str(fingerprint(schema, zlib.crc32(text)))})


def _about(path: str | PathLike[str], schema: pa.Schema) -> dict[str, Any]:
    """The description of the buffer in the schema's metadata, checked."""
    metadata = schema.metadata or {}
    if ABOUT not in metadata:
        raise InvalidFileError(f"{path}: expected {WHAT}, got another Arrow file, of columns {schema.names}")
    text = metadata[ABOUT]
    checks = {FORMAT: fingerprint(schema, zlib.crc32(text)), FIRST_FORMAT: first_fingerprint(schema, text)}
    written = next((name for name, check in checks.items() if metadata.get(CHECK) == str(check).encode()), None)
    if written is None:
        raise InvalidFileError(
            f"{path}: expected {WHAT} that is whole, in format {FORMAT!r}, got one whose description is damaged or of "
            f"another format"
        )
    about = {**(DEFAULTS if written == FIRST_FORMAT else {}), **json_object(text, arrays=True)}
    if about["format"] != written:
        raise InvalidFileError(f"{path}: expected format {written!r}, got {about['format']!r}")
    _check_numbers(about)
    return about


def _check_numbers(about: dict[str, Any]) -> None:
    """Raises ValueError, TypeError or KeyError if a buffer cannot have these rows."""
    num_rows = checked_integer("num_rows", about["num_rows"], 0, checked_integer("capacity", about["capacity"]))
    priorities = about["priorities"]
    if priorities is not None:
        checked_integer("newest", priorities["newest"], num_rows, NO_END - MOST_ROWS)
    checked_integer("first_number", about.get("first_number", 0), 0, NO_END - MOST_ROWS)
    if not all(isinstance(key, str) for key in about["columns"]):
        raise InvalidValueError(f"columns: expected names, got {about['columns']}")


def _places(about: dict[str, Any], name: str) -> str:
    """Which rows are removed, or lost; raises ValueError or TypeError if the buffer cannot have these."""
    text = about.get(name, "")
    from_text(text, about["num_rows"])
    return str(text)


def _write_rows(snapshot: SavedMoment, writer: Any, schema: pa.Schema, chunk_bytes: int) -> None:
    reader, priorities = snapshot.reader, snapshot.priorities
    num = max(1, chunk_bytes // (snapshot.row_nbytes if snapshot.sharings else reader.row_nbytes()))
    with progress_bar("saving", reader.num_rows, "row") as bar:
        while reader.num_left:
            done = reader.num_read
            columns = reader.read_shared(num) if snapshot.sharings else reader.read(num)
            if priorities:
                columns[VALUE] = priorities["values"][done : reader.num_read]
            _write_chunk(columns, done, writer, schema)
            advance(bar, reader.num_read)


def _write_chunk(columns: Mapping[str, Any], first: int, writer: Any, schema: pa.Schema) -> None:
    import pyarrow as pa

    from really.data import arrow_frames, arrow_types

    shared = arrow_frames.arrays(columns)
    plain = arrow_types.to_batch(columns, pa.schema([field for field in schema if field.name not in shared]))
    arrays = [*plain.columns, *(array for _, array in shared.values())]
    batch = pa.record_batch(arrays, schema=schema.remove_metadata())
    writer.write_batch(batch, custom_metadata={CHECK: str(_crc32(columns, first))})


def _read_rows(
    path: str | PathLike[str], file: Any, keys: list[str], written: str, bar: Any
) -> Iterator[dict[str, Any]]:
    num_rows = 0
    for at in range(file.num_record_batches):
        batch, check = file.get_batch_with_custom_metadata(at)
        try:
            batch.validate(full=True)  # or an array could be longer than its memory
            columns = _columns(batch, keys)
        except DAMAGE:
            columns = {}  # too damaged to be read
        right = first_crc32(columns) if written == FIRST_FORMAT else _crc32(columns, num_rows)
        if not columns or check is None or check.get(CHECK) != str(right).encode():
            raise InvalidFileError(
                f"{path}: expected rows as they were saved, but rows {num_rows:,} to "
                f"{num_rows + len(batch) - 1:,} are damaged"
            )
        num_rows += len(batch)
        yield columns
        advance(bar, num_rows)


def _columns(batch: pa.RecordBatch, keys: list[str]) -> dict[str, Any]:
    """The columns of a record batch in the order of `keys`; columns that shared frames in the buffer still do."""
    from really.data import arrow_frames, arrow_types

    shared, plain = arrow_frames.columns_of(batch), arrow_types.FileColumns(batch)
    return {key: shared[key] if key in shared else plain[key] for key in keys}


def _crc32(columns: Mapping[str, Any], first: int) -> int:
    """CRC-32 of the rows from number `first` of the file on: batches that change places have others."""
    return crc32_of_columns(columns, zlib.crc32(first.to_bytes(8, "little")))
