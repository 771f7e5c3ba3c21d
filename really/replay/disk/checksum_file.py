"""The file `checksums` of a buffer on disk: what its rows, frames and cursor were when they were last made durable.

    a line of JSON     format, the buffer's identity, the numbers of the first row held and of the next row, and the
                       number of runs of rows, then of each file of frames
    the runs           of rows, then of each file of frames, 20 bytes each (`runs.RUN`)
    4 bytes            CRC-32 of all before
    a line of JSON     only after `close`, the seal: the CRC-32 of the cursor, of each table of frames and of the
                       priorities, which do not change until the buffer is written again
    4 bytes            CRC-32 of that line

A process that opens the buffer for writing marks the cursor, so that the seal does not count. It removes the seal,
durably, before anything but the cursor changes. So a process that puts nothing has nothing to write here.

After a kill the checksums are those that were written last; rows that were put later have none.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from really._utils.atomic_files import file_errors, leftovers_of, replacing
from really._utils.checks import checked_integer
from really._utils.file_formats import json_object
from really._utils.input_files import as_file_error, read_small, reading
from really.errors import InvalidValueError
from really.replay.disk.runs import RUN, Runs

NAME = "checksums"
PARTIAL = leftovers_of(NAME)
FORMAT = "really-checksums-1"
MAGIC = b'{"format": "really-checksums'
WHAT = "the checksums of a buffer"
MOST_BYTES = 1 << 30
CRC32_NBYTES = 4

Seal = dict[str, int]
"""CRC-32 of each file that does not change until the buffer is written again, by its name."""
Content = TypeVar("Content", bytes, memoryview)


@dataclass
class Saved:
    """What the file says.

    Attributes:
        identity: of the buffer.
        first: number of the first row held.
        num_put: number of the next row.
        runs: of rows, then of the frames of each file of frames.
        seal: None unless the buffer was closed.
        body_nbytes: bytes of the file before the seal.
    """

    identity: str
    first: int
    num_put: int
    runs: list[Runs]
    seal: Seal | None = None
    body_nbytes: int = field(default=0, compare=False)


def write(folder: Path, saved: Saved) -> None:
    """Writes the file; raises FileError if that fails, and leaves the file before it."""
    head = {"format": FORMAT, "identity": saved.identity, "first": saved.first, "num_put": saved.num_put}
    line = json.dumps(head | {"runs": [len(runs) for runs in saved.runs]}).encode() + b"\n"
    body = _with_crc32(line + b"".join(runs.tobytes() for runs in saved.runs))
    with replacing(folder / NAME, MAGIC, WHAT) as file:
        file.write(body)
        if saved.seal is not None:
            file.write(_with_crc32(json.dumps(saved.seal).encode() + b"\n"))
    saved.body_nbytes = len(body)


def unseal(folder: Path, saved: Saved) -> None:
    """Removes the seal, before files of it are written; needs no room on the disk. Raises FileError if that fails."""
    with file_errors(folder / NAME, WHAT), open(folder / NAME, "r+b") as file:
        file.truncate(saved.body_nbytes)
        os.fsync(file.fileno())
    saved.seal = None


def read(folder: Path, identity: str) -> Saved | None:
    """What the file of this buffer says; None if there is none.

    Raises:
        InvalidFileError: it is damaged, or another buffer's.
        FileError: the system does not read it.
    """
    path = folder / NAME
    try:
        content = read_small(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise as_file_error(path, error) from error
    with reading(path, f"{WHAT} (without the file, a buffer opens and has no checksums)", passing=()):
        saved = _parsed(content)
        if saved.identity != identity:
            raise InvalidValueError(f"expected the identity {identity}, got {saved.identity}")
    return saved


def _parsed(content: bytes) -> Saved:
    """Raises ValueError, TypeError or LookupError for content that is damaged."""
    line = content[: content.index(b"\n") + 1]
    head: dict[str, Any] = json_object(line)
    if head["format"] != FORMAT:
        raise InvalidValueError(f"expected format {FORMAT}, got {head['format']!r}")
    ends = [0, *itertools.accumulate(checked_integer("runs", length, 0, len(content)) for length in head["runs"])]
    body = len(line) + ends[-1] * RUN.itemsize + CRC32_NBYTES
    if len(ends) < 2 or body > len(content):
        raise InvalidValueError(f"expected lengths of runs, got {head['runs']!r}")
    runs = np.frombuffer(_checked(memoryview(content)[:body])[len(line) :], RUN)
    parts = [runs[start:end] for start, end in itertools.pairwise(ends)]
    numbers = [int(head[name]) for name in ("first", "num_put")]
    return Saved(str(head["identity"]), numbers[0], numbers[1], parts, _seal(content[body:]), body)


def _seal(content: bytes) -> Seal | None:
    return json_object(_checked(content)) if content else None


def _with_crc32(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(CRC32_NBYTES, "little")


def _checked(content: Content) -> Content:
    """What `_with_crc32` was given."""
    inner, crc32 = content[:-CRC32_NBYTES], content[-CRC32_NBYTES:]
    if len(crc32) != CRC32_NBYTES or zlib.crc32(inner).to_bytes(CRC32_NBYTES, "little") != crc32:
        raise InvalidValueError("it is damaged")
    return inner
