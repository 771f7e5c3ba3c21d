"""What a path holds, and the buffer in it: a folder, a saved buffer, a checkpoint, a Parquet file."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from really.errors import InvalidValueError

if TYPE_CHECKING:
    from really.replay.buffer import ReplayBuffer
    from really.service.sharded_buffer import ShardedBuffer

META, SAVED = "meta.json", "buffer.arrow"
MARKS = {"schema.json": "buffer", "progress.csv": "progress"}
WHAT = "a buffer's folder, a saved buffer, a checkpoint, a saved model, an aggregator's folder or a Parquet file"
# Levels of folders that are searched: the folder of a run, and a folder of several runs.
LEVELS = 2


def path_of(text: str) -> Path:
    """The path of an argument. An empty one, such as of a shell's variable that is not set, is not that of `.`."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def kind_of(path: Path) -> str:
    """`buffer`, `shards`, `saved buffer`, `checkpoint`, `model`, `progress`, `parquet`; `folder` of any of these.

    Raises InvalidValueError otherwise.
    """
    from really.replay.disk.folder import WITHOUT_ROWS, is_without_rows

    if path.is_dir():
        if (path / META).exists():
            return "checkpoint" if path.name.startswith("checkpoint_") else "model"
        if found := next((kind for file, kind in MARKS.items() if (path / file).exists()), None):
            return found
        if has_shards(path):
            return "shards"
        if parts(path):
            return "folder"
        if is_without_rows(path):
            raise InvalidValueError(f"{path}: expected {WHAT}, got {WITHOUT_ROWS}")
        names = sorted(entry.name for entry in path.iterdir())[:5]
        raise InvalidValueError(f"{path}: expected {WHAT}, got a folder with {', '.join(names) or 'nothing in it'}")
    if not path.exists():
        raise InvalidValueError(f"{path}: expected {WHAT}, got nothing")
    return "parquet" if path.suffix == ".parquet" else "saved buffer"


def inner(path: Path) -> Path:
    """The newest checkpoint or model in a folder of several; any other path as it is."""
    if not path.is_dir() or (path / META).exists() or (path / "schema.json").exists():
        return path
    entries = [entry for entry in path.iterdir() if (entry / META).is_file() and not entry.name.startswith(".")]
    return max(entries, key=lambda entry: (entry / META).stat().st_mtime_ns, default=path)


def has_shards(path: Path) -> bool:
    """Whether a folder is that of a buffer in shards."""
    from really.service.opened import homes

    return bool(homes(path))


def parts(path: Path, levels: int = LEVELS) -> list[Path]:
    """The entries of a folder that hold something of this package, by name."""
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and _is_part(entry, levels))


def _is_part(entry: Path, levels: int) -> bool:
    from really._utils.atomic_files import starts_with
    from really._utils.file_formats import ARROW_MAGIC, PARQUET_MAGIC

    try:
        if not entry.is_dir():
            magic = PARQUET_MAGIC if entry.suffix == ".parquet" else ARROW_MAGIC
            return entry.is_file() and starts_with(entry, magic)
        place = inner(entry)
        if any((place / mark).exists() for mark in (META, *MARKS)):
            return True
        return has_shards(entry) or (levels > 1 and bool(parts(entry, levels - 1)))
    except OSError:
        return False


def own_folder(checkpoint: Path, about: Mapping[str, Any] | None) -> str | None:
    """Where the rows of a checkpoint's buffer are, if they are in a folder of their own; None for other checkpoints.

    `about` is what the checkpoint's description says of the buffer.
    """
    if about is None or (checkpoint / SAVED).exists():
        return None
    return str(about.get("path") or "of each shard")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[ReplayBuffer | ShardedBuffer]:
    """The buffer at a path, to read. Raises InvalidValueError if there is none."""
    from really import ReplayBuffer, ShardedBuffer

    place = inner(path)
    kind = kind_of(place)
    if kind == "checkpoint" and (place / SAVED).exists():
        kind, place = "saved buffer", place / SAVED
    makers: dict[str, Callable[[Path], ReplayBuffer | ShardedBuffer]] = {
        "buffer": ReplayBuffer.open,
        "shards": ShardedBuffer.open,
        "saved buffer": ReplayBuffer.load,
        "parquet": ReplayBuffer.from_parquet,
    }
    if kind == "folder":
        found = ", ".join(part.name for part in parts(place))
        raise InvalidValueError(f"{path}: expected a buffer, got a folder with {found}; give the path of one of them")
    if kind == "checkpoint":
        from really.checkpoints import description

        if own := own_folder(place, description.read(place)["buffer"]):
            raise InvalidValueError(f"{path}: expected a buffer, got a checkpoint whose rows are in the folder {own}")
    if kind not in makers:
        raise InvalidValueError(f"{path}: expected a buffer, got a {kind} without rows")
    buffer = makers[kind](place)
    try:
        yield buffer
    finally:
        buffer.close()
