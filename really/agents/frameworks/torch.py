"""PyTorch: a `torch.nn.Module`, as class or instance.

Agents and runners call modules in evaluation mode, so that neither dropout nor statistics of layers change, and give
each submodule its mode back. Runners have copies on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from really._utils.devices import torch_device
from really.agents.frameworks.eager import EagerNetwork, Library, as_arrays
from really.agents.frameworks.exporting import Candidate, Trial, export_as_python, once
from really.agents.frameworks.protocol import ExportRequest, Framework, Interface
from really.agents.frameworks.torch_onnx import as_onnx, with_constants
from really.agents.frameworks.torch_program import as_program
from really.errors import ModelError, summary
from really.policies.inference import Exported
from really.policies.states import state_of
from really.policies.torch_state import check_names


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
        module = model.bound if isinstance(model, _Bound) else model
        check_names(module, parameters)
        return _Bound(module, parameters)

    def infer(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The module's outputs, NumPy, without gradients."""
        device = _device_of(model)
        with torch.no_grad(), evaluating(model):
            outputs = model(_mapped(lambda leaf: torch.from_numpy(_writable(leaf)).to(device), observation))
        arrays: Mapping[str, Any] = as_arrays(self, outputs)
        return arrays


class _Bound(torch.nn.Module):  # type: ignore[misc]
    """A module with other parameters, for `torch.func`.

    Attributes:
        bound: the module.
    """

    def __init__(self, module: Any, parameters: Any) -> None:
        super().__init__()
        self.bound, self._given = module, parameters

    def forward(self, observation: Any, **recurrent: Any) -> Any:
        return torch.func.functional_call(self.bound, self._given, (observation,), recurrent)


class RunnerModel:
    """A runner's own module, in evaluation mode on the CPU, as a function of observations in NumPy."""

    def __init__(self, module: Any, library: TorchLibrary) -> None:
        module.eval()
        self._module, self._library = module, library

    def __call__(self, observation: Any) -> Mapping[str, Any]:
        """The outputs, NumPy."""
        with torch.inference_mode():
            if isinstance(observation, np.ndarray):
                outputs = self._module(torch.from_numpy(observation))
            else:
                outputs = self._module(_mapped(torch.from_numpy, observation))
        if type(outputs) is dict:
            with contextlib.suppress(TypeError, AttributeError, RuntimeError):  # of a parameter, or half precision
                return {name: value.numpy() for name, value in outputs.items()}
        arrays: Mapping[str, Any] = as_arrays(self._library, outputs)
        return arrays


class Torch:
    """The adapter of PyTorch."""

    name = "torch"
    trial = Trial(
        name,
        "a module that acts on the CPU in the runners",
        "; if forward() names a device, take that of its input instead",
        "the module itself on one thread",
    )

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
        entries = model.state_dict(keep_vars=True)
        if empty := [name for name, entry in entries.items() if getattr(entry, "is_meta", False)]:
            raise ModelError(
                f"its weights are on PyTorch's device 'meta', which has no numbers, as {empty[0]!r}: make it without "
                f"torch.device('meta'), or call .to_empty(device='cpu') and load a state_dict"
            )
        try:
            return self.call(model, observation)
        except (RuntimeError, AssertionError) as error:
            if any(word in str(error) for word in ("CUDA", "NVIDIA", "same device")):
                raise ModelError(f"{summary(error)}{self.trial.cure}") from error
            kinds = {str(each.dtype).removeprefix("torch.") for each in model.parameters()}
            if odd := sorted(kinds - {"float32"}):
                raise ModelError(
                    f"{error}; observations are float32 and its weights are {', '.join(odd)}: call .float() on it, or "
                    f"cast the observation in forward()"
                ) from error
            raise

    def acting(self, model: Any) -> Callable[[Any], Mapping[str, Any]]:
        """The module in evaluation mode on the CPU."""
        model.cpu()
        return RunnerModel(model, self._library)

    def prepare_runner(self) -> None:
        """One thread: each runner has one CPU."""
        torch.set_num_threads(1)
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(1)

    def settings(self) -> dict[str, Any]:
        """The dtype of new parameters."""
        return {"default_dtype": torch.get_default_dtype()}

    def use(self, settings: Mapping[str, Any]) -> None:
        """Sets the dtype of new parameters."""
        torch.set_default_dtype(settings["default_dtype"])

    def copy(self, model: Any) -> Any:
        """A copy of the module with tensors of its own."""
        try:
            return _copied(model)
        except Exception as error:
            raise _not_copied(model, error) from error

    def placed(self, model: Any, device: Any) -> Any:
        """The module itself, moved to the device; an optimizer that has its parameters keeps them."""
        return model.to(torch_device(device))

    def beside(self, model: Any, other: Any) -> Any:
        """The module, moved to the device of another one."""
        return model.to(_device_of(other))

    def pickled(self, model: Any) -> bytes:
        """The module as a pickle with its tensors on the CPU."""
        try:
            on_cpu = all(each.tensor.device.type == "cpu" for each in state_of(model).variables)
            return bytes(cloudpickle.dumps(model if on_cpu else _copied(model).cpu()))
        except Exception as error:
            raise _not_copied(model, error) from error

    def network(self, model: Any, interface: Interface) -> EagerNetwork:
        """What an agent computes from the module."""
        library: Library = self._library
        return EagerNetwork(model, interface, library)

    def export(self, model: Any, request: ExportRequest) -> Exported:
        """The module itself, of which every runner has a copy on the CPU with one thread, or another form of it.

        A program that NumPy computes and a graph of ONNX need no PyTorch in the runners.

        Raises:
            ModelError: runners cannot have a copy, or one on the CPU gives other outputs.
        """
        infer = functools.partial(self._library.infer, request.called(model))
        return export_as_python(self.trial, model, request, infer, self.candidates(model, request))

    def candidates(self, model: Any, request: ExportRequest) -> dict[str, Candidate]:
        """Other forms of the module, by the kind of an `Exported`."""

        def made(candidate: Callable[[Any, ExportRequest], Exported]) -> Exported:
            traced = model
            with contextlib.suppress(ModelError):  # a module that keeps what it computed would keep a tracer's tensors
                traced = self.copy(model)
            with evaluating(traced):
                return candidate(traced, request)

        graph = once(functools.partial(made, as_onnx))
        return {
            "numpy": functools.partial(made, as_program),
            "onnx": graph,
            "onnx_static": lambda: with_constants(graph()),
        }


def _copied(module: Any) -> Any:
    """A copy with tensors of its own. Tensors that a call has left in attributes are copied without their gradients."""
    left = [each for part in module.modules() for each in _tensors(vars(part)) if not each.is_leaf]
    return copy.deepcopy(module, {id(each): each.detach().clone() for each in left})


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


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
