"""The variables of models and optimizers as arrays in an HDF5 file: written, read, compared and set again.

`array_files.py` has the files. Keras' own layout is not used, because it depends on how a model stores its layers.
`name`, `shape` and `dtype` describe each array.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.keras_versions import as_optimizer, framework_of_keras
from really.checkpoints import array_files, tensor_files
from really.checkpoints.array_files import Described
from really.errors import InvalidTypeError, ModelError
from really.policies.states import framework_name, is_model, state_of

OF_KERAS = frozenset(("tensorflow", "keras_torch", "keras_jax"))
"""Frameworks whose weights are those of Keras, in the same order and files on each backend."""


def describe(variables: Sequence[Any], prefix: str = "") -> list[Described]:
    """Describes Keras variables or arrays. One without a name has its number as its name."""
    return [
        {
            "name": str(getattr(variable, "path", getattr(variable, "name", at))).removeprefix(prefix),
            "shape": [int(n) for n in variable.shape],
            "dtype": str(getattr(variable.dtype, "name", variable.dtype)),
        }
        for at, variable in enumerate(variables)
    ]


def write(path: Path, variables: Sequence[Any], described: Sequence[Described], group: str = "weights") -> None:
    """Writes the arrays to a new file, in the format of its suffix, without a sync to disk."""
    if path.suffix == tensor_files.SUFFIX:
        tensor_files.write(path, variables, described)
        return
    with array_files.new_file(path) as file:
        array_files.write_into(file, variables, described, group)


def read(path: Path, described: Sequence[Described]) -> list[NDArray[Any]]:
    """Reads the described arrays of a file in the format of its suffix; raises InvalidFileError if it has others."""
    return (
        tensor_files.read(path, described) if path.suffix == tensor_files.SUFFIX else array_files.read(path, described)
    )


def check_framework(where: object, saved: str, own: str, what: str = "model") -> None:
    """Raises ModelError unless saved weights are of the framework of this model; Keras has the same on all backends."""
    if saved != own and not {saved, own} <= OF_KERAS:
        article = "an" if what[0] in "aeiou" else "a"
        raise ModelError(f"{where}: expected {article} {what} of {own}, as this one, got one of {saved}")


def suffix_of(framework: str) -> str:
    """The suffix of files with arrays of a framework: safetensors where that is the custom, otherwise HDF5."""
    return tensor_files.SUFFIX if framework in ("torch", "jax") else array_files.SUFFIX


def check_same(where: object, saved: Sequence[Described], own: Sequence[Described], what: str = "model") -> None:
    """Raises ModelError unless saved weights have the names (without counters) and the shapes of this model's.

    Complex weights are none of a real model: a cast would drop a part of them.
    """
    if [_identity(weight) for weight in saved] == [_identity(weight) for weight in own]:
        for weight, other in zip(saved, own, strict=True):
            if weight["dtype"] != other["dtype"] and "complex" in f"{weight['dtype']} {other['dtype']}":
                raise ModelError(f"{where}: {other['name']}: expected {other['dtype']}, got {weight['dtype']}")
        return
    if not own:
        raise ModelError(
            f"{what}: expected a built model before weights are loaded from {where}, got one without weights"
        )
    raise ModelError(
        f"{where}: expected weights of this {what} ({_listed(own)}), got {_listed(saved)}; "
        f"the first difference: {_difference(saved, own)}"
    )


class ModelArrays:
    """The weights of a model, and of a Keras model also the states of its random layers, to be saved and set again.

    Args:
        name: name of the model in messages, and of its file.
        model: a Keras model, or one with `get_weights` and `set_weights`.
    """

    def __init__(self, name: str, model: Any) -> None:
        if not is_model(model):
            raise InvalidTypeError(
                f"{name}: expected an agent or a model, or parameters of JAX as really.checkpoints.Pytree(parameters), "
                f"got {type(model).__name__}"
            )
        self.name, self._model = name, model
        self.framework = framework_name(model)
        self.suffix = suffix_of(self.framework)

    def about(self) -> dict[str, Any]:
        """The description that another model must match to load these arrays."""
        return {
            "framework": self.framework,
            "weights": describe(self._variables(), f"{getattr(self._model, 'name', '')}/"),
        }

    def write(self, path: Path) -> None:
        """Writes the arrays to a new file."""
        write(path, self._variables(), self.about()["weights"])

    def read(self, path: Path, saved: dict[str, Any]) -> list[NDArray[Any]]:
        """Reads the arrays of a file; raises ModelError or InvalidFileError if they do not fit this model."""
        check_framework(path, saved.get("framework", self.framework), self.framework, self.name)
        check_same(path, saved["weights"], self.about()["weights"], self.name)
        return read(path, saved["weights"])

    def copies(self) -> list[NDArray[Any]]:
        """Copies of the arrays as they are, which `set_all` takes."""
        return [np.array(np.asarray(variable)) for variable in self._variables()]

    def set(self, arrays: Sequence[NDArray[Any]], saved: dict[str, Any]) -> None:
        """Sets the arrays of the model."""
        self.set_all(arrays)

    def set_all(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Sets the arrays of the model."""
        state, generators = state_of(self._model), self._generators()
        state.set_flat(arrays[: len(arrays) - len(generators)])
        for generator, array in zip(generators, arrays[len(arrays) - len(generators) :], strict=True):
            generator.assign(array)

    def _variables(self) -> list[Any]:
        return [*state_of(self._model).flat(), *self._generators()]

    def _generators(self) -> list[Any]:
        """The states of random layers."""
        known = {id(weight) for weight in getattr(self._model, "weights", ())}
        others = [variable for variable in getattr(self._model, "variables", ()) if id(variable) not in known]
        return [variable for variable in others if "seed_generator_state" in getattr(variable, "path", "")]


class OptimizerArrays:
    """The variables of a Keras optimizer (iterations, moments, learning rate), to be saved and set again.

    Args:
        name: name of the optimizer in messages, and of its file.
        optimizer: an optimizer of Keras 3, or one of Keras 2.
        trainable: variables for which `read` builds the optimizer, if the saved one was built and this one is not.
    """

    suffix = array_files.SUFFIX

    def __init__(self, name: str, optimizer: Any, trainable: Sequence[Any]) -> None:
        self.framework = framework_of_keras(optimizer) or "tensorflow"
        optimizer = as_optimizer(optimizer)
        if not (hasattr(optimizer, "apply") and hasattr(optimizer, "build") and hasattr(optimizer, "variables")):
            raise InvalidTypeError(
                f"{name}: expected an optimizer of Keras or PyTorch, or one of flax nnx, or the state of one of optax "
                f"as really.checkpoints.Pytree(state), got {type(optimizer).__name__}"
            )
        self.name, self._optimizer, self._trainable = name, optimizer, trainable

    def about(self) -> dict[str, Any]:
        """The description that another optimizer must match to load these arrays."""
        # Keras has no public attribute for these variables, which a loss-scaling optimizer leaves to its inner one.
        inner = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        # Keras 2 does not say for which variables; the shapes of its own variables tell.
        legacy = self._trainable if hasattr(self._optimizer, "wrapped") and self._optimizer.built else ()
        return {
            "framework": self.framework,
            "class": type(getattr(self._optimizer, "wrapped", self._optimizer)).__name__,
            "built": bool(self._optimizer.built),
            "built_for": _shapes(describe(getattr(inner, "_trainable_variables", legacy))),
            "weights": describe(self._optimizer.variables),
        }

    def write(self, path: Path) -> None:
        """Writes the arrays to a new file."""
        write(path, self._optimizer.variables, self.about()["weights"])

    def read(self, path: Path, saved: dict[str, Any]) -> list[NDArray[Any]]:
        """Reads the arrays of a file. Builds this optimizer first, if the saved one was built for the same variables.

        Raises:
            ModelError: the arrays are those of another optimizer.
            InvalidFileError: the file is damaged.
        """
        own = self.about()
        check_framework(path, saved.get("framework", "tensorflow"), self.framework, self.name)
        if saved["class"] != own["class"]:
            raise ModelError(f"{path}: expected the variables of {own['class']}, got those of {saved['class']}")
        if saved["built"] and not own["built"]:
            if saved["built_for"] != _shapes(describe(self._trainable)):
                raise ModelError(
                    f"{self.name}: expected an optimizer built with {self.name}.build(variables) before loading from "
                    f"{path}: the saved one is not for the agent's weights, but for {saved['built_for']}"
                )
            self._optimizer.build(list(self._trainable))
        needed = describe(self._variables_for(path, saved))
        if _shapes(saved["weights"]) != _shapes(needed):
            raise ModelError(
                f"{path}: expected variables of this {self.name} ({_listed(needed)}), got {_listed(saved['weights'])}"
            )
        return array_files.read(path, saved["weights"])

    def copies(self) -> list[NDArray[Any]]:
        """Copies of the variables as they are, which `set_all` takes."""
        return [np.array(np.asarray(variable)) for variable in self._optimizer.variables]

    def set_all(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Sets all variables, in their own order."""
        for variable, array in zip(self._optimizer.variables, arrays, strict=True):
            variable.assign(array)

    def set(self, arrays: Sequence[NDArray[Any]], saved: dict[str, Any]) -> None:
        """Sets the variables of the optimizer."""
        for variable, array in zip(self._variables_for(self.name, saved), arrays, strict=True):
            variable.assign(array)

    def _variables_for(self, where: object, saved: dict[str, Any]) -> list[Any]:
        """The variables to set: all, or only those of an unbuilt optimizer if the saved one was not built."""
        variables = list(self._optimizer.variables)
        if saved["built"] or not self._optimizer.built:
            return variables
        if iterations := int(np.asarray(self._optimizer.iterations)):
            raise ModelError(
                f"{where}: expected an unused optimizer, as the saved one is, got one after {iterations:,} iterations"
            )
        names = {_identity(weight)[0] for weight in saved["weights"]}
        return [v for v, weight in zip(variables, describe(variables), strict=True) if _identity(weight)[0] in names]


def _difference(saved: Sequence[Described], own: Sequence[Described]) -> str:
    pairs = zip_longest(map(_identity, saved), map(_identity, own), fillvalue=("none", ()))
    got, expected = next((a, b) for a, b in pairs if a != b)
    return f"expected {expected[0]} {list(expected[1])}, got {got[0]} {list(got[1])}"


def _shapes(weights: Sequence[Described]) -> list[list[int]]:
    return [weight["shape"] for weight in weights]


def _identity(weight: Described) -> tuple[str, tuple[int, ...]]:
    """Name without Keras' counters (`dense_3` becomes `dense`), and shape."""
    return re.sub(r"_\d+(?=/|$)", "", weight["name"]), tuple(weight["shape"])


def _listed(weights: Sequence[Described]) -> str:
    shown = [f"{weight['name']} {weight['shape']}" for weight in weights[:8]]
    more = [f"... {len(weights) - 8} more"] if len(weights) > 8 else []
    return ", ".join(shown + more) or "none"
