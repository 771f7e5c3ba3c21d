"""The state of a training run, saved in one folder, with all that is needed to resume it after its process has died.

A folder `<path>/checkpoint_<time>/` holds
    meta.json       the description (`description.py`): counters, settings, random streams, statistics, checksums
    <name>.h5       the arrays of a model or optimizer (`variables.py`): `agent`, `target`, `optimizer`, ...; for
                    PyTorch and JAX <name>.safetensors (`torch_optimizers.py`, `pytrees.py`)
    buffer.arrow    the rows of the buffer, unless it lives on disk (`saved_buffer.py`)
    buffer.priorities  of the rows of a buffer on disk, if they are drawn by priority
    progress.csv    the points of the aggregator
The folder appears complete or not at all (`atomic_folders.py`). Nothing in it is ever unpickled. All of it is checked
before anything is set, so that a refused load changes nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils import atomic_folders
from really._utils.checks import checked_file_name, checked_integer, checked_path
from really._utils.input_files import reading
from really.checkpoints import array_files, description, saved_buffer
from really.checkpoints.description import META, STEM, Description
from really.checkpoints.pytrees import PytreeArrays, is_pytree
from really.checkpoints.saved_buffer import AnyBuffer, AnyMoment, SavedBuffer
from really.checkpoints.torch_optimizers import TorchOptimizerArrays, is_torch_optimizer
from really.checkpoints.variables import ModelArrays, OptimizerArrays
from really.data.moments import Moments, Statistics
from really.data.normalisation import RunningStatistics
from really.errors import InvalidTypeError, InvalidValueError, ReallyError
from really.metrics.aggregator import Aggregator
from really.metrics.curves import CSV_NAME

Number = int | float
Arrays = ModelArrays | OptimizerArrays | TorchOptimizerArrays | PytreeArrays


@dataclass(frozen=True)
class ManagerState:
    """The numbers of the manager itself.

    Attributes:
        settings: settings that may change between calls: epsilon, temperature, total_steps.
        version: the policy version.
        evaluations: how many tests were run.
        steps: how many rows were delivered.
        epoch: the agent's epoch.
        entropy: the number from which all random streams of the manager are derived.
        restarts: the last number in the keys of the runners' streams.
    """

    settings: dict[str, Any]
    version: int
    evaluations: int
    steps: int
    epoch: int
    entropy: int
    restarts: int


@dataclass(frozen=True)
class RunParts:
    """The live objects of a run.

    Attributes:
        task: names of the environment and its spaces, which must be the same in a run that resumes this one.
        models: the agent's model and the targets.
        optimizers: the optimizers that the caller gave, or states of those that have none of their own.
        generators: the generators from which agents draw actions, by the agent's name.
        buffer, aggregator: those of the manager, if it has them.
        statistics: the manager's statistics for normalisation.
    """

    task: dict[str, str]
    models: Sequence[Arrays]
    optimizers: Sequence[Arrays]
    generators: dict[str, np.random.Generator]
    buffer: AnyBuffer | None
    aggregator: Aggregator | None
    statistics: RunningStatistics

    @classmethod
    def of(cls, agent: Any, environment: str, target: Any, optimizer: Any, **others: Any) -> RunParts:
        """The parts of a run from its agent and the caller's targets and optimizers (one, or a dict of several)."""
        spaces = {"observation space": str(agent.observation_space), "action space": str(agent.action_space)}
        named = {"agent": agent, **_named("target", target)}
        # A target may be a plain model, which draws no actions.
        found = {name: getattr(part, "rng", None) for name, part in named.items()}
        generators = {name: rng for name, rng in found.items() if isinstance(rng, np.random.Generator)}
        models = [_model_arrays(name, part) for name, part in named.items()]
        trainable, given = agent.trainable_variables, _named("optimizer", optimizer)
        optimizers = [_optimizer_arrays(name, each, trainable) for name, each in given.items()]
        _check_one_framework([*models, *optimizers])
        task = {"environment": environment, **spaces}
        return cls(task=task, models=models, optimizers=optimizers, generators=generators, **others)

    @property
    def files(self) -> dict[str, Arrays]:
        """The model or optimizer of each file of arrays, by the name of the file."""
        parts: list[Arrays] = [*self.models, *self.optimizers]
        return {f"{part.name}{part.suffix}": part for part in parts}


def save(
    parts: RunParts,
    path: str | os.PathLike[str],
    state: ManagerState,
    counters: Mapping[str, Any] | None,
    keep: int | None,
) -> Path:
    """Writes a checkpoint and removes all but the newest `keep`; returns its folder.

    Other threads may put into the buffer and sample from it meanwhile. The rows saved are those held at the start.

    Raises:
        InvalidTypeError, InvalidValueError: an argument cannot be used, or `path` is not a folder that can be written.
        FileError: the system could not write a file. Earlier checkpoints are unchanged.
    """
    keep = keep if keep is None else checked_integer("keep", keep)
    numbers = {"counters": _checked_counters(counters), "standing": asdict(state)}
    parent, moment = checked_path("path", path), saved_buffer.moment_of(parts.buffer)
    if any(part.suffix == array_files.SUFFIX for part in parts.files.values()):
        array_files.check_installed(parent)
    folder = atomic_folders.write(parent, STEM, partial(_fill, parts, numbers, moment), keep)
    saved_buffer.keep(parts.buffer, moment)
    return folder


@dataclass(frozen=True)
class Restored:
    """A checkpoint that was read and fits the parts of a run. `applied` sets the parts to it."""

    parts: RunParts
    about: Description
    arrays: dict[str, list[NDArray[Any]]]
    buffer: SavedBuffer
    folder: Path

    @property
    def counters(self) -> dict[str, Number]:
        """The caller's counters."""
        return {name: float(n) if isinstance(n, str) else n for name, n in self.about["counters"].items()}

    @property
    def state(self) -> ManagerState:
        """The numbers of the manager."""
        return ManagerState(**self.about["standing"])

    @property
    def frozen(self) -> Statistics:
        """The statistics with which the policy version normalised."""
        return _statistics(self.about["statistics"]["frozen"])

    @property
    def pending(self) -> Statistics:
        """The statistics that were measured for the next policy version."""
        return _statistics(self.about["statistics"]["pending"])

    def naming_description(self) -> contextlib.AbstractContextManager[None]:
        """Makes an error of the block, which takes values of the description, an InvalidFileError that names it."""
        return reading(self.folder / META, "the description of a checkpoint", passing=())

    @contextlib.contextmanager
    def applied(self) -> Iterator[Aggregator | None]:
        """Sets models, optimizers and generators; yields the aggregator of the resumed run.

        An error of the block, or here, sets them back to what they were. The buffer is unchanged so far.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self.buffer.discard)
            for part in self.parts.files.values():
                undo.callback(part.set_all, part.copies())
            for generator in self.parts.generators.values():
                undo.callback(setattr, generator.bit_generator, "state", generator.bit_generator.state)
            self._set_parts()
            with self._resumed_aggregator() as aggregator:
                yield aggregator
            undo.pop_all()

    def _set_parts(self) -> None:
        for part in self.parts.files.values():
            part.set(self.arrays[part.name], self.about["arrays"][part.name])
        for name in self.parts.generators.keys() & self.about["generators"].keys():
            self.parts.generators[name].bit_generator.state = self.about["generators"][name]

    @contextlib.contextmanager
    def _resumed_aggregator(self) -> Iterator[Aggregator | None]:
        """The run's aggregator, or a new one as it was saved, with the saved points unless the block raises."""
        arguments, aggregator = self.about["aggregator"], self.parts.aggregator
        if arguments is None:
            yield aggregator
            return
        if aggregator is None:
            with self.naming_description():
                aggregator = Aggregator(**arguments)
        with aggregator.undone_on_error():
            aggregator.resume(self.folder / CSV_NAME, arguments["init_epoch"])
            yield aggregator


def read(
    parts: RunParts,
    path: str | os.PathLike[str],
    buffer_path: str | os.PathLike[str] | None = None,
    missing: str = "error",
) -> Restored:
    """Reads the newest checkpoint in `path`, or the checkpoint `path` itself, and checks that it fits these parts.

    `buffer_path` and `missing` are as in `saved_buffer.read`.

    Raises:
        InvalidValueError: there is no checkpoint; it is damaged or of another version; it is of another task, of other
            parts, or of another buffer, or of one whose rows are gone.
        ModelError: it is of another model or optimizer.
        NotEnoughMemoryError: its buffer does not fit into memory beside the present one.
    """
    folder = atomic_folders.newest(checked_path("path", path), STEM)
    about = description.read(folder)
    with reading(folder / META, "the description of a checkpoint", passing=ReallyError):
        _check_task(folder, about["task"], parts)
        _check_parts(folder, about, parts)
        _check_aggregator(folder, about["aggregator"], parts.aggregator)
        saved_buffer.check(folder, about["buffer"], parts.buffer)
        parts.statistics.check(_statistics(about["statistics"]["frozen"]), str(folder))
        description.check_files(folder, about["files"])
        arrays = {part.name: part.read(folder / file, about["arrays"][part.name]) for file, part in parts.files.items()}
        buffer = saved_buffer.read(folder, about["buffer"], parts.buffer, buffer_path, missing)
    return Restored(parts, about, arrays, buffer, folder)


def _model_arrays(name: str, part: Any) -> Arrays:
    return PytreeArrays(name, part) if is_pytree(part) else ModelArrays(name, getattr(part, "model", part))


def _optimizer_arrays(name: str, optimizer: Any, trainable: Any) -> Arrays:
    if is_torch_optimizer(optimizer):
        return TorchOptimizerArrays(name, optimizer)
    return PytreeArrays(name, optimizer) if is_pytree(optimizer) else OptimizerArrays(name, optimizer, trainable)


def _check_one_framework(parts: Sequence[Arrays]) -> None:
    """Raises InvalidTypeError if a target or an optimizer is of another framework than the agent's model."""
    own = parts[0].framework
    # Optimizers of PyTorch train parameters of Keras on PyTorch, too.
    fitting = (own, own.removeprefix("keras_"), "callable")
    if other := next((part for part in parts if part.framework not in fitting), None):
        raise InvalidTypeError(
            f"{other.name}: expected the framework {own!r} of the agent's model, got {other.framework!r}"
        )


# ---------------------------------------------------------------------------------------------- writing


def _fill(parts: RunParts, numbers: Description, moment: AnyMoment | None, folder: Path, number: int) -> None:
    """Writes all files of a checkpoint into an empty folder."""
    for file, part in parts.files.items():
        part.write(folder / file)
    about = {
        **numbers,
        "number": number,
        "task": parts.task,
        "arrays": {part.name: part.about() for part in parts.files.values()},
        "generators": {name: generator.bit_generator.state for name, generator in parts.generators.items()},
        "statistics": {
            "frozen": _as_arrays(parts.statistics.frozen),
            "pending": _as_arrays(parts.statistics.pending()),
        },
        "buffer": saved_buffer.write(folder, parts.buffer, moment),
        "aggregator": _write_aggregator(folder, parts.aggregator),
    }
    description.write(folder, about)


def _write_aggregator(folder: Path, aggregator: Aggregator | None) -> dict[str, Any] | None:
    if aggregator is None:
        return None
    aggregator.write_csv(folder / CSV_NAME)
    return aggregator.arguments()


def _as_arrays(statistics: Statistics) -> dict[str, dict[str, NDArray[Any]]]:
    return {name: {part: np.asarray(number) for part, number in vars(m).items()} for name, m in statistics.items()}


def _checked_counters(counters: Mapping[str, Any] | None) -> dict[str, Number | str]:
    """The counters as numbers that JSON has; infinity and NaN become text."""
    if counters is not None and not isinstance(counters, Mapping):
        raise InvalidTypeError(f"counters: expected a dict of numbers, got {counters!r}")
    found: dict[str, Number | str] = {}
    for name, value in (counters or {}).items():
        number = np.asarray(value)
        if not isinstance(name, str) or number.ndim or number.dtype.kind not in "biuf":
            raise InvalidTypeError(f"counters: expected names with numbers, got {name!r}: {value!r}")
        found[name] = number.item() if math.isfinite(number) else repr(float(number))
    return found


def _named(argument: str, given: Any) -> dict[str, Any]:
    """The given objects by the names of their files: `argument`, or `argument.<key>` for each key of a dict."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return {argument: given}
    for name in given:
        checked_file_name(argument, name)
    return {f"{argument}.{name}": value for name, value in given.items()}


# ---------------------------------------------------------------------------------------------- reading


def _statistics(saved: Mapping[str, Mapping[str, NDArray[Any]]]) -> Statistics:
    return {name: Moments(**moments) for name, moments in saved.items()}


def _check_task(folder: Path, saved: Mapping[str, str], parts: RunParts) -> None:
    for name, value in parts.task.items():
        if saved.get(name) != value:
            raise InvalidValueError(f"{folder}: expected a checkpoint of {name} {value!r}, got {saved.get(name)!r}")


def _check_aggregator(folder: Path, saved: Mapping[str, Any] | None, own: Aggregator | None) -> None:
    if saved is not None and own is not None and set(own.keys) != set(saved["aggregator_keys"]):
        raise InvalidValueError(
            f"{folder}: expected an aggregator of {list(own.keys)}, as the manager has, got one of "
            f"{saved['aggregator_keys']}"
        )


def _check_parts(folder: Path, about: Mapping[str, Any], parts: RunParts) -> None:
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
