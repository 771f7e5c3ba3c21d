"""Calls of operations in graphs of PyTorch, and their arguments as values of a program."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from really.agents.frameworks.programs import ProgramWriter, Value, merged
from really.errors import ModelError


class Reader(Protocol):
    """Has the values of the nodes that were read.

    Attributes:
        writer: takes the steps.
    """

    writer: ProgramWriter

    def value(self, given: Any, again: Any, dtype: np.dtype[Any] | None) -> Any:
        """The value of an argument in both graphs: that of a node, or a number, which is a constant."""


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The dtype of NumPy; raises ModelError if it has none."""
    if dtype == torch.bfloat16:
        raise ModelError("it computes in torch.bfloat16")
    return np.dtype(str(dtype).removeprefix("torch."))


class Call:
    """A node of the graphs for both numbers of states, of which steps of the program are made.

    Attributes:
        reader: has the values of other nodes.
        node, again: the node of each graph.
        writer: takes the steps.
        name: of the operation.
        args, kwargs: of the node.
    """

    def __init__(self, reader: Reader, node: Any, again: Any) -> None:
        self.reader, self.node, self.again, self.writer = reader, node, again, reader.writer
        self.name = getattr(node.target, "overloadpacket", node.target).__name__.rpartition(".")[2]
        self.args, self.kwargs = node.args, node.kwargs

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the result."""
        shape: tuple[int, ...] = merged(tuple(self.node.meta["val"].shape), tuple(self.again.meta["val"].shape))
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the result."""
        return numpy_dtype(self.node.meta["val"].dtype)

    def argument(self, at: int, name: str, default: Any = None) -> Any:
        """A setting, by its place or by its name."""
        return self.args[at] if len(self.args) > at else self.kwargs.get(name, default)

    def axes(self, at: int = 1, name: str = "dim") -> tuple[int, ...]:
        """Axes from 0 on; all of them if none are given."""
        given, num = self.argument(at, name), self.tensor(0).shape
        given = range(len(num)) if given is None or given == [] else given
        return tuple(axis % len(num) for axis in ([given] if isinstance(given, int) else given))

    def tensor(self, at: int, dtype: np.dtype[Any] | None = None) -> Value:
        """The value of an argument."""
        value: Value = self.reader.value(self.args[at], self.again.args[at], dtype)
        return value

    def tensors(self) -> list[Value]:
        """The values of all arguments, in the dtype of the result if that is a float and they are not compared."""
        kind = self.dtype
        found = []
        for at, given in enumerate(self.args):
            value = self.tensor(at, None if isinstance(given, torch.fx.Node) else self._common(kind))
            is_other = kind.kind == "f" and value.dtype != kind and value.dtype.kind != "b"
            found.append(self.step("convert", value, settings=(str(kind),)) if is_other else value)
        return found

    def _common(self, kind: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype of a number beside the tensors of a comparison, or of the result."""
        kinds = [self.tensor(at).dtype for at, given in enumerate(self.args) if isinstance(given, torch.fx.Node)]
        return np.result_type(*kinds, np.float32) if kind.kind == "b" else kind

    def step(self, operation: str, *inputs: Value, settings: tuple[Any, ...] = (), shape: Any = None) -> Value:
        """A step with the dtype of the result, and its shape unless another one is given."""
        return self.writer.step(operation, inputs, settings, self.shape if shape is None else shape, self.dtype)

    def constant(self, number: float) -> Value:
        """A number in the dtype of the result."""
        return self.writer.constant(number, self.dtype)

    def reshaped(self, value: Value) -> Value:
        """A value in the shape of the result."""
        return self.step("reshape", value, settings=(self.shape,))


class Part(Call):
    """The first of several results of a node."""

    def __init__(self, call: Call) -> None:
        super().__init__(call.reader, call.node, call.again)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the first result."""
        shape: tuple[int, ...] = merged(*(tuple(each.meta["val"][0].shape) for each in (self.node, self.again)))
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""
        return numpy_dtype(self.node.meta["val"][0].dtype)
