"""Devices: where the tensors of a batch live, and how they come there while the learner works on the batch before.

A batch is `placed` by the thread that draws it, and `received` by the thread that takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from really._utils.devices import jax_device, torch_device
from really._utils.packages import needed
from really.errors import InvalidTypeError, InvalidValueError
from really.replay import tensors
from really.replay.tensors import Tensors

WITH_DEVICES = ("torch", "jax")


class Placement(Protocol):
    """How the batches of an iterator become tensors on a device."""

    def placed(self, batch: Mapping[str, NDArray[Any]]) -> Any:
        """The batch as tensors, whose copy to the device has begun; nobody else may write to the batch."""

    def received(self, placed: Any) -> Tensors:
        """The tensors, for use by this thread."""


def placement(as_: str, device: Any = None, pin_memory: Any = False) -> Placement:
    """How batches become tensors of a library, in the machine's memory or on a device.

    Args:
        as_: the library, as in `tensors.converter`.
        device: of PyTorch or JAX, or its name; None leaves tensors in the machine's memory.
        pin_memory: True copies through memory that stays in place (pinned memory), so that a copy to the device does
            not wait. Without a device the tensors themselves are in such memory.

    Raises:
        InvalidValueError: no such library is known, or it sees no such device here.
        InvalidTypeError: `pin_memory` is not True or False.
        MissingPackageError: the library is not installed.
    """
    if not isinstance(pin_memory, bool):
        raise InvalidTypeError(f"pin_memory: expected True or False, got {pin_memory!r}")
    if as_ in WITH_DEVICES and (device is not None or pin_memory):
        return _on_torch(device, pin_memory) if as_ == "torch" else _on_jax(device)
    convert = tensors.converter(as_)
    if device is not None or pin_memory:
        name, value = ("device", device) if device is not None else ("pin_memory", pin_memory)
        raise InvalidValueError(f"{name}: expected as_='torch' or as_='jax' with it, got {name}={value!r}, as_={as_!r}")
    return InMemory(convert)


class InMemory:
    """Tensors over the memory of the batch."""

    def __init__(self, convert: tensors.Converter) -> None:
        self._convert = convert

    def placed(self, batch: Mapping[str, NDArray[Any]]) -> Tensors:
        """The tensors."""
        return tensors.convert(self._convert, batch)

    def received(self, placed: Tensors) -> Tensors:
        """The tensors as they are."""
        return placed


class OnTorchDevice:
    """Tensors of PyTorch on a device, which are copied in the thread that draws.

    Pinned memory is of PyTorch's own pool, which takes a block back when its last copy to a device is done.
    """

    def __init__(self, torch: Any, device: Any, pin_memory: bool) -> None:
        self._torch, self._device, self._pins = torch, device, pin_memory

    def placed(self, batch: Mapping[str, NDArray[Any]]) -> Any:
        """The tensors. A copy from pinned memory may still run."""
        return {key: self._moved(self._torch.from_numpy(column)) for key, column in batch.items()}

    def received(self, placed: Any) -> Tensors:
        """The tensors as they are."""
        tensors: Tensors = placed
        return tensors

    def _moved(self, tensor: Any) -> Any:
        tensor = tensor.pin_memory() if self._pins else tensor
        return tensor if self._device is None else tensor.to(self._device, non_blocking=self._pins)


class OnCudaDevice(OnTorchDevice):
    """Copies on a CUDA stream of their own, beside the learner's work; the learner's stream waits for them."""

    def __init__(self, torch: Any, device: Any, pin_memory: bool) -> None:
        super().__init__(torch, device, pin_memory)
        self._stream = torch.cuda.Stream(device)

    def placed(self, batch: Mapping[str, NDArray[Any]]) -> Any:
        """The tensors, and the event after their copy."""
        with self._torch.cuda.stream(self._stream):
            return super().placed(batch), self._stream.record_event()

    def received(self, placed: Any) -> Tensors:
        """The tensors, which the current stream uses after their copy and holds until its work on them is done."""
        found, copied = placed
        stream = self._torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in found.values():
            tensor.record_stream(stream)
        tensors: Tensors = found
        return tensors


class OnJaxDevice:
    """Arrays of JAX on a device. JAX copies in the background, through pinned memory of its own."""

    def __init__(self, jax: Any, device: Any) -> None:
        self._put, self._device = jax.device_put, device
        self._kind = jax.dtypes.canonicalize_dtype

    def placed(self, batch: Mapping[str, NDArray[Any]]) -> Tensors:
        """The arrays, whose copy may still run."""
        return {
            key: self._put(tensors.narrowed(key, column, self._kind(column.dtype)), self._device)
            for key, column in batch.items()
        }

    def received(self, placed: Tensors) -> Tensors:
        """The arrays as they are."""
        return placed


def _on_torch(device: Any, pin_memory: bool) -> Placement:
    with needed("as_='torch'", "PyTorch", "torch"):
        import torch

    found = None if device is None else torch_device(device)
    if found is None and not torch.cuda.is_available():
        raise InvalidValueError(
            "pin_memory: expected a device that PyTorch copies to from pinned memory, got none here; pin_memory=False "
            "leaves tensors in the machine's memory"
        )
    if found is not None and found.type == "cuda":
        return OnCudaDevice(torch, found, pin_memory)
    # Tensors of the CPU need no copy, and so no pinned memory.
    return OnTorchDevice(torch, found, pin_memory and found is None)


def _on_jax(device: Any) -> Placement:
    with needed("as_='jax'", "JAX", "jax"):
        import jax

    if device is None:
        raise InvalidValueError(
            "pin_memory: expected a device with it for as_='jax', as JAX pins memory for its copies alone, got none"
        )
    return OnJaxDevice(jax, jax_device(device))
