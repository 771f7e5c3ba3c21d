"""Saved models: each has a folder of its own, which appears complete or not at all; the newest is found by its name.

A folder `<path>/<model_name>_<epoch>_<time>/` holds
    meta.json          format, epoch, name, shape and dtype of each weight, names and shapes of the statistics, spaces
                       and sampling type of the agent, and checksums
    model.weights.h5   of Keras and TensorFlow: the arrays of the model's state, as `array_files.py` writes them, and
                       the statistics that normalise observations and rewards: `statistics/0/count`, `mean`, `squares`
    model.safetensors  of PyTorch and JAX, in its place: the arrays of the model's state by name, as `tensor_files.py`
                       writes them; of PyTorch they are its `state_dict`
    statistics.safetensors  the statistics beside it, if there are any: `0.count`, `0.mean`, `0.squares`
    model.keras        Keras' own file, if Keras can save this class of model; `Agent.load` alone reads it
Keras' own format cannot load many subclasses of its models. Nothing is ever unpickled.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from really._utils import atomic_folders
from really._utils.atomic_files import described
from really._utils.checks import checked_file_name, checked_integer, checked_path
from really._utils.file_formats import read_json
from really._utils.input_files import reading
from really.checkpoints import array_files, description, tensor_files, variables
from really.data.moments import Moments, Statistics
from really.errors import InvalidFileError, InvalidTypeError, InvalidValueError
from really.policies.states import framework_name, is_model, state_of

log = logging.getLogger("really")

FORMAT, WHAT = "really-checkpoint-2", "the description of a saved model"
WEIGHTS, META, KERAS = "model.weights.h5", "meta.json", "model.keras"
TENSORS, STATISTICS = "model.safetensors", "statistics.safetensors"
# Fields of `Moments`, the statistics of one column.
MOMENTS = ("count", "mean", "squares")
FLOAT64 = np.dtype(np.float64)
FOLDER_NAME = re.compile(rf"(?P<model_name>.+)_(?P<epoch>\d+)_(?P<time>{atomic_folders.TIME})")


def save_model(
    model: Any,
    path: str | os.PathLike[str],
    epoch: int,
    model_name: str = "model",
    statistics: Statistics | None = None,
    about_agent: Mapping[str, Any] | None = None,
) -> Path:
    """Saves a model in a new folder under `path`, which is made if it is missing; returns the new folder.

    The folder is written under a temporary name and then renamed, so it appears complete or not at all. `statistics`
    normalise the observations and rewards of the model. `about_agent` is in the description under `agent`.

    Raises:
        InvalidTypeError: `epoch` is not an integer, or the model has no `weights`.
        InvalidValueError: `epoch` is negative, `model_name` cannot be part of a folder's name, or `path` is not a
            folder that can be written.
        FileError: the system could not write a file.
    """
    epoch = checked_integer("epoch", epoch, 0)
    parent = checked_path("path", path)
    checked_file_name("model_name", model_name)
    weights = _weights_of(model)
    check_packages(model, parent)
    fill = functools.partial(_write, model, weights, epoch, statistics or {}, dict(about_agent or {}) or None)
    return atomic_folders.write(parent, f"{model_name}_{epoch}", fill, family=FOLDER_NAME)


def check_packages(model: Any, path: Path) -> None:
    """Raises MissingPackageError if the file of the model's weights needs a package that is not installed."""
    if _weights_file(framework_name(model)) == WEIGHTS:
        array_files.check_installed(path)


def load_model(model: Any, path: str | os.PathLike[str]) -> int:
    """Loads the newest weights saved in `path` into a built model of the same class; returns their epoch.

    `path` may also be the folder of one saved model. Names are compared without Keras' counters (`dense_3` equals
    `dense`). All is checked before anything is set: if an error is raised, the model keeps its weights.

    Raises:
        InvalidValueError: `path` holds no saved model.
        InvalidFileError: the saved model is damaged, or has a NaN.
        ModelError: the saved weights are those of another model.
    """
    folder = newest_checkpoint(path)
    meta = _read_meta(folder)
    own, framework = _weights_of(model), framework_name(model)
    variables.check_framework(folder, meta.get("framework", framework), framework)
    variables.check_same(folder, meta["weights"], _describe(model, own))
    file = folder / _weights_file(framework)
    arrays = variables.read(file, meta["weights"])
    array_files.check_no_nan(file, meta["weights"], arrays)
    state_of(model).set_flat(arrays)
    return int(meta["epoch"])


def load_statistics(folder: Path) -> Statistics:
    """The statistics in the folder of one saved model; empty if nothing was normalised, or in an older format.

    Raises:
        InvalidFileError: the saved model is damaged.
    """
    meta = _read_meta(folder)
    described = meta["statistics"]
    found: Statistics = {}
    if not described:
        return found
    if (folder / STATISTICS).name in meta["files"]:
        arrays = iter(tensor_files.read(folder / STATISTICS, _moments_of(described)))
        return {about["name"]: Moments(*(next(arrays) for _ in MOMENTS)) for about in described}
    with array_files.opened(folder / WEIGHTS, f"{len(described)} statistics") as file:
        for at, about in enumerate(described):
            shapes = {part: [] if part == "count" else about["shape"] for part in MOMENTS}
            with array_files.naming(folder / WEIGHTS, f"statistics of {about['name']!r}"):
                parts = [
                    array_files.read_array(file, f"statistics/{at}/{part}", FLOAT64, shape)
                    for part, shape in shapes.items()
                ]
            found[about["name"]] = Moments(*parts)
    return found


def describe(folder: Path) -> dict[str, Any]:
    """The description of one saved model, without its arrays: `epoch`, `weights`, `statistics`, ...

    Raises InvalidFileError if the saved model is damaged.
    """
    return _read_meta(folder)


def keras_file(folder: Path, about: Mapping[str, Any]) -> Path | None:
    """Keras' own file in the folder that `about` describes; None if Keras could not write it.

    Raises InvalidFileError if the file is damaged.
    """
    if about.get("keras_file") is None:
        return None
    description.check_files(folder, {KERAS: about["keras_file"]})
    return folder / KERAS


def best_so_far(path: Path, model_name: str) -> tuple[Path | None, float]:
    """The model of this name in `path` with the highest score, and its score; None and -inf if there is none.

    Raises InvalidFileError if a saved model is damaged.
    """
    best: tuple[Path | None, float] = (None, -math.inf)
    for folder in atomic_folders.found(path, FOLDER_NAME) if path.is_dir() else []:
        if _model_name(folder) == model_name:
            score = (_read_meta(folder).get("agent") or {}).get("score") or {}
            with reading(folder / META, "the score of a saved model"):
                mean = float(score.get("mean", -math.inf))
            if mean >= best[1]:
                best = folder, mean
    return best


def newest_checkpoint(path: str | os.PathLike[str], model_name: str | None = None) -> Path:
    """The folder in `path` of the model that was saved last; entries with other names are ignored.

    With `model_name` only those count that were saved under this name, or whose folder has this name.

    Raises:
        InvalidValueError: `path` is not a folder, or holds no saved model; the message says what it holds.
    """
    parent = checked_path("path", path)
    if not parent.is_dir():
        raise InvalidValueError(f"path: expected a folder that save_model() wrote into, got {str(path)!r}: no folder")
    if FOLDER_NAME.fullmatch(parent.resolve().name) and (parent / META).exists():
        return parent
    folders = atomic_folders.found(parent, FOLDER_NAME, tells=True)
    if model_name is not None:
        folders = [folder for folder in folders if model_name in (_model_name(folder), folder.name)]
    if not folders:
        names = sorted(entry.name for entry in parent.iterdir())
        there = f"it holds {', '.join(map(repr, names[:10]))}{' ...' * (len(names) > 10)}" if names else "it is empty"
        wanted = model_name or "<model_name>"
        raise InvalidValueError(f"path: expected folders {wanted}_<epoch>_<time> in {str(path)!r}, but {there}")
    return folders[-1]


def all_subdirs_of(b: str | os.PathLike[str] = ".") -> list[str]:
    """Paths of the folders directly in `b`, sorted by name; raises InvalidValueError if `b` is not a folder."""
    if not (folder := checked_path("b", b)).is_dir():
        raise InvalidValueError(f"b: expected a folder, got {str(folder)!r}, {described(folder)}")
    return sorted(entry.path for entry in os.scandir(b) if entry.is_dir())


def _model_name(folder: Path) -> str | None:
    match = FOLDER_NAME.fullmatch(folder.name)
    return None if match is None else match["model_name"]


def _weights_of(model: Any) -> list[Any]:
    if not is_model(model):
        raise InvalidTypeError(
            f"model: expected a tf.keras.Model, or an object with get_weights and set_weights, "
            f"got {type(model).__name__}"
        )
    return state_of(model).flat()


def _describe(model: Any, weights: Sequence[Any]) -> list[array_files.Described]:
    return variables.describe(weights, f"{getattr(model, 'name', '')}/")


def _write(
    model: Any,
    weights: Sequence[Any],
    epoch: int,
    statistics: Statistics,
    about_agent: dict[str, Any] | None,
    folder: Path,
    number: int,
) -> None:
    described, framework = _describe(model, weights), framework_name(model)
    about = [{"name": name, "shape": list(part.mean.shape)} for name, part in statistics.items()]
    files = _write_tensors if _weights_file(framework) == TENSORS else _write_hdf5
    files(folder, weights, described, statistics)
    meta = {
        "format": FORMAT,
        "framework": framework,
        "epoch": epoch,
        "number": number,
        "keras": _write_keras(model, folder) if framework in variables.OF_KERAS else f"not written: {framework}",
        "weights": described,
        "statistics": about,
        "agent": about_agent,
    }
    if (folder / KERAS).exists():
        meta["keras_file"] = description.measured(folder / KERAS)
    meta["files"] = {
        name: description.measured(folder / name) for name in (WEIGHTS, TENSORS, STATISTICS) if (folder / name).exists()
    }
    (folder / META).write_text(json.dumps(meta | {"crc32": _crc32(meta)}, indent=2) + "\n")


def _weights_file(framework: str) -> str:
    return TENSORS if variables.suffix_of(framework) == tensor_files.SUFFIX else WEIGHTS


def _write_hdf5(folder: Path, weights: Sequence[Any], described: Sequence[Any], statistics: Statistics) -> None:
    with array_files.new_file(folder / WEIGHTS) as file:
        array_files.write_into(file, weights, described)
        for index, (name, moments) in enumerate(statistics.items()):
            for part in MOMENTS:
                file.create_dataset(f"statistics/{index}/{part}", data=np.asarray(getattr(moments, part), FLOAT64))
            file[f"statistics/{index}"].attrs["name"] = name


def _write_tensors(folder: Path, weights: Sequence[Any], described: Sequence[Any], statistics: Statistics) -> None:
    tensor_files.write(folder / TENSORS, weights, described)
    if statistics:
        about = [{"name": name, "shape": list(part.mean.shape)} for name, part in statistics.items()]
        arrays = [np.asarray(getattr(moments, part), FLOAT64) for moments in statistics.values() for part in MOMENTS]
        tensor_files.write(folder / STATISTICS, arrays, _moments_of(about))


def _moments_of(described: Sequence[Any]) -> list[array_files.Described]:
    """The arrays of statistics, as the file of safetensors has them."""
    return [
        {"name": f"{at}.{part}", "shape": [] if part == "count" else about["shape"], "dtype": "float64"}
        for at, about in enumerate(described)
        for part in MOMENTS
    ]


def _write_keras(model: Any, folder: Path) -> str:
    """Saves the model in Keras' own format, if Keras can; returns the file's name, or the reason why there is none."""
    try:
        with warnings.catch_warnings():
            # The weights are saved in any case. Keras' warnings concern only this file.
            warnings.simplefilter("ignore")
            model.save(folder / KERAS)
    except Exception as error:
        # A user's `get_config` can raise any class of error. meta.json holds the reason.
        (folder / KERAS).unlink(missing_ok=True)
        log.debug("no %s for %s: %s", KERAS, type(model).__name__, error)
        return f"not written: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return KERAS


def _read_meta(folder: Path) -> dict[str, Any]:
    """The description of a saved model whose weights have the length and the CRC-32 that it names."""
    with reading(folder / META, WHAT):
        meta = read_json(folder / META, WHAT)
        if meta["format"] != FORMAT:
            raise InvalidFileError(f"{folder / META}: expected format {FORMAT!r}, got {meta['format']!r}")
        if meta.pop("crc32", None) != _crc32(meta):
            raise InvalidFileError(f"{folder / META}: expected {WHAT} as it was saved, got one that was changed since")
        file = _weights_file(meta.get("framework", "tensorflow"))
        description.check_files(folder, {file: meta["files"][file], **meta["files"]})
        array_files.check_described([*meta["weights"], *({"dtype": "float64"} | part for part in meta["statistics"])])
        checked_integer("epoch", meta["epoch"], 0)
    return meta


def _crc32(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())
