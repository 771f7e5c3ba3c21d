"""What a folder such as that of a run holds, each part in one line: buffers, checkpoints, models, values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from really.cli.sources import SAVED, inner, kind_of, parts
from really.errors import ReallyError

# Values of a line.
SHOWN = 8


def listed(path: Path) -> list[dict[str, str]]:
    """Name, kind and contents of each entry of a folder, those that hold something of this package first."""
    known = parts(path)
    others = sorted(entry for entry in path.iterdir() if entry not in known and not entry.name.startswith("."))
    return [_known(part) for part in known] + [_other(entry) for entry in others]


def last_values(path: Path) -> tuple[int, dict[str, Any]]:
    """How many updates an aggregator's folder has, and the last value of each key, "" for a key without one."""
    from really.metrics.curves import CSV_NAME, read_csv

    header, rows, _ = read_csv(path / CSV_NAME)
    keys = [name.removesuffix(".mean") for name in header if name.endswith(".mean")]
    last = {key: next((float(row[f"{key}.mean"]) for row in reversed(rows) if row[f"{key}.mean"]), "") for key in keys}
    return len(rows), last


def _known(part: Path) -> dict[str, str]:
    place = inner(part)
    kind = kind_of(place)
    text = _told(HOLDS[kind], place)
    return {"name": part.name, "kind": kind, "holds": text if place == part else f"{text}; newest {place.name}"}


def _other(entry: Path) -> dict[str, str]:
    if entry.is_dir():
        return {"name": entry.name, "kind": "folder", "holds": _told(_entries, entry)}
    return {"name": entry.name, "kind": "file", "holds": _told(_file, entry)}


def _told(holds: Callable[[Path], str], path: Path) -> str:
    try:
        return holds(path)
    except (ReallyError, OSError) as error:
        return f"cannot be read: {' '.join(str(error).split())}"


def _buffer(path: Path) -> str:
    from really.replay.buffer import ReplayBuffer

    with ReplayBuffer.open(path) as buffer:
        return _rows(len(buffer), buffer.spec or {}, buffer.capacity)


def _shards(path: Path) -> str:
    from really.service.sharded_buffer import ShardedBuffer

    with ShardedBuffer.open(path) as buffer:
        return f"{_rows(len(buffer), buffer.spec or {}, buffer.capacity)}; in {len(buffer.shard_names)} shards"


def _saved(path: Path) -> str:
    from really.replay.io import saving

    about = saving.describe(path)
    return _rows(about["num_rows"], about["columns"], about["capacity"])


def _parquet(path: Path) -> str:
    from really.replay.io import interchange

    return _rows(*interchange.describe_parquet(path))


def _rows(number: int, columns: Any, capacity: int | None = None) -> str:
    most = f" of {capacity:,}" if capacity else ""
    return f"{number:,} rows{most}: {', '.join(columns) or 'no columns yet'}"


def _checkpoint(path: Path) -> str:
    from really.checkpoints import description

    about = description.read(path)
    place = (
        "no buffer"
        if about["buffer"] is None
        else "with its buffer"
        if (path / SAVED).exists()
        else "buffer in its own folder"
    )
    return f"{place}, counters: {_values(about.get('counters') or {})}"


def _model(path: Path) -> str:
    from really.checkpoints import saved_models

    about = saved_models.describe(path)
    return f"epoch {about['epoch']}, {len(about['weights'])} weights"


def _progress(path: Path) -> str:
    updates, last = last_values(path)
    return f"{updates:,} updates, last: {_values(last)}"


def _folder(path: Path) -> str:
    return ", ".join(part.name for part in parts(path))


HOLDS: dict[str, Callable[[Path], str]] = {
    "buffer": _buffer,
    "shards": _shards,
    "saved buffer": _saved,
    "parquet": _parquet,
    "checkpoint": _checkpoint,
    "model": _model,
    "progress": _progress,
    "folder": _folder,
}


def _entries(path: Path) -> str:
    return f"{len(list(path.iterdir())):,} entries"


def _file(path: Path) -> str:
    """The size of a file, and the numbers of a JSON object: a run's results."""
    from really._utils.file_formats import read_json

    size, numbers = f"{path.stat().st_size:,} bytes", {}
    if path.suffix == ".json":
        with contextlib.suppress(ReallyError):
            found = read_json(path, "a JSON file")
            numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return f"{size}: {_values(numbers)}" if numbers else size


def _values(values: dict[str, Any]) -> str:
    shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    return ", ".join([*shown[:SHOWN], *(["..."] if len(shown) > SHOWN else [])]) or "none"
