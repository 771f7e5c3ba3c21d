"""The files of a return to a checkpoint in a buffer's folder: what a kill in the middle of it leaves to be finished.

    rollback              JSON: the rows to be held, the next frames, the generator's state, and a CRC-32
    rollback.priorities   the priorities of these rows (priority_files.py), if rows are drawn by priority
    rollback.removed      which of these rows are removed (removed_file.py)

The file `rollback` is written last and renamed. Until then the buffer is as before; from then on the return happens,
by the process that wrote it or by the next that opens the folder for writing, which removes the file at its end.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import file_errors, leftovers_of, replacing, sync_folder
from really._utils.file_formats import read_json
from really._utils.input_files import reading
from really.errors import InvalidFileError
from really.replay.disk import priority_files, removed_file

NAME, PRIORITIES = "rollback", "rollback.priorities"
FILES = (NAME, PRIORITIES, removed_file.RETURN)
NAMES = (*FILES, *map(leftovers_of, FILES))
WHAT = "a return to a checkpoint"


@dataclass(frozen=True)
class Target:
    """What a buffer on disk returns to.

    Attributes:
        identity: of the buffer.
        first: number of the oldest row to be held.
        num_put: number of the next row.
        frames: number of the next frame of each store of shared frames.
        generator: state of the generator in hexadecimal digits, as the cursor page has it.
    """

    identity: str
    first: int
    num_put: int
    frames: list[int]
    generator: str

    @property
    def frame_numbers(self) -> NDArray[np.int64]:
        """`frames` as an array, [store] int64."""
        return np.array(self.frames, np.int64)

    @property
    def generator_bytes(self) -> bytes:
        """`generator` as bytes."""
        return bytes.fromhex(self.generator)


def write(folder: Path, target: Target, priorities: dict[str, Any] | None) -> None:
    """Writes what is to be done; from then on a kill does not prevent it. Raises FileError, with nothing done."""
    if priorities is not None:
        priority_files.write(folder / PRIORITIES, priorities)
    text = json.dumps(asdict(target))
    with replacing(folder / NAME, b"{", WHAT) as file:
        file.write(json.dumps({"target": asdict(target), "crc32": zlib.crc32(text.encode())}).encode())


def read(folder: Path, identity: str) -> Target | None:
    """What is still to be done; None if nothing is. Raises InvalidFileError if the file is damaged or another's."""
    path = folder / NAME
    if not path.exists():
        return None
    with reading(path, WHAT):
        found = read_json(path, WHAT)
        target, check = Target(**found["target"]), found["crc32"]
    if zlib.crc32(json.dumps(asdict(target)).encode()) != check or target.identity != identity:
        raise InvalidFileError(f"{path}: expected {WHAT} of this buffer, got a damaged or another's file")
    return target


def is_pending(folder: Path) -> bool:
    """Whether something is still to be done."""
    return (folder / NAME).exists()


def place_files(folder: Path) -> None:
    """Puts priorities and removed rows in their place; harmless when repeated."""
    for file, name, what in (
        (PRIORITIES, priority_files.NAME, priority_files.WHAT),
        (removed_file.RETURN, removed_file.NAME, removed_file.WHAT),
    ):
        with file_errors(folder / name, what):
            if (folder / file).exists():
                os.replace(folder / file, folder / name)


def end(folder: Path) -> None:
    """Removes the file once all is done."""
    with file_errors(folder / NAME, WHAT):
        (folder / NAME).unlink(missing_ok=True)
        sync_folder(folder)


def names_left(names: Collection[str]) -> tuple[str, ...]:
    """Patterns of the names, of all those in a folder, of what a kill before the rename has left."""
    return NAMES[len(FILES) :] if NAME in names else NAMES
