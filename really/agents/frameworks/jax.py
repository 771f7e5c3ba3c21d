"""JAX: a pure function with its parameters, `(apply, parameters)`, or a module of flax `nnx`.

Runners act with the compiled function on the CPU.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import cloudpickle
import jax
import numpy as np
from numpy.typing import NDArray

from really._utils.devices import jax_device
from really.agents.frameworks.eager import EagerNetwork, as_arrays
from really.agents.frameworks.exporting import Candidate, Trial, export_as_python
from really.agents.frameworks.jax_program import as_program
from really.agents.frameworks.protocol import ExportRequest, Framework, Interface
from really.errors import ModelError, summary
from really.policies.inference import Exported
from really.policies.jax_state import JaxModel, as_jax_model, check_names, own_arrays

NUM_THREADS = "NPROC"
"""The variable that says how many threads XLA has on the CPU."""


class JaxLibrary:
    """Arrays of JAX."""

    xp: Any = jax.numpy

    def array(self, model: Any, value: Any, dtype: np.dtype[Any] | None) -> Any:
        """An array of this dtype, or of 32 bits while JAX has no 64; None keeps the dtype."""
        value = value if isinstance(value, jax.Array) else np.asarray(value)
        kind = jax.dtypes.canonicalize_dtype(value.dtype if dtype is None else dtype)
        return jax.numpy.asarray(value, kind)

    def numpy(self, value: Any) -> NDArray[Any]:
        """An array in NumPy; half precision as float32."""
        array = np.asarray(value)
        is_half = array.dtype.isbuiltin != 1 or array.dtype == np.float16
        return array.astype(np.float32) if is_half else array

    def is_concrete(self, value: Any) -> bool:
        """Whether a value has numbers, and is none that JAX traces."""
        return not isinstance(value, jax.core.Tracer)

    def forward(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The model's outputs."""
        outputs: Mapping[str, Any] = model(observation)
        return outputs

    def bound(self, model: Any, parameters: Any) -> Any:
        """The function with other parameters."""
        if type(model) is JaxModel:
            check_names(model.parameters, parameters)
        return JaxModel(model.apply, parameters)

    def infer(self, model: Any, observation: Any) -> Any:
        """The model's outputs, NumPy; what is no dict as it is."""
        return as_arrays(self, model(observation))


def compiled(function: Callable[..., Any]) -> Any:
    """The function as a runner calls it: compiled by `jax.jit`, with the CPU's kernels that are fastest for few states.

    XLA leaves convolutions to YNNPACK, which needs up to half as much time again as the kernels of XLA itself.
    """
    return jax.jit(function, **_own_kernels())


@functools.cache
def _own_kernels() -> dict[str, Any]:
    """Arguments of `jax.jit` that leave YNNPACK out; none if this JAX or its XLA has no such option."""
    arguments: dict[str, Any] = {"compiler_options": {"xla_cpu_experimental_ynn_fusion_type": ""}}
    try:
        jax.jit(lambda: 0, **arguments)()
    except (TypeError, RuntimeError):
        return {}
    return arguments


class RunnerModel:
    """A runner's own model as a compiled function of observations in NumPy."""

    def __init__(self, model: JaxModel, library: JaxLibrary) -> None:
        self._model, self._library = model, library
        self._apply = compiled(model.apply)

    def __call__(self, observation: Any) -> Mapping[str, Any]:
        """The outputs, NumPy."""
        arrays: Mapping[str, Any] = as_arrays(self._library, self._apply(self._model.parameters, observation))
        return arrays


class Jax:
    """The adapter of JAX."""

    name = "jax"
    trial = Trial(name, "a function that jax.jit compiles on the CPU", "", "compiled")

    def __init__(self) -> None:
        self._library = JaxLibrary()

    def building(self) -> AbstractContextManager[None]:
        """Nothing is special while a function is called first."""
        return contextlib.nullcontext()

    def call(self, model: Any, observation: Any) -> Any:
        """What the model returns for an observation, as arrays."""
        return self._library.infer(model, observation)

    def first_call(self, model: Any, observation: Any) -> Any:
        """As `call`: the parameters are there already."""
        return self._library.infer(model, observation)

    def acting(self, model: Any) -> Callable[[Any], Mapping[str, Any]]:
        """The compiled function."""
        return RunnerModel(model, self._library)

    def prepare_runner(self) -> None:
        """The CPU with one thread, unless JAX has run in this process."""
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        jax.config.update("jax_platforms", "cpu")
        _start_with_one_thread()

    def settings(self) -> dict[str, Any]:
        """Whether arrays may have 64 bits."""
        return {"jax_enable_x64": bool(jax.config.jax_enable_x64)}

    def use(self, settings: Mapping[str, Any]) -> None:
        """Allows arrays of 64 bits, or not."""
        for name, value in settings.items():
            jax.config.update(name, value)

    def copy(self, model: Any) -> Any:
        """A copy of the model with arrays of its own."""
        if type(model) is JaxModel:
            return JaxModel(model.apply, own_arrays(model.parameters))
        return cloudpickle.loads(self.pickled(model))

    def placed(self, model: Any, device: Any) -> Any:
        """The model with its parameters on the device; a module of flax itself, whose arrays are replaced."""
        model.parameters = jax.device_put(model.parameters, jax_device(device))
        return model

    def beside(self, model: Any, other: Any) -> Any:
        """The model, with its parameters where those of another one were put; JAX chooses if nobody did."""
        leaves = jax.tree_util.tree_leaves(other.parameters)
        put = next((leaf for leaf in leaves if getattr(leaf, "committed", False)), None)
        return model if put is None else self.placed(model, put.sharding)

    def pickled(self, model: Any) -> bytes:
        """The model as a pickle."""
        try:
            return bytes(cloudpickle.dumps(model))
        except Exception as error:
            raise ModelError(
                f"model: expected a function and parameters that can be sent to another process, got {_name(model)}: "
                f"{summary(error)}; give a function without arguments that makes them, with its arguments as "
                f"model_kwargs: every process then makes its own"
            ) from error

    def network(self, model: Any, interface: Interface) -> EagerNetwork:
        """What an agent computes from the model."""
        return EagerNetwork(model, interface, self._library)

    def export(self, model: Any, request: ExportRequest) -> Exported:
        """The function, which every runner compiles for the CPU, or a program that NumPy computes if that is faster.

        Both may differ in the last bit. So runs with a seed, which are to repeat, have the program if there is one.

        Raises:
            ModelError: it cannot be compiled, or gives other outputs then.
        """
        infer = functools.partial(self._library.infer, request.called(model))
        return export_as_python(self.trial, model, request, infer, self.candidates(model, request))

    def candidates(self, model: Any, request: ExportRequest) -> dict[str, Candidate]:
        """Other forms of the model, by the kind of an `Exported`."""
        return {"numpy": functools.partial(as_program, model, request)}


def _start_with_one_thread() -> None:
    """Starts the CPU of JAX, unless it has started. The number of its threads is a variable of the environment."""
    before = os.environ.get(NUM_THREADS)
    os.environ[NUM_THREADS] = "1"
    try:
        jax.devices()
    finally:
        del os.environ[NUM_THREADS]
        if before is not None:
            os.environ[NUM_THREADS] = before


def _name(model: Any) -> str:
    """The name of the user's function, or of the class of a module of flax."""
    title: str = as_jax_model(model).title
    return title


FRAMEWORK: Framework = Jax()
