"""The description of a checkpoint, `meta.json`: format, checksum, and length and CRC-32 of every other file.

A file `meta.json` holds
    format   the name of the format, which another version of `really` may change
    crc32    of `about` as canonical JSON
    about    the description itself; `files` lists the other files
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from really._utils import atomic_folders
from really._utils.file_formats import array_to_json, json_object, read_json
from really._utils.input_files import reading
from really.checkpoints import structure
from really.errors import InvalidFileError

FORMAT = "really-training-2"
STEM, META = "checkpoint", "meta.json"
PIECE_BYTES = 4 << 20
MOST_BYTES = 1 << 30
"""Of a description: statistics of large observations are in it."""

Description = dict[str, Any]


def write(folder: Path, about: Description) -> None:
    """Writes the description of a folder whose other files are complete."""
    about = {**about, "files": {file.name: measured(file) for file in sorted(folder.iterdir())}}
    text = json.dumps(about, default=array_to_json, sort_keys=True)
    meta = {"format": FORMAT, "crc32": zlib.crc32(text.encode()), "about": json.loads(text)}
    (folder / META).write_text(json.dumps(meta, indent=2) + "\n")


def read(folder: Path) -> Description:
    """Reads the description of a checkpoint.

    Raises:
        InvalidFileError: it is missing or damaged, or has the format of another version.
    """
    try:
        meta = read_json(folder / META, "the description of a checkpoint", MOST_BYTES)
        form, check, about = meta["format"], meta.get("crc32"), meta.get("about")
    except (OSError, KeyError) as error:
        raise _damaged(folder, META, f"the description of a checkpoint, but {error!r}") from error
    if form != FORMAT:
        raise _damaged(folder, META, f"format {FORMAT!r}, got {form!r}; another version of really wrote it")
    text = json.dumps(about, sort_keys=True)
    if zlib.crc32(text.encode()) != check:
        raise _damaged(folder, META, "a description as it was saved, got one that was changed since")
    with reading(folder / META, "the description of a checkpoint"):
        found = json_object(text.encode(), arrays=True)
        structure.check(found)
        return found


def check_files(folder: Path, files: Mapping[str, Mapping[str, int]]) -> None:
    """Raises InvalidFileError unless every file has its length and CRC-32."""
    for name, saved in files.items():
        if name != Path(name).name or not (folder / name).is_file():
            raise _damaged(folder, name, f"a file of {saved['bytes']:,} bytes, got nothing")
        size = (folder / name).stat().st_size
        if size != saved["bytes"]:
            raise _damaged(folder, name, f"{saved['bytes']:,} bytes, got {size:,}")
        if measured(folder / name) != saved:
            raise _damaged(folder, name, "bytes as they were saved, got others: the file is damaged")


def _damaged(folder: Path, file: str, expected: str) -> InvalidFileError:
    """The error for a damaged file. It names the checkpoint before this one, if there is one."""
    folders = atomic_folders.found(folder.parent, atomic_folders.names_of(STEM))
    before = folders[: folders.index(folder)] if folder in folders else []
    hint = f". The checkpoint before it is {str(before[-1])!r}" if before else ""
    return InvalidFileError(f"{folder / file}: expected {expected}{hint}")


def measured(file: Path) -> dict[str, int]:
    """Length and CRC-32 of a file."""
    check = 0
    for piece in _pieces(file):
        check = zlib.crc32(piece, check)
    return {"bytes": file.stat().st_size, "crc32": check}


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            yield piece
