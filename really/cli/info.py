"""info: tells what a path holds: a buffer, a checkpoint, a model, an aggregator's values, or a folder of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from really.cli.output import show
from really.cli.parts import last_values, listed
from really.cli.sources import SAVED, inner, kind_of, opened, own_folder, path_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from really.replay.buffer import ReplayBuffer
    from really.service.sharded_buffer import ShardedBuffer

EXAMPLES = """really info runs/buffer
really info replay.arrow --json
really info runs/checkpoints         the newest checkpoint in it
really info runs/dqn_0               each part of the folder of a run, in one line
"""
# Rows that are read at a time.
PIECE = 65_536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("path", metavar="PATH", type=path_of, help="folder or file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> None:
    """Prints what the path holds."""
    path = inner(given.path)
    kind = kind_of(path)
    about = {"checkpoint": _checkpoint, "model": _model, "progress": _progress, "shards": _shards, "folder": _folder}
    show({"path": str(path), "kind": kind, **about.get(kind, _buffer)(path)}, given.json)


def _format(path: Path) -> str:
    """The format of a buffer's folder or file."""
    from really.replay.disk import schema
    from really.replay.io import saving

    if path.is_dir():
        return f"{schema.FORMAT} {schema.VERSION}"
    return "Parquet" if path.suffix == ".parquet" else str(saving.describe(path)["format"])


def _buffer(path: Path) -> dict[str, Any]:
    with opened(path) as buffer:
        return _about(path, buffer)


def _about(path: Path, buffer: ReplayBuffer | ShardedBuffer) -> dict[str, Any]:
    memory = buffer.memory()
    options = {name: value for name, value in vars(buffer.options).items() if value is not None}
    return {
        "format": _format(path),
        "rows": len(buffer),
        "capacity": buffer.capacity,
        "held_bytes": memory["held"],
        "times_smaller_than_whole_rows": memory["ratio"],
        "file_bytes": _bytes_of(path),
        "columns": {key: f"{column.dtype}{list(column.shape)}" for key, column in (buffer.spec or {}).items()},
        "episodes": episodes(buffer),
        "options": {name: _plain(value) for name, value in options.items() if name not in ("keys", "capacity")},
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else str(value)


def episodes(buffer: ReplayBuffer | ShardedBuffer) -> dict[str, Any]:
    """How many episodes ended in the rows; with a column `agent` also means of their returns and lengths.

    A row's agent tells to which episode it belongs. The first episode of each agent may have begun in rows that a full
    buffer has dropped, and is left out of the means then.
    """
    import numpy as np

    if (read := read_ends(buffer, ("reward", "agent"))) is None:
        return {"ended": "not told: no column not_done or terminal"}
    done, columns = read
    found: dict[str, Any] = {"ended": int(np.count_nonzero(done))}
    if {"agent", "reward"} <= columns.keys():
        returns, lengths = _sums(columns["agent"], columns["reward"], done, len(buffer) == buffer.capacity)
        if returns.size:
            found |= {"whole": returns.size, "mean_return": float(returns.mean()), "mean_length": float(lengths.mean())}
    return found


def _sums(
    agents: NDArray[Any], rewards: NDArray[Any], done: NDArray[np.bool_], drops_first: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns and lengths of the episodes that ended, agent by agent."""
    import numpy as np

    returns, lengths = [np.empty(0)], [np.empty(0)]
    for agent in np.unique(agents):
        rows = np.flatnonzero(agents == agent)
        ends = np.flatnonzero(done[rows]) + 1
        if not ends.size:
            continue
        starts = np.append(0, ends[:-1])
        sums = np.add.reduceat(rewards[rows[: ends[-1]]], starts, dtype=np.float64)
        returns.append(sums[drops_first:])
        lengths.append(np.diff(ends, prepend=0)[drops_first:].astype(np.float64))
    return np.concatenate(returns), np.concatenate(lengths)


def read_ends(
    buffer: ReplayBuffer | ShardedBuffer, others: Sequence[str]
) -> tuple[NDArray[np.bool_], dict[str, NDArray[Any]]] | None:
    """Whether an episode ends with each row, oldest first, and those of the other columns that the buffer has.

    Returns None if there are no rows, or none with a column not_done or terminal.
    """
    spec = buffer.spec or {}
    end = "not_done" if "not_done" in spec else "terminal"
    if end not in spec or not len(buffer):
        return None
    columns = read_columns(buffer, [key for key in (end, "truncated", *others) if key in spec])
    done = columns[end] == 0 if end == "not_done" else columns[end] != 0
    if "truncated" in columns:
        done |= columns["truncated"] != 0
    return done, columns


def read_columns(buffer: ReplayBuffer | ShardedBuffer, keys: list[str]) -> dict[str, NDArray[Any]]:
    """These columns of all rows, oldest first."""
    import numpy as np

    pieces = []
    with buffer.open_reader() as reader:
        while reader.num_left:
            pieces.append(reader.read(min(PIECE, reader.num_left), keys))
    return {key: np.concatenate([piece[key] for piece in pieces]) for key in keys}


def _checkpoint(path: Path) -> dict[str, Any]:
    from really.checkpoints import description

    about = description.read(path)
    return {
        "format": description.FORMAT,
        "file_bytes": _bytes_of(path),
        "counters": about.get("counters") or {},
        "task": about["task"],
        "files": sorted(entry.name for entry in path.iterdir()),
        "buffer": _checkpoint_buffer(path, about["buffer"]),
    }


def _checkpoint_buffer(path: Path, about: Any) -> dict[str, Any]:
    if about is None:
        return {"place": "none"}
    if own := own_folder(path, about):
        counts = {"capacity": about["capacity"], "rows_put": about["moment"]["num_put"]}
        return {"place": "in its own folder", "folder": own, **counts, "columns": about["columns"]}
    return {"place": "in it", **_buffer(path / SAVED)}


def _model(path: Path) -> dict[str, Any]:
    from really.checkpoints import saved_models

    about = saved_models.describe(path)
    weights = {weight["name"]: f"{weight['dtype']}{list(weight['shape'])}" for weight in about["weights"]}
    return {
        "format": saved_models.FORMAT,
        "file_bytes": _bytes_of(path),
        "epoch": about["epoch"],
        "normalised": [part["name"] for part in about["statistics"]] or "nothing",
        "weights": weights,
    }


def _progress(path: Path) -> dict[str, Any]:
    updates, last = last_values(path)
    return {"updates": updates, "last": last}


def _shards(path: Path) -> dict[str, Any]:
    from really.service.sharded_buffer import ShardedBuffer

    with ShardedBuffer.open(path) as buffer:
        return {**_about(path, buffer), "shards": buffer.info()["shards"]}


def _folder(path: Path) -> dict[str, Any]:
    return {"parts": listed(path)}


def _bytes_of(path: Path) -> int:
    """Bytes that the files take on the disk, holes left out."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)
