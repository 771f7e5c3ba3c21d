"""The buffer of a checkpoint: a copy of its rows if it is in memory, its identity and a moment if it lives on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from really._utils.checks import checked_path
from really._utils.file_formats import array_from_json, array_to_json
from really.errors import InvalidValueError
from really.replay.batches import state_to_save
from really.replay.buffer import ReplayBuffer
from really.replay.disk import priority_files
from really.replay.disk.schema import SCHEMA
from really.replay.moments import Moment, RolledBack
from really.replay.options import BufferOptions
from really.replay.rows import Sampled

BUFFER = "buffer.arrow"
PRIORITIES = "buffer.priorities"
# Options of a buffer that decide what its batches are.
BATCH_OPTIONS = ("alpha", "eps", "n_step", "gamma", "sampler", "unit")

Saved = Mapping[str, Any]


class AnyMoment(Protocol):
    """Which rows a buffer held, in one process or in shards, and all that its next batches depend on."""

    @property
    def generator(self) -> dict[str, Any]:
        """The buffer's `state_dict`."""

    @property
    def priorities(self) -> dict[str, Any] | None:
        """Priorities of the rows, which have a file of their own."""

    def to_json(self) -> dict[str, Any]:
        """The rest."""


class AnyMoments(Protocol):
    """Takes moments of a buffer and returns to them (`replay.moments`)."""

    def read(self, saved: Saved, priorities: dict[str, Any] | None) -> Any:
        """The moment of which `to_json` gave `saved`."""

    def take(self, generator: Mapping[str, Any]) -> Any:
        """This moment."""

    def keep(self, moment: Any) -> None:
        """Keeps the rows of a moment."""

    def check(self, moment: Any, missing: str = "error") -> RolledBack:
        """What `roll_back` would do."""

    def roll_back(self, moment: Any, missing: str = "error") -> RolledBack:
        """Returns to a moment."""


class AnyBuffer(Sampled, Protocol):
    """What a checkpoint asks of a buffer: `ReplayBuffer`, or one in shards."""

    @property
    def options(self) -> BufferOptions:
        """What the buffer was made with."""

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keys in the order of a batch."""

    @property
    def path(self) -> Path | None:
        """Where the rows live; None in memory."""

    @property
    def shard_names(self) -> tuple[str, ...]:
        """What each shard is called; empty for a buffer in one process."""

    @property
    def moments(self) -> AnyMoments | None:
        """How it returns to a checkpoint; None in memory."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the rows to a file."""

    def loaded(self, path: str | os.PathLike[str]) -> Self:
        """A new buffer in memory of what `save` wrote."""

    def close(self) -> None:
        """Closes it."""


def moment_of(buffer: AnyBuffer | None) -> AnyMoment | None:
    """The present moment of a buffer on disk, whose rows are then safe from a loss of power; None for others."""
    moments = None if buffer is None else buffer.moments
    return None if moments is None or buffer is None else moments.take(state_to_save(buffer))


def keep(buffer: AnyBuffer | None, moment: AnyMoment | None) -> None:
    """Makes the buffer keep the rows of a moment, once the checkpoint that names it is complete."""
    if buffer is not None and moment is not None and (moments := buffer.moments) is not None:
        moments.keep(moment)


def write(folder: Path, buffer: AnyBuffer | None, moment: AnyMoment | None) -> dict[str, Any] | None:
    """Writes the files of a buffer into the folder of a checkpoint; returns its description."""
    if buffer is None:
        return None
    if moment is None:
        buffer.save(folder / BUFFER)
    elif moment.priorities is not None:
        priority_files.write(folder / PRIORITIES, moment.priorities)
    return {
        "capacity": buffer.options.capacity,
        "columns": _columns(buffer),
        **_batch_options(buffer),
        "path": _path(buffer),
        "relative_path": None if buffer.path is None else os.path.relpath(buffer.path, folder.parent),
        # Of the saved rows in memory; an iterator may have drawn ahead of it.
        "generator": state_to_save(buffer) if moment is None else None,
        "moment": None if moment is None else moment.to_json(),
    }


def check(folder: Path, saved: Saved | None, buffer: AnyBuffer | None) -> None:
    """Raises InvalidValueError if the manager has a buffer that differs from the saved one."""
    if saved is None:
        return
    if _is_in_shards(saved) and (buffer is None or not buffer.shard_names or buffer.path is None):
        shards = "shards in memory" if buffer is not None and buffer.shard_names else "one in one process"
        raise InvalidValueError(
            f"{folder}: expected a manager with a buffer in the shards of the checkpoint "
            f"({', '.join(saved['moment']['names'])}), got {'none' if buffer is None else shards}; call "
            f"initialize_buffer({saved['capacity']}, shards=, path={saved['path']!r}) before"
        )
    if buffer is None:
        return
    if buffer.shard_names and saved["moment"] is not None and not _is_in_shards(saved):
        raise InvalidValueError(f"{folder}: expected a buffer in shards, as the manager has, got one in one process")
    if saved["path"] is None and _path(buffer) is not None:
        raise InvalidValueError(f"{folder}: expected a buffer that lives in {_path(buffer)!r}, got one in memory")
    if saved["capacity"] != buffer.options.capacity:
        raise InvalidValueError(
            f"{folder}: expected a buffer of {buffer.options.capacity:,} rows, as the manager has, "
            f"got one of {saved['capacity']:,}"
        )
    for name, own in _batch_options(buffer).items():
        if name in saved and saved[name] != own:
            raise InvalidValueError(f"{folder}: expected a buffer with {name}={own}, got one with {saved[name]}")
    _check_columns(folder, saved["columns"], _columns(buffer))


@dataclass(frozen=True)
class SavedBuffer:
    """The buffer of a checkpoint, ready to be used: in memory loaded, on disk open. `resume` makes it as it was saved.

    Attributes:
        buffer: the buffer; None if neither checkpoint nor manager has one.
        moment: what a buffer on disk returns to; None for one in memory.
        missing: what becomes of rows that are gone (`Moments.check`).
        is_opened: whether the buffer is one on disk that the manager did not have open.
    """

    buffer: AnyBuffer | None
    moment: AnyMoment | None = None
    missing: str = "error"
    is_opened: bool = False

    def discard(self) -> None:
        """Closes a buffer on disk that was opened for this."""
        if self.buffer is not None and self.is_opened:
            self.buffer.close()

    def resume(self) -> RolledBack:
        """Returns a buffer on disk to the checkpoint."""
        buffer = self.buffer
        moments = None if buffer is None else buffer.moments
        if buffer is None or moments is None or self.moment is None:
            return RolledBack()
        done = moments.roll_back(self.moment, self.missing)
        buffer.load_state_dict(self.moment.generator)  # of the sampler, too
        return done


def read(
    folder: Path,
    saved: Saved | None,
    buffer: AnyBuffer | None,
    path: str | os.PathLike[str] | None = None,
    missing: str = "error",
) -> SavedBuffer:
    """The buffer of a checkpoint: loaded, opened, or the manager's own if that is the one. It is unchanged so far.

    Args:
        folder: of the checkpoint.
        saved: its description of the buffer.
        buffer: of the manager.
        path: where the folder of a buffer on disk is now, if it was moved.
        missing: what becomes of rows that are gone (`Moments.check`).

    Raises:
        InvalidValueError: another buffer is there, or rows of it are gone.
    """
    if path is not None and (saved is None or saved["moment"] is None):
        raise InvalidValueError(f"buffer_path: expected none, as {folder} has no buffer on disk, got {str(path)!r}")
    if saved is None:
        return SavedBuffer(buffer)
    if saved["moment"] is None:
        loaded = ReplayBuffer.load(folder / BUFFER) if buffer is None else buffer.loaded(folder / BUFFER)
        loaded.load_state_dict(saved["generator"])
        return SavedBuffer(loaded)
    if buffer is not None and buffer.shard_names:
        return _in_shards(folder, saved, buffer, path, missing)
    moment = _moment(folder, saved)
    place = _place(folder, saved) if path is None else os.path.abspath(checked_path("buffer_path", path))
    if buffer is not None and _is_it(buffer, moment, place, is_named=path is not None):
        _moments(buffer).check(moment, missing)
        return SavedBuffer(buffer, moment, missing)
    return SavedBuffer(_opened(folder, saved, moment, place, missing), moment, missing, is_opened=True)


def _in_shards(folder: Path, saved: Saved, buffer: AnyBuffer, path: Any, missing: str) -> SavedBuffer:
    """The manager's buffer in shards on disk, which is as at the checkpoint after `resume`."""
    if path is not None:
        raise InvalidValueError(
            f"buffer_path: expected none for a buffer in shards, whose folders are those of initialize_buffer(path=), "
            f"got {str(path)!r}"
        )
    moments = _moments(buffer)
    moment = moments.read(saved["moment"], _priorities(folder))
    moments.check(moment, missing)
    return SavedBuffer(buffer, moment, missing)


def _is_in_shards(saved: Saved) -> bool:
    """Whether the rows are on the disks of shards."""
    return saved["moment"] is not None and "shards" in saved["moment"]


def _place(folder: Path, saved: Saved) -> str:
    """Where the buffer was; if nothing is there, the same place seen from the checkpoint, which was moved with it."""
    beside = os.path.abspath(folder.parent / saved["relative_path"])
    was, beside_is_one = str(saved["path"]), (Path(beside) / SCHEMA).exists()
    return beside if beside_is_one and not (Path(was) / SCHEMA).exists() else was


def _is_it(buffer: AnyBuffer, moment: Moment, place: str, is_named: bool) -> bool:
    """Whether the manager's own buffer is the saved one, or is where that should be."""
    moments = buffer.moments if isinstance(buffer, ReplayBuffer) else None
    return moments is not None and (_path(buffer) == place or (not is_named and moments.is_of(moment.identity)))


def _moment(folder: Path, saved: Saved) -> Moment:
    """What the buffer returns to; the files of the checkpoint have been checked."""
    return Moment(**saved["moment"], priorities=_priorities(folder))


def _priorities(folder: Path) -> dict[str, Any] | None:
    path = folder / PRIORITIES
    return priority_files.read_file(path) if path.exists() else None


def _opened(folder: Path, saved: Saved, moment: Moment, place: str, missing: str) -> ReplayBuffer:
    """The buffer on disk to which a checkpoint refers."""
    try:
        buffer = ReplayBuffer.open(place, mode="r+")
    except InvalidValueError as error:
        raise InvalidValueError(
            f"{folder}: expected the buffer of the checkpoint in {place!r}, but {error}; buffer_path= names its folder "
            f"if it was moved"
        ) from error
    try:
        check(folder, saved, buffer)
        _moments(buffer).check(moment, missing)
    except BaseException:
        buffer.close()
        raise
    return buffer


def _moments(buffer: AnyBuffer) -> AnyMoments:
    """The moments of a buffer on disk."""
    assert buffer.moments is not None
    return buffer.moments


def _path(buffer: AnyBuffer) -> str | None:
    """The absolute path of a buffer on disk. Returns None for one in memory."""
    return None if buffer.path is None else os.path.abspath(buffer.path)


def _batch_options(buffer: AnyBuffer) -> dict[str, Any]:
    """The options that decide what batches are, as JSON gives them back: with lists in place of tuples."""
    options = {name: getattr(buffer.options, name) for name in BATCH_OPTIONS}
    return dict(json.loads(json.dumps(options, default=array_to_json), object_hook=array_from_json))


def _columns(buffer: AnyBuffer) -> dict[str, str | None]:
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
