"""Models and optimizers as named arrays: what they hold, in one HDF5 file, compared with others, and set again.

A file has the arrays in their order as data sets `<group>/0`, `<group>/1`, ... That order is not Keras' own layout,
because that one depends on how a model keeps its layers. What is said of each array is `name`, `shape` and `dtype`.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.errors import InvalidTypeError, InvalidValueError, ModelError

Described = dict[str, Any]
"""`name`, `shape` and `dtype` of an array, as JSON has them."""


def describe(variables: Sequence[Any], prefix: str = "") -> list[Described]:
    """What there is to say of Keras variables or arrays; those without a name are called by their number."""
    return [
        {
            "name": str(getattr(variable, "path", getattr(variable, "name", at))).removeprefix(prefix),
            "shape": [int(n) for n in variable.shape],
            "dtype": str(variable.dtype),
        }
        for at, variable in enumerate(variables)
    ]


def write(path: Path, variables: Sequence[Any], described: Sequence[Described], group: str = "weights") -> None:
    """Writes the arrays to a new file; it is not yet on disk when this returns."""
    with new_file(path) as file:
        put_into(file, variables, described, group)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Any]:
    """A new HDF5 file as `h5py` has it, which is put together in memory and written at the end.

    HDF5 itself ends the process (a segmentation fault) when the disk is found full as it closes a file.
    """
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        yield file
    with memory.getbuffer() as image:
        path.write_bytes(image)


def put_into(file: Any, variables: Sequence[Any], described: Sequence[Described], group: str = "weights") -> None:
    """Puts the arrays into an open file."""
    for at, (variable, about) in enumerate(zip(variables, described, strict=True)):
        saved = file.create_dataset(f"{group}/{at}", data=_storable(np.asarray(variable)))
        saved.attrs.update({"name": about["name"], "dtype": about["dtype"]})


def read(path: Path, described: Sequence[Described], group: str = "weights") -> list[NDArray[Any]]:
    """The arrays of a file that are to be as described.

    Raises:
        InvalidValueError: the file is damaged, has fewer arrays, or arrays of other shapes.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = [np.asarray(file[f"{group}/{at}"]) for at in range(len(described))]
    except (OSError, KeyError) as error:
        raise InvalidValueError(f"{path}: expected {len(described)} {group}, but {error!r}") from error
    for about, array in zip(described, arrays, strict=True):
        if list(array.shape) != about["shape"]:
            raise InvalidValueError(
                f"{path}: expected shape {about['shape']} at {about['name']}, got {list(array.shape)}"
            )
    return arrays


def check_same(where: object, saved: Sequence[Described], own: Sequence[Described], what: str = "model") -> None:
    """Raises ModelError where saved weights are not those of this model, by names without counters and shapes."""
    if [_identity(weight) for weight in saved] == [_identity(weight) for weight in own]:
        return
    if not own:
        raise ModelError(f"{what}: expected it to be built before weights are loaded from {where}, it has none yet")
    raise ModelError(
        f"{where}: expected weights of this {what} ({_listed(own)}), got {_listed(saved)}; "
        f"the first difference: {_difference(saved, own)}"
    )


class ModelArrays:
    """A model's weights, and where it is Keras' the states of its random layers, as arrays to be saved and set again.

    Args:
        name: what the model is called in messages, and its file.
        model: Keras', or one with `get_weights` and `set_weights`.
    """

    def __init__(self, name: str, model: Any) -> None:
        if not hasattr(model, "get_weights") or not hasattr(model, "set_weights"):
            raise InvalidTypeError(f"{name}: expected an agent or a model, got {type(model).__name__}")
        self.name, self._model = name, model

    def about(self) -> dict[str, Any]:
        """What has to be the same in a model that takes the arrays over."""
        return {"weights": describe(self._variables(), f"{getattr(self._model, 'name', '')}/")}

    def write(self, path: Path) -> None:
        """Writes the arrays to a new file."""
        write(path, self._variables(), self.about()["weights"])

    def read(self, path: Path, saved: dict[str, Any]) -> list[NDArray[Any]]:
        """The arrays of a file, if they are those of such a model; raises ModelError or InvalidValueError if not."""
        check_same(path, saved["weights"], self.about()["weights"], self.name)
        return read(path, saved["weights"])

    def set(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Makes these the model's."""
        variables = self._variables()
        if not all(hasattr(variable, "assign") for variable in variables):
            self._model.set_weights(list(arrays))
            return
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def _variables(self) -> list[Any]:
        weights = getattr(self._model, "weights", None)
        if weights is None:
            return list(self._model.get_weights())
        known = {id(weight) for weight in weights}
        others = [variable for variable in getattr(self._model, "variables", ()) if id(variable) not in known]
        return [*weights, *(variable for variable in others if "seed_generator_state" in variable.path)]


class OptimizerArrays:
    """A Keras optimizer's variables (iterations, moments, learning rate) as arrays to be saved and set again.

    Args:
        name: what the optimizer is called in messages, and its file.
        optimizer: any of Keras 3.
        trainable: what one that is not built yet is built for when it takes over the arrays of one that was.
    """

    def __init__(self, name: str, optimizer: Any, trainable: Sequence[Any]) -> None:
        if not (hasattr(optimizer, "apply") and hasattr(optimizer, "build") and hasattr(optimizer, "variables")):
            raise InvalidTypeError(f"{name}: expected a keras optimizer, got {type(optimizer).__name__}")
        self.name, self._optimizer, self._trainable = name, optimizer, trainable

    def about(self) -> dict[str, Any]:
        """What has to be the same in an optimizer that takes the arrays over."""
        # Keras keeps what an optimizer was built for to itself; one that scales losses leaves it to the one inside.
        inner = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        return {
            "class": type(self._optimizer).__name__,
            "built": bool(self._optimizer.built),
            "built_for": _shapes(describe(getattr(inner, "_trainable_variables", ()))),
            "weights": describe(self._optimizer.variables),
        }

    def write(self, path: Path) -> None:
        """Writes the arrays to a new file."""
        write(path, self._optimizer.variables, self.about()["weights"])

    def read(self, path: Path, saved: dict[str, Any]) -> list[NDArray[Any]]:
        """The arrays of a file, if they are those of such an optimizer; builds one that its first use would build.

        Raises:
            ModelError: they are another optimizer's.
            InvalidValueError: the file is damaged.
        """
        own = self.about()
        if saved["class"] != own["class"]:
            raise ModelError(f"{path}: expected the variables of {own['class']}, got those of {saved['class']}")
        if saved["built"] and not own["built"]:
            if saved["built_for"] != _shapes(describe(self._trainable)):
                raise ModelError(
                    f"{self.name}: expected it to be built, {self.name}.build(variables), before it is loaded from "
                    f"{path}: the saved one is not for the agent's weights, but for {saved['built_for']}"
                )
            self._optimizer.build(list(self._trainable))
        taking = describe(self._taking(path, saved))
        if _shapes(saved["weights"]) != _shapes(taking):
            raise ModelError(
                f"{path}: expected variables of this {self.name} ({_listed(taking)}), got {_listed(saved['weights'])}"
            )
        return read(path, saved["weights"])

    def set(self, arrays: Sequence[NDArray[Any]], saved: dict[str, Any]) -> None:
        """Makes these the optimizer's."""
        for variable, array in zip(self._taking(self.name, saved), arrays, strict=True):
            variable.assign(array)

    def _taking(self, where: object, saved: dict[str, Any]) -> list[Any]:
        """The variables that arrays are for: all, or those that one has from the beginning if the other had no more."""
        variables = list(self._optimizer.variables)
        if saved["built"] or not self._optimizer.built:
            return variables
        if iterations := int(np.asarray(self._optimizer.iterations)):
            raise ModelError(
                f"{where}: expected an optimizer that was not used yet, as the saved one, got one after "
                f"{iterations:,} iterations"
            )
        first = {_identity(weight)[0] for weight in saved["weights"]}
        return [v for v, weight in zip(variables, describe(variables), strict=True) if _identity(weight)[0] in first]


def _difference(saved: Sequence[Described], own: Sequence[Described]) -> str:
    pairs = zip_longest(map(_identity, saved), map(_identity, own), fillvalue=("none", ()))
    got, expected = next((a, b) for a, b in pairs if a != b)
    return f"expected {expected[0]} {list(expected[1])}, got {got[0]} {list(got[1])}"


def _shapes(weights: Sequence[Described]) -> list[list[int]]:
    return [weight["shape"] for weight in weights]


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    """The array in a dtype that HDF5 knows; bfloat16 and its like (no builtin dtypes) fit into float32 exactly."""
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float32)


def _identity(weight: Described) -> tuple[str, tuple[int, ...]]:
    """Name without Keras' counters (`dense_3` and `dense` are the same), and shape."""
    return re.sub(r"_\d+(?=/|$)", "", weight["name"]), tuple(weight["shape"])


def _listed(weights: Sequence[Described]) -> str:
    shown = [f"{weight['name']} {weight['shape']}" for weight in weights[:8]]
    more = [f"... {len(weights) - 8} more"] if len(weights) > 8 else []
    return ", ".join(shown + more) or "none"
