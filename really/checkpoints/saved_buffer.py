"""The buffer of a checkpoint: a copy of its rows if it is in memory, its path if it lives on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from really.errors import InvalidValueError
from really.replay.buffer import ReplayBuffer

BUFFER = "buffer.arrow"
# Options of a buffer that decide what its batches are.
BATCH_OPTIONS = ("alpha", "eps", "n_step", "gamma")

Saved = Mapping[str, Any]


def write(folder: Path, buffer: ReplayBuffer | None) -> dict[str, Any] | None:
    """Saves a buffer in a folder, or flushes it if it lives on disk; returns its description."""
    if buffer is None:
        return None
    path = _path(buffer)
    if path is None:
        buffer.save(folder / BUFFER)
    else:
        buffer.flush()
    return {
        "capacity": buffer.capacity,
        "columns": _columns(buffer),
        **{name: getattr(buffer.options, name) for name in BATCH_OPTIONS},
        "path": path,
        # A saved file holds the state of the generator; a buffer on disk changes after the checkpoint.
        "generator": None if path is None else buffer.state_dict(),
    }


def check(folder: Path, saved: Saved | None, buffer: ReplayBuffer | None) -> None:
    """Raises InvalidValueError if the manager has a buffer that differs from the saved one."""
    if saved is None or buffer is None:
        return
    if saved["path"] is None and _path(buffer) is not None:
        raise InvalidValueError(f"{folder}: expected a buffer that lives in {_path(buffer)!r}, got one in memory")
    if saved["capacity"] != buffer.capacity:
        raise InvalidValueError(
            f"{folder}: expected a buffer of {buffer.capacity:,} rows, as the manager has, "
            f"got one of {saved['capacity']:,}"
        )
    for name in BATCH_OPTIONS:
        if name in saved and saved[name] != (own := getattr(buffer.options, name)):
            raise InvalidValueError(f"{folder}: expected a buffer with {name}={own}, got one with {saved[name]}")
    _check_columns(folder, saved["columns"], _columns(buffer))


def read(folder: Path, saved: Saved | None, buffer: ReplayBuffer | None) -> ReplayBuffer | None:
    """The buffer of a checkpoint: loaded, opened, or the manager's own if that lives in the saved path."""
    if saved is None or (buffer is not None and saved["path"] is not None and saved["path"] == _path(buffer)):
        return buffer
    if saved["path"] is not None:
        return _opened(folder, saved)
    return (ReplayBuffer if buffer is None else type(buffer)).load(folder / BUFFER)


def _opened(folder: Path, saved: Saved) -> ReplayBuffer:
    """The buffer on disk to which a checkpoint refers."""
    buffer = ReplayBuffer.open(saved["path"], mode="r+")
    try:
        check(folder, saved, buffer)
    except InvalidValueError:
        buffer.close()
        raise
    return buffer


def _path(buffer: ReplayBuffer) -> str | None:
    """The absolute path of a buffer on disk. Returns None for one in memory."""
    return None if buffer.path is None else os.path.abspath(buffer.path)


def _columns(buffer: ReplayBuffer) -> dict[str, str | None]:
    """Dtype and shape of each column, or None if the buffer has not seen data that determine them."""
    if buffer.spec is None:
        return dict.fromkeys(buffer.keys or ())
    return {key: f"{dtype}{list(shape)}" for key, (dtype, shape) in buffer.spec.items()}


def _check_columns(folder: Path, saved: Mapping[str, str | None], own: Mapping[str, str | None]) -> None:
    missing = "no such column"
    for key in {**own, **saved}:
        expected, got = own.get(key, missing), saved.get(key, missing)
        # A column without data fits one of any kind.
        if expected != got and (None not in (expected, got) or missing in (expected, got)):
            raise InvalidValueError(
                f"{folder}: buffer column {key!r}: expected {expected or 'one of any kind'}, got {got or 'one'}"
            )
