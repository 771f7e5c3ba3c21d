"""The file of the rows that are removed from a buffer on disk, which `remove` replaces as a whole.

    removed             JSON: the buffer's identity, the number of a first row, the rows from it on that are removed, as
                        `removed_rows.to_text` gives them, and a CRC-32
    rollback.removed    the same for a return to a checkpoint (rollback.py)

The rename of the file is the moment of the removal, so a kill leaves all rows of a call removed or none. Processes that
read the buffer see by a counter in the cursor page that the file is another, and read it again.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import leftovers_of, replacing
from really._utils.checks import checked_integer
from really._utils.file_formats import read_json
from really._utils.input_files import reading
from really.errors import InvalidFileError, InvalidValueError
from really.replay._ring import Ring
from really.replay.priorities import NO_END
from really.replay.removed_rows import from_text, removed_rows, to_text

NAME, RETURN = "removed", "rollback.removed"
NAMES = (NAME, leftovers_of(NAME))
FORMAT = "really-removed-1"
MAGIC = b'{"format": "really-removed'
WHAT = "the removed rows of a buffer"


def write(path: Path, identity: str, numbers: NDArray[np.int64]) -> None:
    """Writes the numbers of all rows that are removed; raises FileError, and leaves the file before it."""
    first = int(numbers.min()) if len(numbers) else 0
    about = {"format": FORMAT, "identity": identity, "first": first, "rows": to_text(numbers - first)}
    with replacing(path, MAGIC, WHAT) as file:
        file.write(json.dumps(about | {"crc32": _crc32(about)}).encode())


def read(path: Path, identity: str, num_rows: int) -> NDArray[np.int64] | None:
    """The numbers that `write` was given, in ascending order, of rows of which `num_rows` are held at most.

    Returns None if there is no file.

    Raises InvalidFileError if it is damaged, or another buffer's.
    """
    if not path.exists():
        return None
    with reading(path, WHAT):
        about: dict[str, Any] = read_json(path, WHAT)
        if about.pop("crc32") != _crc32(about):
            raise InvalidFileError(f"{path}: expected {WHAT} as they were written, got damaged ones")
        if (about["format"], about["identity"]) != (FORMAT, identity):
            raise InvalidValueError(f"expected {FORMAT} of the buffer {identity}, got {about['format']!r} of another")
        return from_text(about["rows"], num_rows) + checked_integer("first", about["first"], 0, NO_END)


def remove(folder: Path, identity: str, ring: Ring, numbers: NDArray[np.int64]) -> int:
    """Removes these rows, in the file first; returns how many of them were left. Be the only one that removes."""
    oldest, num_put = ring.held_rows()
    held = numbers[(numbers >= oldest) & (numbers < num_put)]
    if ring.are_removed(held).all():
        return 0
    write(folder / NAME, identity, np.union1d(removed_rows(ring), held))
    ring.count_removal()
    return ring.remove(held)


def resume(folder: Path, identity: str, ring: Ring, *, writable: bool) -> None:
    """Removes the rows that the file names.

    Raises InvalidFileError if the file is damaged, or missing although rows were removed.
    """
    num_removals = ring.num_removals
    numbers = read(folder / NAME, identity, ring.capacity)
    if numbers is None and num_removals:
        raise InvalidFileError(f"{folder / NAME}: expected {WHAT}, from which some were removed, got no such file")
    if numbers is None:
        return
    if writable and len(numbers) and numbers[-1] >= (num_put := ring.num_put):
        # Rows that were lost with the power: other rows will have their numbers.
        numbers = numbers[numbers < num_put]
        write(folder / NAME, identity, numbers)
    ring.set_removed(numbers, num_removals)
    if writable:
        ring.count_removal()  # a kill may have come before it


def _crc32(about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())
