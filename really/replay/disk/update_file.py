"""The file of an update of rows of a buffer on disk, from when it is decided until the rows are durable.

    update    a line of JSON: format, the buffer's identity, the columns with the bytes of a row, how many rows
              int64 numbers of the rows, then the values of each column in the order of its rows
              4 bytes, the CRC-32 of all before

The rename of the file is the moment of the update. Then the values are written to the rows, the rows are made durable,
and the file is removed. A kill leaves the file, and the next process that writes the buffer writes the values again: so
all rows of a call are updated, or none. Rows that have dropped out meanwhile are left out. Processes that read the
buffer see by a counter in the cursor page that rows change.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import file_errors, leftovers_of, replacing
from really._utils.checks import checked_integer
from really._utils.file_formats import json_object
from really._utils.input_files import as_file_error, read_small, reading
from really.errors import InvalidValueError
from really.replay._ring import Ring

NAME = "update"
NAMES = (NAME, leftovers_of(NAME))
FORMAT = "really-update-1"
MAGIC = b'{"format": "really-update'
WHAT = "an update of a buffer"
CRC32_NBYTES = 4
HEAD_NBYTES = 1 << 20
"""Bytes of the first line, at most."""


class Update(NamedTuple):
    """Numbers of rows, int64 [n], each once, and columns [n, ...] of values for them."""

    numbers: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]


def write(folder: Path, identity: str, update: Update) -> None:
    """Writes the file; from then on a kill does not prevent the update. Raises FileError, with nothing done."""
    numbers, columns = update
    kinds = [[key, values.nbytes // max(1, len(numbers))] for key, values in columns.items()]
    head = {"format": FORMAT, "identity": identity, "columns": kinds, "rows": len(numbers)}
    crc32 = 0
    with replacing(folder / NAME, MAGIC, WHAT) as file:
        for part in (json.dumps(head).encode() + b"\n", numbers.tobytes(), *map(np.ndarray.tobytes, columns.values())):
            file.write(part)
            crc32 = zlib.crc32(part, crc32)
        file.write(crc32.to_bytes(CRC32_NBYTES, "little"))


def read(folder: Path, identity: str, ring: Ring) -> Update | None:
    """The update that is still to be done; None if none is.

    Raises:
        InvalidFileError: the file is damaged, or another buffer's.
        FileError: the system does not read it.
    """
    path = folder / NAME
    try:
        content = read_small(path, min(path.stat().st_size, ring.capacity * (ring.stride + 8) + HEAD_NBYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise as_file_error(path, error) from error
    with reading(path, WHAT, passing=()):
        return _parsed(content, identity, ring)


def end(folder: Path) -> None:
    """Removes the file once the rows are durable."""
    with file_errors(folder / NAME, WHAT):
        (folder / NAME).unlink(missing_ok=True)


def _parsed(content: bytes, identity: str, ring: Ring) -> Update:
    """Raises ValueError, TypeError or LookupError for content that is damaged, or of another buffer."""
    body, crc32 = content[:-CRC32_NBYTES], content[-CRC32_NBYTES:]
    if zlib.crc32(body).to_bytes(CRC32_NBYTES, "little") != crc32:
        raise InvalidValueError("it is damaged")
    start = body.index(b"\n") + 1
    head: dict[str, Any] = json_object(body[:start])
    if (head["format"], head["identity"]) != (FORMAT, identity):
        raise InvalidValueError(f"expected {FORMAT} of the buffer {identity}, got {head['format']!r} of another")
    num = checked_integer("rows", head["rows"], 0, len(body))
    numbers = np.frombuffer(body, np.int64, num, start)
    start += numbers.nbytes
    columns = {}
    for key, nbytes in head["columns"]:
        at = ring.names.index(key)
        row = np.empty(ring.shapes[at], ring.dtypes[at])
        if row.nbytes != nbytes:
            raise InvalidValueError(f"expected {row.nbytes} bytes of each row of {key!r}, got {nbytes}")
        columns[key] = np.frombuffer(body[start : start + num * nbytes], np.uint8).view(row.dtype)
        columns[key] = columns[key].reshape(num, *row.shape)
        start += num * nbytes
    if start != len(body):
        raise InvalidValueError(f"expected {start} bytes, got {len(body)}")
    return Update(np.ascontiguousarray(numbers), columns)
