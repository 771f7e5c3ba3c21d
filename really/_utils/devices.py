"""Devices of PyTorch and JAX by name, checked. Whoever asks for one has the library; nothing is imported before."""

from __future__ import annotations

from typing import Any

from really._utils.packages import needed
from really.errors import InvalidValueError, summary


def torch_device(given: Any) -> Any:
    """A device of PyTorch on which tensors can be made here, from its name or itself.

    Raises:
        InvalidValueError: it is none, PyTorch sees none here, or it holds no numbers.
        MissingPackageError: PyTorch is not installed.
    """
    with needed(f"device={given!r}", "PyTorch", "torch"):
        import torch

    try:
        device = torch.device(given)
    except (RuntimeError, TypeError) as error:
        raise InvalidValueError(
            f"device: expected one of PyTorch, as 'cpu' or 'cuda:0', got {given!r}: {summary(error)}"
        ) from None
    if device.type == "meta":
        raise InvalidValueError("device: expected one whose tensors have numbers, got 'meta', whose tensors have none")
    try:
        torch.empty(1, device=device)
    except Exception as error:  # builds and backends without a device raise many classes
        seen = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise InvalidValueError(
            f"device: expected one that PyTorch {torch.__version__} sees here ({', '.join(seen)}), got {given!r}: "
            f"{summary(error)}"
        ) from None
    return device


def jax_device(given: Any) -> Any:
    """A device of JAX from a name such as `cpu`, `gpu` or `cuda:1`; a `jax.Device` or a sharding as it is.

    Raises:
        InvalidValueError: JAX sees no such device here.
        MissingPackageError: JAX is not installed.
    """
    with needed(f"device={given!r}", "JAX", "jax"):
        import jax

    if isinstance(given, jax.Device | jax.sharding.Sharding):
        return given
    platform, _, number = given.partition(":") if isinstance(given, str) else ("", "", "")
    try:
        if not platform:
            raise ValueError(f"{type(given).__name__} is no name of a device")
        return dict(enumerate(jax.devices(platform)))[int(number or 0)]
    except (RuntimeError, LookupError, ValueError) as error:
        seen = ", ".join(f"{each.platform}:{each.id}" for each in jax.devices())
        raise InvalidValueError(
            f"device: expected one that JAX {jax.__version__} sees here ({seen}), got {given!r}: {summary(error)}"
        ) from None
