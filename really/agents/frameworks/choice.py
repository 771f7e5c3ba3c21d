"""Choice of the adapter for a model. A framework is imported only if a model is of it."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

from really._utils.keras_versions import check_backend
from really._utils.packages import needed
from really._utils.quiet import without_start_lines
from really.agents.frameworks.protocol import Framework
from really.policies.states import framework_name

TITLES = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}
TITLES |= {"keras_torch": "Keras on PyTorch", "keras_jax": "Keras on JAX"}


def framework_of(model: Any) -> Framework:
    """The adapter of the framework that a made model is of; plain Python callables have one, too.

    Raises:
        ModelError: the model is one of Keras, whose backend was changed since.
    """
    check_backend(model)
    return framework_named(framework_name(model))


def framework_named(name: str) -> Framework:
    """The adapter of a framework: the object `FRAMEWORK` of the module of this name."""
    with needed("SampleManager", f"{TITLES.get(name, name)} for its model", name.removeprefix("keras_")):
        quiet = without_start_lines() if name == "tensorflow" and name not in sys.modules else contextlib.nullcontext()
        with quiet:
            module: Any = importlib.import_module(f"really.agents.frameworks.{name}")
    framework: Framework = module.FRAMEWORK
    return framework
