"""Weights that do not fit a model because they are of another framework, or are a model themselves.

No framework is imported here: the classes of what was given tell where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from really.errors import ModelError

_LIBRARIES = {
    "torch": "PyTorch",
    "jax": "JAX",
    "jaxlib": "JAX",
    "flax": "JAX",
    "keras": "Keras",
    "tf_keras": "Keras",
    "tensorflow": "TensorFlow",
}
_OF_KERAS = "a list of arrays of a Keras model"
# What a model of each framework takes, and the libraries whose arrays it has itself.
_EXPECTED = {
    "torch": ("a state_dict of PyTorch or a list of arrays", {"PyTorch"}),
    "jax": ("a pytree of JAX or a list of arrays", {"JAX"}),
    "tensorflow": (_OF_KERAS, {"TensorFlow", "Keras"}),
    "keras_torch": (_OF_KERAS, {"PyTorch", "Keras"}),
    "keras_jax": (_OF_KERAS, {"JAX", "Keras"}),
}


def expected_weights(framework: str) -> str:
    """What a model of a framework takes as its weights, for messages."""
    expected, _ = _EXPECTED.get(framework, ("a list of arrays", set()))
    return f"{expected}, as the agent gives them"


def check_framework(framework: str, weights: Any) -> None:
    """Raises ModelError, naming both frameworks, if the weights are of another one or are a model; else returns.

    Args:
        framework: that of the model which is to have the weights; nothing is checked if it is none of the known ones.
        weights: what was given, and does not fit the model.
    """
    if framework in _EXPECTED:
        own = _EXPECTED[framework][1]
        if got := _model(weights) or _foreign(weights, own):
            raise ModelError(f"weights: expected {expected_weights(framework)}, got {got}")


def _model(given: Any) -> str:
    """Describes a model or an agent that was given instead of its weights; empty for anything else."""
    if isinstance(given, tuple) and len(given) == 2 and callable(given[0]):
        return "a pair of a function and its parameters, which is a model of JAX: give the weights alone"
    library, name = _library(given), type(given).__name__
    if hasattr(given, "get_weights"):
        return f"{name}, a model{f' of {library}' if library else ' or an agent'}: give its get_weights()"
    if library == "JAX" and any(base.__module__ == "flax.nnx.module" for base in type(given).__mro__):
        return f"{name}, a module of flax: give nnx.state(module)"
    if library == "PyTorch" and hasattr(given, "state_dict"):
        return f"{name}, a module of PyTorch: give its state_dict()"
    return ""


def _foreign(weights: Any, own: set[str]) -> str:
    """Describes weights with arrays of a library that is none of `own`; empty if there are none."""
    library = next((each for each in map(_library, _leaves(weights)) if each and each not in own), "")
    if not library:
        return ""
    if library == "PyTorch":
        return "a state_dict of PyTorch" if isinstance(weights, Mapping) else "tensors of PyTorch"
    is_list = isinstance(weights, list) and not any(isinstance(each, Mapping | list | tuple) for each in weights)
    return f"a {'list' if is_list else 'pytree'} of {library} arrays"


def _leaves(weights: Any) -> Iterator[Any]:
    if isinstance(weights, Mapping | list | tuple):
        for each in weights.values() if isinstance(weights, Mapping) else weights:
            yield from _leaves(each)
    else:
        yield weights


def _library(value: Any) -> str:
    """Name of the library that the class of a value, or a base of it, comes from; empty for none of them."""
    roots = (base.__module__.partition(".")[0] for base in type(value).__mro__)
    return next((_LIBRARIES[root] for root in roots if root in _LIBRARIES), "")
