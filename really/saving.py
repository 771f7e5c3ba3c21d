"""A buffer's checkpoint: one Arrow IPC file with its rows, oldest first, its generator and its arguments.

The file is what any Arrow reader opens: record batches of `arrow_types`, compressed with zstd. The schema's metadata
has under `really.buffer` what else there is to know, as JSON; each record batch has the CRC-32 of its rows as the
buffer holds them, so that a damaged file is refused and not read. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from really.columns import Spec
from really.errors import InvalidValueError, one_of
from really.whole_files import described, replacing, starts_with

if TYPE_CHECKING:
    import pyarrow as pa

    from really.buffer import ReplayBuffer
    from really.gate import Reader

MAGIC = b"ARROW1"
ABOUT, CHECK = b"really.buffer", b"really.crc32"
FORMAT = "really-buffer-1"
WHAT = "a saved buffer"
CHUNK = 4 << 20
COMPRESSIONS = ("zstd", "lz4", "none")


def save(
    buffer: ReplayBuffer, path: str | PathLike[str], *, compression: str = "zstd", chunk_bytes: int = CHUNK
) -> None:
    """Writes rows, order, generator, schema and arguments of the buffer to one file.

    The rows are those held when it begins. Others may put and sample meanwhile; a put that would drop a row not yet
    written waits. The file appears under its name when it is whole and on disk. Memory: one chunk, and what zstd
    takes for it, together below 20 MB whatever the buffer's size.

    Args:
        buffer: what to save.
        path: where to; a saved buffer there is replaced.
        compression: "zstd", "lz4" or "none".
        chunk_bytes: how long a record batch is.

    Raises:
        InvalidValueError: an unknown compression, or `path` holds something else.
        FileError: the file cannot be written.
    """
    import pyarrow as pa

    if compression not in COMPRESSIONS:
        raise InvalidValueError(one_of("compression", compression, COMPRESSIONS))
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    with replacing(path, MAGIC, WHAT) as file:
        if buffer.spec is None:
            pa.ipc.new_file(file, _schema(buffer, {}, 0)).close()
            return
        with buffer.open_reader(keeps=True) as reader:
            schema = _schema(buffer, buffer.spec, reader.num_rows)
            with pa.ipc.new_file(file, schema, options=options) as writer:
                _write_rows(reader, writer, schema, chunk_bytes)


def load(buffer_type: type[ReplayBuffer], path: str | PathLike[str]) -> ReplayBuffer:
    """The buffer that `save` wrote: the same rows in the same order, and the same batches to come.

    Raises:
        InvalidValueError: no saved buffer is there, or one that is cut, damaged or of another version.
        NotEnoughMemoryError: its capacity does not fit in the memory that is left.
    """
    import pyarrow as pa

    from really import arrow_types

    if not starts_with(path, MAGIC):
        raise InvalidValueError(f"{path}: expected {WHAT}, came {described(path)}")
    try:
        with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
            about = _about(path, file.schema)
            keys, capacity = about["keys"], about["capacity"]
            buffer = buffer_type(capacity, keys, overcommit=about["overcommit"])
            if len(file.schema):
                buffer.put(arrow_types.no_rows(file.schema))
            for columns in _read_rows(path, file):
                buffer.put(columns)
    except (pa.ArrowException, OSError) as error:
        raise InvalidValueError(f"{path}: expected {WHAT} that is whole, but {error}") from error
    if len(buffer) != about["num_rows"]:
        raise InvalidValueError(f"{path}: expected {about['num_rows']:,} rows, came {len(buffer):,}")
    buffer.load_state_dict(about["generator"])
    return buffer


def describe(path: str | PathLike[str]) -> dict[str, Any]:
    """What a saved buffer says of itself, without its rows: `capacity`, `num_rows`, `keys`, `generator`, ...

    Raises InvalidValueError as `load` does.
    """
    import pyarrow as pa

    if not starts_with(path, MAGIC):
        raise InvalidValueError(f"{path}: expected {WHAT}, came {described(path)}")
    try:
        with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
            return _about(path, file.schema)
    except (pa.ArrowException, OSError) as error:
        raise InvalidValueError(f"{path}: expected {WHAT} that is whole, but {error}") from error


def _schema(buffer: ReplayBuffer, spec: Spec, num_rows: int) -> pa.Schema:
    from really import arrow_types

    about = {"format": FORMAT, "num_rows": num_rows, "generator": buffer.state_dict(), **buffer._arguments()}
    text = json.dumps(about, default=_plain).encode()
    schema = arrow_types.schema_of(spec)
    return schema.with_metadata({ABOUT: text, CHECK: str(_fingerprint(schema, text))})


def _about(path: str | PathLike[str], schema: pa.Schema) -> dict[str, Any]:
    """What the schema's metadata says of the buffer, checked."""
    metadata = schema.metadata or {}
    if ABOUT not in metadata:
        raise InvalidValueError(f"{path}: expected {WHAT}, came another Arrow file, of columns {schema.names}")
    text = metadata[ABOUT]
    if metadata.get(CHECK) != str(_fingerprint(schema, text)).encode():
        raise InvalidValueError(f"{path}: expected {WHAT} that is whole, came one whose description is damaged")
    about: dict[str, Any] = json.loads(text, object_hook=_array_of)
    if about["format"] != FORMAT:
        raise InvalidValueError(f"{path}: expected format {FORMAT!r}, came {about['format']!r}")
    return about


def _write_rows(reader: Reader, writer: Any, schema: pa.Schema, chunk_bytes: int) -> None:
    num = max(1, chunk_bytes // reader.row_nbytes)
    while reader.num_left:
        _write_chunk(reader.read(num), writer, schema)


def _write_chunk(columns: Mapping[str, NDArray[Any]], writer: Any, schema: pa.Schema) -> None:
    from really import arrow_types

    check = {CHECK: str(_crc32(columns, schema.names))}
    writer.write_batch(arrow_types.to_batch(columns, schema), custom_metadata=check)


def _read_rows(path: str | PathLike[str], file: Any) -> Iterator[dict[str, NDArray[Any]]]:
    from really import arrow_types

    num_rows = 0
    for at in range(file.num_record_batches):
        batch, check = file.get_batch_with_custom_metadata(at)
        lazy = arrow_types.Columns(batch)
        columns = {key: lazy[key] for key in lazy}
        if check is None or check.get(CHECK) != str(_crc32(columns, file.schema.names)).encode():
            raise InvalidValueError(
                f"{path}: expected rows as they were saved, but rows {num_rows:,} to "
                f"{num_rows + len(batch) - 1:,} are damaged"
            )
        num_rows += len(batch)
        yield columns


def _crc32(columns: Mapping[str, NDArray[Any]], keys: list[str]) -> int:
    check = 0
    for key in keys:
        column = columns[key]
        raw = np.ascontiguousarray(column).reshape(-1).view(np.uint8)
        if column.dtype == np.bool_:
            raw = (raw != 0).view(np.uint8)  # Arrow has one bit a boolean: any byte but 0 comes back as 1
        check = zlib.crc32(cast(Any, raw), check)
    return check


def _fingerprint(schema: pa.Schema, text: bytes) -> int:
    check = zlib.crc32(text)
    for field in schema:
        for part in (field.name.encode(), *sorted((field.metadata or {}).values())):
            check = zlib.crc32(part, check)
    return check


def _plain(value: Any) -> Any:
    """What JSON has no word for: arrays and numbers of NumPy."""
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    return value.item()


def _array_of(value: dict[str, Any]) -> Any:
    return np.array(value["array"], value["dtype"]) if set(value) == {"array", "dtype"} else value
