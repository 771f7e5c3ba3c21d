"""PyTorch: a `torch.nn.Module`, as class or instance.

Agents and runners call modules in evaluation mode, so that neither dropout nor statistics of layers change, and give
each submodule its mode back. Runners have copies on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import cloudpickle
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from really.agents.frameworks.eager import EagerNetwork, Library
from really.agents.frameworks.protocol import Framework, Interface
from really.agents.verification import disagreement, random_leaves, seconds_per_call, tried
from really.data.spaces import nest
from really.errors import ModelError, summary
from really.policies.inference import Build, Exported
from really.policies.model_inputs import model_leaves
from really.policies.outputs import OutputForms
from really.policies.states import state_of

log = logging.getLogger("really")


@contextlib.contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Evaluation mode for a while: each submodule gets the mode back that it had."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


class TorchLibrary:
    """Tensors of PyTorch, on the device of the module that takes them."""

    xp: Any = torch

    def array(self, model: Any, value: Any, dtype: np.dtype[Any] | None) -> Any:
        """A tensor of this dtype on the module's device; None keeps the dtype."""
        kind = None if dtype is None else _torch_dtype(dtype)
        given = value if isinstance(value, torch.Tensor) else _writable(value)
        return torch.as_tensor(given, dtype=kind, device=_device_of(model))

    def numpy(self, value: Any) -> NDArray[Any]:
        """A tensor in NumPy, without its gradient; half precision as float32."""
        if not isinstance(value, torch.Tensor):
            return np.asarray(value)
        value = value.detach().cpu()
        return np.asarray(value.float() if value.dtype in (torch.bfloat16, torch.float16) else value)

    def is_concrete(self, value: Any) -> bool:
        """True: PyTorch traces nothing here."""
        return True

    def forward(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The module's outputs in evaluation mode."""
        with evaluating(model):
            return dict(model(observation))

    def bound(self, model: Any, parameters: Any) -> Any:
        """The module with other parameters."""
        return _Bound(model, parameters)

    def infer(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The module's outputs, NumPy, without gradients."""
        device = _device_of(model)
        with torch.no_grad(), evaluating(model):
            outputs = model(_mapped(lambda leaf: torch.from_numpy(_writable(leaf)).to(device), observation))
        arrays: Mapping[str, Any] = self.arrays(outputs)
        return arrays

    def arrays(self, outputs: Any) -> Any:
        """Outputs in NumPy; what is no dict as it is."""
        if not isinstance(outputs, Mapping):
            return outputs
        return {name: self.numpy(value) for name, value in outputs.items()}


class _Bound(torch.nn.Module):  # type: ignore[misc]
    """A module with other parameters, for `torch.func`."""

    def __init__(self, module: Any, parameters: Any) -> None:
        super().__init__()
        self._module, self._given = module, parameters

    def forward(self, observation: Any) -> Any:
        return torch.func.functional_call(self._module, self._given, (observation,))


class Acting:
    """A runner's own module, in evaluation mode on the CPU, as a function of observations in NumPy."""

    def __init__(self, module: Any, library: TorchLibrary) -> None:
        self._module, self._arrays = module.eval(), library.arrays

    def __call__(self, observation: Any) -> Mapping[str, Any]:
        """The outputs, NumPy."""
        with torch.inference_mode():
            if isinstance(observation, np.ndarray):
                outputs = self._module(torch.from_numpy(observation))
            else:
                outputs = self._module(_mapped(torch.from_numpy, observation))
        if type(outputs) is dict:
            with contextlib.suppress(TypeError, AttributeError):
                return {name: value.numpy() for name, value in outputs.items()}
        arrays: Mapping[str, Any] = self._arrays(outputs)
        return arrays


class Torch:
    """The adapter of PyTorch."""

    name = "torch"

    def __init__(self) -> None:
        self._library = TorchLibrary()

    def building(self) -> AbstractContextManager[None]:
        """Nothing is special while a module is called first."""
        return contextlib.nullcontext()

    def call(self, model: Any, observation: Any) -> Any:
        """What the module returns for an observation, as arrays."""
        return self._library.infer(model, observation)

    def first_call(self, model: Any, observation: Any) -> Any:
        """As `call`; lazy modules get their parameters. Weights of 64 bits are named if the call fails."""
        try:
            return self.call(model, observation)
        except RuntimeError as error:
            kinds = {str(each.dtype).removeprefix("torch.") for each in model.parameters()}
            if odd := sorted(kinds - {"float32"}):
                raise ModelError(
                    f"{error}; observations are float32 and its weights are {', '.join(odd)}: call .float() on it, or "
                    f"cast the observation in forward()"
                ) from error
            raise

    def acting(self, model: Any) -> Callable[[Any], Mapping[str, Any]]:
        """The module in evaluation mode on the CPU."""
        return Acting(model.cpu(), self._library)

    def prepare_runner(self) -> None:
        """One thread: each runner has one CPU."""
        torch.set_num_threads(1)
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(1)

    def copy(self, model: Any) -> Any:
        """A copy of the module with tensors of its own."""
        try:
            return copy.deepcopy(model)
        except Exception as error:
            raise _not_copied(model, error) from error

    def pickled(self, model: Any) -> bytes:
        """The module as a pickle with its tensors on the CPU."""
        try:
            on_cpu = all(each.tensor.device.type == "cpu" for each in state_of(model).variables)
            return bytes(cloudpickle.dumps(model if on_cpu else copy.deepcopy(model).cpu()))
        except Exception as error:
            raise _not_copied(model, error) from error

    def network(self, model: Any, interface: Interface) -> EagerNetwork:
        """What an agent computes from the module."""
        library: Library = self._library
        return EagerNetwork(model, interface, library)

    def export(
        self,
        model: Any,
        observation_space: spaces.Space[Any],
        batch_size: int,
        build: Build,
        repeatable: bool = False,
        forms: OutputForms | None = None,
        names: Sequence[str] = (),
    ) -> Exported:
        """The module itself, of which every runner has a copy on the CPU with one thread.

        Raises:
            ModelError: runners cannot have a copy, or one on the CPU gives other outputs.
        """
        state, leaves = state_of(model), model_leaves(observation_space)
        shapes = tuple(each.shape for each in state.variables)
        exported = Exported("torch", b"", leaves, tuple(sorted(names)), shapes, forms=forms)
        exported = replace(exported, build=build, observation_space=observation_space)
        example = random_leaves(observation_space, batch_size, np.random.default_rng(0))
        one, other = (self._outputs(exported, model, example, batch_size) for _ in range(2))
        report = ""
        if any(disagreement(name, other[name], one[name]) for name in one):
            report = ", draws random numbers of its own"
            log.warning(
                "model: expected equal outputs for equal observations, got others in each call: the module draws "
                "random numbers of its own while it acts. seed= repeats the environments and the random numbers of "
                "actions, but not those."
            )
        expected = "a module that acts on the CPU in the runners"
        cure = "; if forward() names a device, take that of its input instead"
        forward, got = tried(exported, batch_size, state, example, expected, cure)
        for name in () if report else one:
            if reason := disagreement(name, got[name], one[name]):
                raise ModelError(f"model: expected a copy for runners that agrees with the module, but {reason}")
        seconds = seconds_per_call(forward, example) * 1e6
        told = f"{seconds:.1f} µs a call with {batch_size} states: the module itself on one thread{report}"
        return replace(exported, report={"torch": told})

    def _outputs(
        self, exported: Exported, model: Any, leaves: Sequence[NDArray[Any]], rows: int
    ) -> dict[str, NDArray[Any]]:
        """The module's own outputs in the form of runners."""
        forms, space, names = exported.forms, exported.observation_space, exported.output_names
        leaves = [np.asarray(leaf, spec.dtype) for leaf, spec in zip(leaves, exported.leaves.values(), strict=True)]
        if forms is None:
            return dict(self._library.infer(model, nest(space, leaves)))
        if not forms.one_by_one:
            return forms.arrays(self._library.infer(model, nest(space, leaves)), rows, names)
        parts = [[leaf[at : at + 1] for leaf in leaves] for at in range(rows)]
        found = [forms.arrays(self._library.infer(model, nest(space, part)), 1, names) for part in parts]
        return {name: np.concatenate([row[name] for row in found]) for name in names}


def _not_copied(model: Any, error: Exception) -> ModelError:
    return ModelError(
        f"model: expected a module that can be copied and sent to another process, got an instance of "
        f"{type(model).__name__}: {summary(error)}; give its class, or a function that makes it, with its arguments as "
        f"model_kwargs: every process then makes its own"
    )


def _device_of(module: Any) -> Any:
    """The device of the first parameter or buffer; the CPU if there is none."""
    for tensor in module.parameters():
        return tensor.device
    return next((tensor.device for tensor in module.buffers()), torch.device("cpu"))


def _mapped(function: Callable[[Any], Any], observation: Any) -> Any:
    """An observation of the same structure, with the function applied to each leaf."""
    if isinstance(observation, Mapping):
        return {name: _mapped(function, part) for name, part in observation.items()}
    if isinstance(observation, tuple | list):
        return type(observation)(_mapped(function, part) for part in observation)
    return function(observation)


def _writable(value: Any) -> NDArray[Any]:
    """An array that PyTorch takes without a warning: writable, with strides that are not negative."""
    array = np.asarray(value)
    if array.flags.writeable and all(stride >= 0 for stride in array.strides):
        return array
    return array.copy()


def _torch_dtype(dtype: np.dtype[Any]) -> Any:
    return torch.from_numpy(np.empty(0, dtype)).dtype


FRAMEWORK: Framework = Torch()
