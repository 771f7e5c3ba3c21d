"""Keras 2 beside Keras 3, and the backend of Keras 3: no other module asks for a version or a backend.

With TF_USE_LEGACY_KERAS=1, the `tf.keras` of a script is the package tf_keras. Its layers and optimizers share no class
with those of Keras 3, and its variables are those of TensorFlow. Layers and optimizers of Keras 3 have a base class of
the backend with which Keras was imported.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

from really.errors import ModelError

PACKAGES = ("keras", "tf_keras")
LEGACY = "tf_keras"
# Models of Keras 2 whose layers are a graph, which is known by the identity of its tensors.
_GRAPHS = ("Functional", "Sequential")
VARIABLE = "KERAS_BACKEND"
# Base classes of layers and optimizers in Keras 3 -> the adapter of models with this backend.
_BASES = {"TFLayer": "tensorflow", "TorchLayer": "keras_torch", "JaxLayer": "keras_jax"}
_BASES |= {"TFOptimizer": "tensorflow", "TorchOptimizer": "keras_torch", "JaxOptimizer": "keras_jax"}
_BACKENDS = {"tensorflow": "tensorflow", "keras_torch": "torch", "keras_jax": "jax"}


def is_layer(obj: Any) -> bool:
    """Whether this is a layer or model of Keras 3 or of Keras 2."""
    return "Layer" in _names(obj, PACKAGES)


def framework_of_keras(obj: Any) -> str:
    """The framework of a layer, model or optimizer: `tensorflow`, also for Keras 2, `keras_torch` or `keras_jax`.

    It is empty for another object, and `keras` for a backend that cannot train.
    """
    cls: Any = type(obj)
    return _framework(cls)


@functools.lru_cache(4096)
def _framework(cls: Any) -> str:
    bases = [base for base in cls.__mro__ if base.__module__.split(".")[0] in PACKAGES]
    if any(base.__module__.split(".")[0] == LEGACY for base in bases):
        return "tensorflow"
    found = next((_BASES[base.__name__] for base in bases if base.__name__ in _BASES), None)
    return found or ("keras" if {base.__name__ for base in bases} & {"Layer", "BaseOptimizer"} else "")


def check_backend(model: Any) -> None:
    """Raises ModelError for a model of Keras 3 whose backend is not the one that Keras has, or is asked to have."""
    framework = framework_of_keras(model)
    keras: Any = sys.modules.get("keras")
    if not framework or keras is None or _names(model, (LEGACY,)):
        return
    backend, now = _BACKENDS.get(framework), keras.config.backend()
    if backend is None:
        raise ModelError(f"model: expected Keras with one of the backends {', '.join(_BACKENDS.values())}, got {now!r}")
    if backend != now:
        raise ModelError(
            f"model: expected one made with the backend that Keras has now, {now!r}, got one made with {backend!r}: "
            f"keras.config.set_backend changed it; import keras, define the model's class and make the model after "
            f"that, or set {VARIABLE} before the first import of keras instead"
        )
    if (asked := os.environ.get(VARIABLE, now)) != now:
        raise ModelError(
            f"model: expected {VARIABLE}={now}, with which Keras was imported, got {VARIABLE}={asked}: Keras reads it "
            f"once, when it is imported; set it before the first import of keras"
        )


def variables_of_runners() -> dict[str, str]:
    """Environment variables with which Keras is the same in other processes: the backend, and models on the CPU."""
    keras: Any = sys.modules.get("keras")
    backend = keras.config.backend() if hasattr(keras, "config") else os.environ.get(VARIABLE)
    return {} if backend is None else {VARIABLE: backend, "KERAS_TORCH_DEVICE": "cpu"}


def is_legacy_graph(obj: Any) -> bool:
    """Whether this is a built functional or sequential model of Keras 2, and of no class of the user."""
    cls = type(obj)
    return cls.__name__ in _GRAPHS and cls.__module__.split(".")[0] == LEGACY and bool(obj.built)


def parts_of_graph(model: Any) -> tuple[Any, ...]:
    """What `graph_of_parts` makes such a model from: class, configuration, the user's layer classes, weights."""
    classes = {type(part) for part in model.submodules if is_layer(part)}
    own = {cls.__name__: cls for cls in classes if cls.__module__.split(".")[0] != LEGACY}
    return type(model), model.get_config(), own, model.get_weights()


def graph_of_parts(cls: Any, config: dict[str, Any], classes: dict[str, type], weights: list[Any]) -> Any:
    """A new model of Keras 2 with these weights."""
    model = cls.from_config(config, custom_objects=classes)
    model.set_weights(weights)
    return model


def name_of(variable: Any) -> str:
    """The name of a variable: its path in Keras 3, or its name in Keras 2, which has the layer's name in it."""
    return str(getattr(variable, "path", None) or variable.name)


def as_optimizer(optimizer: Any) -> Any:
    """The optimizer with the methods of Keras 3: one of Keras 2 is wrapped, anything else is returned as it is."""
    is_legacy = "Optimizer" in _names(optimizer, (LEGACY,)) and hasattr(optimizer, "apply_gradients")
    return LegacyOptimizer(optimizer) if is_legacy else optimizer


class LegacyOptimizer:
    """An optimizer of Keras 2 with the methods of Keras 3.

    Attributes:
        wrapped: the optimizer of Keras 2.
    """

    def __init__(self, optimizer: Any) -> None:
        self.wrapped = optimizer

    @property
    def built(self) -> bool:
        """Whether it has variables for those that it trains."""
        return bool(vars(self.wrapped).get("_built"))

    @property
    def variables(self) -> list[Any]:
        """Its own variables: iterations, moments, and the learning rate unless that is a schedule."""
        rate = self.wrapped.learning_rate
        return [*self.wrapped.variables, *([rate] if hasattr(rate, "assign") else [])]

    @property
    def iterations(self) -> Any:
        """How many steps it has made."""
        return self.wrapped.iterations

    def build(self, variables: Sequence[Any]) -> None:
        """Makes its own variables."""
        self.wrapped.build(list(variables))

    def apply(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """Makes a step: changes the variables by their gradients."""
        self.wrapped.apply_gradients(zip(gradients, variables, strict=True))


def _names(obj: Any, packages: tuple[str, ...]) -> set[str]:
    """Names of the classes of these packages that an object is of."""
    return {base.__name__ for base in type(obj).__mro__ if base.__module__.split(".")[0] in packages}
