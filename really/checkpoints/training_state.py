"""A training run in one folder: all that it needs to go on after its process has died.

A folder `<path>/checkpoint_<time>/` holds
    meta.json       format, counters, settings, random streams, statistics; of each file its length and CRC-32
    <name>.h5       the arrays of a model or optimizer (`variables.py`): `agent`, `target`, `optimizer`, ...
    buffer.arrow    the buffer (`saving.py`); one that lives on disk is only flushed and referred to
    progress.csv    the aggregator's points
It is there whole or not at all (`whole_folders.py`), and nothing in it is ever unpickled. What is loaded is checked
from end to end before anything is set, so that a refused load changes nothing.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils import atomic_folders as whole_folders
from really._utils.checks import check_count, check_path
from really.checkpoints.variables import ModelArrays, OptimizerArrays
from really.data.normalisation import Moments, RunningStatistics, Statistics
from really.errors import InvalidTypeError, InvalidValueError
from really.metrics.aggregator import CSV_NAME, Aggregator
from really.replay.buffer import ReplayBuffer
from really.replay.io import saving

DRAWN_BY = ("alpha", "eps", "n_step", "gamma")  # arguments of a buffer that decide what its batches are
FORMAT = "really-training-1"
STEM, META, BUFFER = "checkpoint", "meta.json", "buffer.arrow"
PIECE = 4 << 20
Number = int | float


@dataclass(frozen=True)
class Standing:
    """Where the manager itself stands.

    Attributes:
        settings: what may change between calls: epsilon, temperature, total_steps.
        version: how often the weights have changed.
        evaluations: how many tests there have been.
        epoch: the agent's.
        entropy: what all the manager's streams come from.
        restarts: the last number in the keys of the runners' streams.
    """

    settings: dict[str, Any]
    version: int
    evaluations: int
    epoch: int
    entropy: int
    restarts: int


@dataclass(frozen=True)
class Parts:
    """What a run is made of, alive. `task` is what has to be the same in a run that goes on with it."""

    task: dict[str, str]
    models: list[ModelArrays]
    optimizers: list[OptimizerArrays]
    generators: dict[str, np.random.Generator]
    buffer: ReplayBuffer | None
    aggregator: Aggregator | None
    statistics: RunningStatistics

    @classmethod
    def of(cls, agent: Any, environment: str, target: Any, optimizer: Any, **others: Any) -> Parts:
        """The parts of a run: its agent, and what the caller gives besides it, one of a kind or a dict of several."""
        spaces = {"observation space": str(agent.observation_space), "action space": str(agent.action_space)}
        named = {"agent": agent, **_named("target", target)}
        # Agents draw their actions from one; plain models have none.
        generators = {name: thing._rng for name, thing in named.items() if hasattr(thing, "_rng")}
        models = [ModelArrays(name, getattr(thing, "model", thing)) for name, thing in named.items()]
        trainable = getattr(agent.model, "trainable_variables", ())
        optimizers = [OptimizerArrays(name, thing, trainable) for name, thing in _named("optimizer", optimizer).items()]
        task = {"environment": environment, **spaces}
        return cls(task=task, models=models, optimizers=optimizers, generators=generators, **others)

    @property
    def files(self) -> dict[str, ModelArrays | OptimizerArrays]:
        """The name of each file of arrays, and whose arrays they are."""
        parts: list[ModelArrays | OptimizerArrays] = [*self.models, *self.optimizers]
        return {f"{part.name}.h5": part for part in parts}


def save(
    parts: Parts, path: str | os.PathLike[str], standing: Standing, counters: Mapping[str, Any] | None, keep: int | None
) -> Path:
    """Writes a checkpoint, and removes all but the newest `keep`; returns its folder.

    Others may put into the buffer and sample from it meanwhile: `saving.save` has the rows held when it begins.

    Raises:
        InvalidTypeError, InvalidValueError: an argument cannot be used; `path` is no folder that can be written.
        FileError: the system would not write a file; what was saved before is as it was.
    """
    keep = keep if keep is None else check_count("keep", keep)
    numbers = {"counters": _checked_counters(counters), "standing": asdict(standing)}
    return whole_folders.write(check_path("path", path), STEM, partial(_fill, parts, numbers), keep)


@dataclass(frozen=True)
class Restored:
    """What was read from a checkpoint and found to fit; `set` makes it hold."""

    parts: Parts
    about: dict[str, Any]
    arrays: dict[str, list[NDArray[Any]]]
    buffer: ReplayBuffer | None
    folder: Path

    @property
    def counters(self) -> dict[str, Number]:
        """The caller's own."""
        return {name: float(n) if isinstance(n, str) else n for name, n in self.about["counters"].items()}

    @property
    def standing(self) -> Standing:
        """The manager's own."""
        return Standing(**self.about["standing"])

    @property
    def frozen(self) -> Statistics:
        """What the policy version normalised by."""
        return _statistics(self.about["statistics"]["frozen"])

    @property
    def pending(self) -> Statistics:
        """What was measured for the version to come."""
        return _statistics(self.about["statistics"]["pending"])

    def set(self) -> tuple[ReplayBuffer | None, Aggregator | None]:
        """Sets models, optimizers and generators; returns the buffer and the aggregator to go on with."""
        aggregator = self._aggregator()
        for model in self.parts.models:
            model.set(self.arrays[model.name])
        for optimizer in self.parts.optimizers:
            optimizer.set(self.arrays[optimizer.name], self.about["arrays"][optimizer.name])
        for name in self.parts.generators.keys() & self.about["generators"].keys():
            self.parts.generators[name].bit_generator.state = self.about["generators"][name]
        if self.buffer is not None and self.about["buffer"]["generator"] is not None:
            self.buffer.load_state_dict(self.about["buffer"]["generator"])
        return self.buffer, aggregator

    def _aggregator(self) -> Aggregator | None:
        """The one that there is, or else one as it was saved, with the points that were saved."""
        arguments, aggregator = self.about["aggregator"], self.parts.aggregator
        if arguments is None:
            return aggregator
        if aggregator is None:
            aggregator = Aggregator(**arguments)
        if set(aggregator.keys) != set(arguments["aggregator_keys"]):
            raise InvalidValueError(
                f"{self.folder}: expected an aggregator of {list(aggregator.keys)}, as there is, got one of "
                f"{arguments['aggregator_keys']}"
            )
        aggregator.go_on(self.folder / CSV_NAME, arguments["init_epoch"])
        return aggregator


def read(parts: Parts, path: str | os.PathLike[str]) -> Restored:
    """Reads the newest checkpoint in `path` (or the one that `path` is) for these parts, and checks it all.

    Raises:
        InvalidValueError: there is none; it is damaged or of another version; it is of another task, of other parts,
            or of a buffer of another schema.
        ModelError: it is of another model or optimizer.
        NotEnoughMemoryError: its buffer does not fit into memory beside the one that there is.
    """
    folder = whole_folders.newest(check_path("path", path), STEM)
    about = _read_about(folder)
    _check_task(folder, about["task"], parts)
    _check_parts(folder, about, parts)
    _check_buffer(folder, about["buffer"], parts.buffer)
    parts.statistics.check(_statistics(about["statistics"]["frozen"]), str(folder))
    _check_files(folder, about["files"])
    arrays = {part.name: part.read(folder / file, about["arrays"][part.name]) for file, part in parts.files.items()}
    return Restored(parts, about, arrays, _read_buffer(folder, about["buffer"], parts.buffer), folder)


# ---------------------------------------------------------------------------------------------- writing


def _fill(parts: Parts, numbers: dict[str, Any], folder: Path) -> None:
    for file, part in parts.files.items():
        part.write(folder / file)
    about = {
        **numbers,
        "task": parts.task,
        "arrays": {part.name: part.about() for part in parts.files.values()},
        "generators": {name: generator.bit_generator.state for name, generator in parts.generators.items()},
        "statistics": {
            "frozen": _as_arrays(parts.statistics.frozen),
            "pending": _as_arrays(parts.statistics.pending()),
        },
        "buffer": _write_buffer(folder, parts.buffer),
        "aggregator": _write_aggregator(folder, parts.aggregator),
    }
    about["files"] = {file.name: _measured(file) for file in sorted(folder.iterdir())}
    text = json.dumps(about, default=saving.plain, sort_keys=True)
    meta = {"format": FORMAT, "crc32": zlib.crc32(text.encode()), "about": json.loads(text)}
    (folder / META).write_text(json.dumps(meta, indent=2) + "\n")


def _write_buffer(folder: Path, buffer: ReplayBuffer | None) -> dict[str, Any] | None:
    if buffer is None:
        return None
    path = _place(buffer)
    if path is None:
        buffer.save(folder / BUFFER)
    else:
        buffer.flush()
    return {
        "capacity": buffer.capacity,
        "columns": _columns(buffer),
        **{name: getattr(buffer.options, name) for name in DRAWN_BY},
        "path": path,
        # One on disk goes on changing; a saved one has the generator's state in its file.
        "generator": None if path is None else buffer.state_dict(),
    }


def _write_aggregator(folder: Path, aggregator: Aggregator | None) -> dict[str, Any] | None:
    if aggregator is None:
        return None
    aggregator.write_csv(folder / CSV_NAME)
    return aggregator.arguments()


def _as_arrays(statistics: Statistics) -> dict[str, dict[str, NDArray[Any]]]:
    return {name: {part: np.asarray(number) for part, number in vars(m).items()} for name, m in statistics.items()}


def _measured(file: Path) -> dict[str, int]:
    """Length and CRC-32 of a file."""
    check = 0
    for piece in _pieces(file):
        check = zlib.crc32(piece, check)
    return {"bytes": file.stat().st_size, "crc32": check}


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while piece := source.read(PIECE):
            yield piece


def _checked_counters(counters: Mapping[str, Any] | None) -> dict[str, Number | str]:
    """Numbers as JSON has them, infinity and NaN as text."""
    if counters is not None and not isinstance(counters, Mapping):
        raise InvalidTypeError(f"counters: expected a dict of numbers, got {counters!r}")
    found: dict[str, Number | str] = {}
    for name, value in (counters or {}).items():
        number = np.asarray(value)
        if not isinstance(name, str) or number.ndim or number.dtype.kind not in "biuf":
            raise InvalidTypeError(f"counters: expected names with numbers, got {name!r}: {value!r}")
        found[name] = number.item() if math.isfinite(number) else repr(float(number))
    return found


def _named(what: str, given: Any) -> dict[str, Any]:
    """`what`, or `what.<name>` for each in a dict; the names become those of files."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return {what: given}
    for name in given:
        if not isinstance(name, str) or not name or set(name) & {"/", "\\", "\0"}:
            raise InvalidValueError(f"{what}: expected names without path separators, got {name!r}")
    return {f"{what}.{name}": thing for name, thing in given.items()}


# ---------------------------------------------------------------------------------------------- reading


def _read_about(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / META).read_text())
        form, check, about = meta["format"], meta.get("crc32"), meta.get("about")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder, META, f"the description of a checkpoint, but {error!r}") from error
    if form != FORMAT:
        raise InvalidValueError(
            f"{folder / META}: expected format {FORMAT!r}, got {form!r}; another version of really wrote it"
        )
    text = json.dumps(about, sort_keys=True)
    if zlib.crc32(text.encode()) != check:
        raise _damaged(folder, META, "a description as it was saved, got one that was changed since")
    found: dict[str, Any] = json.loads(text, object_hook=saving.array_of)
    return found


def _damaged(folder: Path, file: str, what: str) -> InvalidValueError:
    """An error that says what is wrong, and what else there is to load."""
    before = [other for other in whole_folders.found(folder.parent, STEM) if other.name < folder.name]
    hint = f". The checkpoint before it is {str(before[-1])!r}" if before else ""
    return InvalidValueError(f"{folder / file}: expected {what}{hint}")


def _check_files(folder: Path, files: Mapping[str, Mapping[str, int]]) -> None:
    for name, saved in files.items():
        if not (folder / name).is_file():
            raise _damaged(folder, name, f"a file of {saved['bytes']:,} bytes, got nothing")
        size = (folder / name).stat().st_size
        if size != saved["bytes"]:
            raise _damaged(folder, name, f"{saved['bytes']:,} bytes, got {size:,}")
        if _measured(folder / name) != saved:
            raise _damaged(folder, name, "bytes as they were saved, got others: the file is damaged")


def _statistics(saved: Mapping[str, Mapping[str, NDArray[Any]]]) -> Statistics:
    return {name: Moments(**moments) for name, moments in saved.items()}


def _check_task(folder: Path, saved: Mapping[str, str], parts: Parts) -> None:
    for name, value in parts.task.items():
        if saved.get(name) != value:
            raise InvalidValueError(f"{folder}: expected a checkpoint of {name} {value!r}, got {saved.get(name)!r}")


def _check_parts(folder: Path, about: Mapping[str, Any], parts: Parts) -> None:
    own = [part.name for part in parts.files.values()]
    for verb, names, others in (("given, too", about["arrays"], own), ("left out", own, about["arrays"])):
        if missing := [name for name in names if name not in others]:
            raise InvalidValueError(
                f"{folder}: expected {', '.join(missing)} to be {verb}: the checkpoint has {', '.join(about['arrays'])}"
            )
    for name in parts.generators.keys() & about["generators"].keys():
        kind = type(parts.generators[name].bit_generator).__name__
        if (saved := about["generators"][name]["bit_generator"]) != kind:
            raise InvalidValueError(f"{folder}: expected the state of a {kind} for {name}'s actions, got a {saved}'s")


# ---------------------------------------------------------------------------------------------- the buffer


def _place(buffer: ReplayBuffer) -> str | None:
    """Where a buffer on disk lives; None for one in memory."""
    return None if buffer.path is None else os.path.abspath(buffer.path)


def _columns(buffer: ReplayBuffer) -> dict[str, str | None]:
    """Dtype and shape of each key, None where no data have said it yet."""
    if buffer.spec is None:
        return dict.fromkeys(buffer.keys or ())
    return {key: f"{dtype}{list(shape)}" for key, (dtype, shape) in buffer.spec.items()}


def _check_buffer(folder: Path, saved: Mapping[str, Any] | None, buffer: ReplayBuffer | None) -> None:
    """Refuses a checkpoint whose buffer is not like the one that there is."""
    if saved is None or buffer is None:
        return
    if saved["path"] is None and _place(buffer) is not None:
        raise InvalidValueError(f"{folder}: expected a buffer that lives in {_place(buffer)!r}, got one in memory")
    if saved["capacity"] != buffer.capacity:
        raise InvalidValueError(
            f"{folder}: expected a buffer of {buffer.capacity:,} rows, as there is, got one of {saved['capacity']:,}"
        )
    for name in DRAWN_BY:
        if name in saved and saved[name] != (there := getattr(buffer.options, name)):
            raise InvalidValueError(f"{folder}: expected a buffer with {name}={there}, got one with {saved[name]}")
    own = _columns(buffer)
    for key in {**own, **saved["columns"]}:
        expected, got = (columns.get(key, "no such column") for columns in (own, saved["columns"]))
        # None: no data have come yet that would say of what kind it is.
        if expected != got and (None not in (expected, got) or "no such column" in (expected, got)):
            raise InvalidValueError(
                f"{folder}: buffer column {key!r}: expected {expected or 'one of any kind'}, got {got or 'one'}"
            )


def _read_buffer(folder: Path, saved: Mapping[str, Any] | None, buffer: ReplayBuffer | None) -> ReplayBuffer | None:
    if saved is None or (buffer is not None and saved["path"] is not None and saved["path"] == _place(buffer)):
        return buffer
    if saved["path"] is not None:
        return _opened(folder, saved)
    return (ReplayBuffer if buffer is None else type(buffer)).load(folder / BUFFER)


def _opened(folder: Path, saved: Mapping[str, Any]) -> ReplayBuffer:
    """The buffer on disk that a checkpoint refers to."""
    buffer = ReplayBuffer.open(saved["path"], mode="r+")
    try:
        _check_buffer(folder, saved, buffer)
    except InvalidValueError:
        buffer.close()
        raise
    return buffer
