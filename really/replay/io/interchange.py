"""A buffer's rows for other programs, and back: Arrow streams, which DuckDB, Polars and pandas read, and Parquet.

Rows go out oldest first, a chunk at a time. Opening a stream costs nothing; the first batch fixes which rows it has.
Puts never wait for a stream: a reader that they overtake raises `OvertakenError`.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from really._utils.atomic_files import described, replacing, starts_with
from really._utils.checks import checked_path
from really._utils.file_formats import PARQUET_MAGIC, arrow_path
from really._utils.input_files import reading
from really._utils.progress import advance, progress_bar
from really.data.schema import Spec
from really.errors import (
    EmptyBufferError,
    FileError,
    InvalidFileError,
    InvalidTypeError,
    InvalidValueError,
    ReallyError,
    one_of,
)
from really.replay.arguments import checked_keys
from really.replay.io.checksums import CHECK, Checksum
from really.replay.rows import Filled
from really.replay.streams import Streamed

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 16 << 20
"""Bytes of rows in a record batch or row group."""
COMPRESSIONS = ("zstd", "snappy", "gzip", "lz4", "brotli", "none")
Buffer = TypeVar("Buffer", bound=Filled)


def to_arrow(
    buffer: Streamed, keys: Iterable[str] | None = None, *, float16: str = "float16", chunk_bytes: int = CHUNK
) -> pa.RecordBatchReader:
    """As of `ReplayBuffer`. A batch has `chunk_bytes` bytes."""
    import pyarrow as pa

    from really.data import arrow_types

    spec = _chosen("to_arrow", buffer, keys)
    schema = arrow_types.schema_of(spec, float16)
    return pa.RecordBatchReader.from_batches(schema, batches(buffer, schema, chunk_bytes))


def to_parquet(
    buffer: Streamed,
    path: str | PathLike[str],
    keys: Iterable[str] | None = None,
    *,
    float16: str = "float16",
    compression: str = "zstd",
    chunk_bytes: int = CHUNK,
) -> None:
    """As of `ReplayBuffer`. Each chunk is a row group."""
    import pyarrow.parquet as pq

    from really.data import arrow_types

    if compression not in COMPRESSIONS:
        raise InvalidValueError(one_of("compression", compression, COMPRESSIONS))
    schema = arrow_types.schema_of(_chosen("to_parquet", buffer, keys), float16)
    written = Checksum(schema)
    with (
        replacing(checked_path("path", path), PARQUET_MAGIC, "a Parquet file") as file,
        pq.ParquetWriter(file, schema, compression=compression, write_page_checksum=True) as writer,
    ):
        # A chunk is freed before the next one is made; the variable of a loop would keep it.
        chunks = map(written.updated, batches(buffer, schema, chunk_bytes, keeps=True))
        collections.deque(map(writer.write_batch, chunks), maxlen=0)
        writer.add_key_value_metadata({CHECK: written.text()})


def from_arrow(buffer_type: type[Buffer], source: Any, capacity: int | None = None, **options: Any) -> Buffer:
    """As of `ReplayBuffer`, for a buffer of this type."""
    num_rows = len(source) if hasattr(source, "__len__") else None
    if capacity is None and num_rows is None:
        raise InvalidValueError(
            f"capacity: expected a number of rows, as {type(source).__name__} does not say how many it has, got None"
        )
    with _reader_of(source) as reader:
        buffer = buffer_type(max(1, num_rows or 1) if capacity is None else capacity, **options)
        return _filled(buffer, reader.schema, reader, num_rows)


def from_parquet(
    buffer_type: type[Buffer],
    path: str | PathLike[str] | Sequence[str | PathLike[str]],
    capacity: int | None = None,
    **options: Any,
) -> Buffer:
    """As of `ReplayBuffer`, for a buffer of this type."""
    files = _parquet_files(path)
    if capacity is None:
        capacity = max(1, sum(describe_parquet(file)[0] for file in files))
    buffer = buffer_type(capacity, **options)
    for file in files:
        _fill_from_parquet(buffer, file)
    return buffer


def describe_parquet(path: Path) -> tuple[int, list[str]]:
    """How many rows a Parquet file has, and its columns. Raises InvalidFileError if its end is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path, "a whole Parquet file"), pa.OSFile(arrow_path(path)) as source:
        about = pq.read_metadata(source)
        return about.num_rows, about.schema.to_arrow_schema().names


def _parquet_files(path: Any) -> list[Path]:
    """The files that `path` names, each with the first bytes of a Parquet file."""
    if not isinstance(path, list | tuple):
        place = checked_path("path", path)
        files = [place]
        if place.is_dir():
            files = sorted(place.glob("*.parquet"))
        elif not place.exists() and any(sign in place.name for sign in "*?["):
            files = sorted(place.parent.glob(place.name))
    else:
        files = [checked_path("path", one) for one in path]
    if not files:
        raise InvalidValueError(f"path: expected a Parquet file, got none in {str(path)!r}")
    for file in files:
        if not starts_with(file, PARQUET_MAGIC):
            raise InvalidFileError(f"{file}: expected a Parquet file, got {described(file)}")
    return files


def _fill_from_parquet(buffer: Filled, path: Path) -> None:
    """Puts the rows of a file. Each error names it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from really.data.arrow_columns import empty_batch
    from really.data.arrow_types import check_metadata

    with (
        reading(path, "a whole Parquet file", passing=ReallyError),
        pa.OSFile(arrow_path(path)) as source,
        pq.ParquetFile(source, page_checksum_verification=True) as file,
    ):
        with reading(path, "a whole Parquet file"):
            check_metadata(file.schema_arrow)
        expected = (file.metadata.metadata or {}).get(CHECK)
        found = Checksum(file.schema_arrow, is_own=expected is not None)
        batches = _counted(path, found, itertools.chain([empty_batch(file.schema_arrow)], _row_groups(file)))
        next(batches)
        try:
            _filled(buffer, file.schema_arrow, batches, file.metadata.num_rows)
        except FileError:
            raise
        except (InvalidTypeError, InvalidValueError) as error:
            raise type(error)(f"{path}: {error}") from error
        if expected is not None and expected != found.text():
            raise InvalidFileError(f"{path}: expected rows as they were written, got damaged ones")


def _counted(path: Path, found: Checksum, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, each counted by `found` first."""
    for batch in batches:
        with reading(path, "columns that a buffer can have"):
            found.updated(batch)
        yield batch


def batches(buffer: Streamed, schema: pa.Schema, chunk_bytes: int, *, keeps: bool = False) -> Iterator[pa.RecordBatch]:
    """The rows as record batches of `schema`; the first one fixes which rows. With `keeps`, puts wait for it."""
    from really.data import arrow_types

    if chunk_bytes < 1:
        raise InvalidValueError(f"chunk_bytes: expected a number of bytes >= 1, got {chunk_bytes}")
    with buffer.open_reader(keeps=keeps) as reader:
        num = max(1, chunk_bytes // reader.row_nbytes(schema.names))
        # The reader of a stream sets the pace: no progress bar.
        with progress_bar("writing", reader.num_rows, "row", None if keeps else False) as bar:
            while reader.num_left:
                yield arrow_types.to_batch(reader.read(num, schema.names), schema)
                advance(bar, reader.num_rows - reader.num_left)


def _chosen(verb: str, buffer: Streamed, keys: Iterable[str] | None) -> Spec:
    """The columns of these keys; raises what `verb` raises."""
    buffer.check_open(verb)
    spec = buffer.spec
    if spec is None:
        raise EmptyBufferError(f"{verb}: expected a buffer whose schema is known, got one without; put some rows first")
    if keys is None:
        return spec
    names = checked_keys(keys)
    for key in names:
        if key not in spec:
            raise InvalidValueError(one_of("keys", key, spec))
    return {key: spec[key] for key in names}


def _filled(buffer: Buffer, schema: pa.Schema, batches: Iterable[pa.RecordBatch], num_rows: int | None) -> Buffer:
    """Puts all rows into the buffer; its schema is known even if there is no row, but for lists of any length."""
    from really.data import arrow_types
    from really.data.arrow_columns import is_list

    if num_rows == 0 or not any(map(is_list, schema.types)):
        buffer.put(arrow_types.no_rows(schema))
    with progress_bar("reading", num_rows, "row") as bar:
        for batch in batches:
            buffer.put(arrow_types.FileColumns(batch))
            bar.update(len(batch))
    return buffer


def _row_groups(file: Any) -> Iterator[pa.RecordBatch]:
    """All rows in batches of at most `CHUNK` bytes and one row group."""
    for at in range(file.num_row_groups):
        group = file.metadata.row_group(at)
        num = max(1, group.num_rows * CHUNK // max(CHUNK, group.total_byte_size))
        yield from file.iter_batches(num, row_groups=[at])


def _reader_of(source: Any) -> pa.RecordBatchReader:
    import pyarrow as pa

    if isinstance(source, pa.RecordBatch):
        return pa.RecordBatchReader.from_batches(source.schema, [source])
    try:
        return pa.RecordBatchReader.from_stream(source)
    except (TypeError, pa.ArrowException) as error:
        raise InvalidTypeError(
            f"source: expected Arrow record batches or what gives a stream of them (`__arrow_c_stream__`), "
            f"got {type(source).__name__}: {error}"
        ) from error
