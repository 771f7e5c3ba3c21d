"""OutputForms: turns a model's outputs into arrays `[n, *shape]`, whatever axes of size one the model adds or drops."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.errors import ModelError
from really.policies.policy import Policy, listed
from really.policies.recurrent import RecurrentLayout

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OutputForms:
    """How the outputs of one model become arrays `[n, *shape]` for n states.

    A model may drop axes of size one: with `tf.squeeze` at the end of its call, `mu` is [n] for actions of one number,
    and [] for one state. The shapes for one state and for several tell what an output is.

    Attributes:
        shapes: name of each output that can be used -> its shape for one state.
        shared: those of them that are the same for all states, as a `sigma` without batch axis is: `[1, *shape]`.
        one_by_one: whether the model takes one state at a time. For several it raises, or gives the output of one.
        refused: name of each output that the policy does not need and that cannot be used -> why.
        recurrent: the layout of the recurrent state, whose leaves are outputs too; None for most models.
    """

    shapes: Mapping[str, Shape]
    shared: frozenset[str]
    one_by_one: bool
    refused: Mapping[str, str]
    recurrent: RecurrentLayout | None = None

    @classmethod
    def of(
        cls, policy: Policy, one: Mapping[str, Any], several: Mapping[str, Any] | None, rows: int = 2
    ) -> OutputForms:
        """The forms of a model with outputs `one` for one state, and `several` for `rows`; None if it raised for them.

        Raises:
            ModelError: an output that the policy needs is missing, is no array of numbers, or has a wrong shape.
        """
        needed = policy.output_shapes
        if not needed.keys() <= one.keys():
            raise ModelError(
                f"model output: expected {listed(needed)} for {policy.sampling_type!r}, got {listed(map(str, one))}"
            )
        batched = needed.keys() - policy.shared_outputs
        one_by_one = several is None or all(_size(name, several) == _size(name, one) for name in batched)
        shapes: dict[str, Shape] = {}
        shared, refused = set(), {}
        for name, shape in {**policy.optional_outputs, **needed}.items():
            if name not in one:
                continue
            example = _Example(name, one, None if one_by_one else several, rows)
            try:
                found, is_shared = example.form(shape, name in policy.shared_outputs)
            except ModelError as error:
                if name in needed:
                    raise
                refused[name] = str(error)
            else:
                shapes[name] = (math.prod(found),) if name in needed else found
                shared |= {name} if is_shared else set()
        return cls(shapes, frozenset(shared), one_by_one, refused)

    def with_recurrent(self, layout: RecurrentLayout | None) -> OutputForms:
        """The same forms with the leaves of a recurrent state; None changes nothing."""
        if layout is None:
            return self
        shapes = {name: column.shape for name, column in layout.columns.items()}
        return replace(self, shapes={**self.shapes, **shapes}, recurrent=layout)

    def keeps_dtype(self, name: str) -> bool:
        """Whether an output stays in the model's own dtype, as the recurrent state does."""
        return self.recurrent is not None and name in self.recurrent.columns

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """The dtype of an output for a learner: float32, or that of a part of the recurrent state."""
        layout = self.recurrent
        return layout.columns[name].dtype if layout and name in layout.columns else np.dtype(np.float32)

    def arrays(self, outputs: Mapping[str, Any], rows: int, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """The outputs `names` for `rows` states, `[rows, *shape]`, or `[1, *shape]` if shared; see `as_numbers`.

        Raises:
            ModelError: an output cannot be used, or does not have this size.
        """
        found = {}
        for name in names:
            self.check(name)
            values, shape = as_numbers(name, outputs.get(name)), (self.leading(name, rows), *self.shapes[name])
            if values.size != math.prod(shape):
                raise _wrong_shape(name, shape, values)
            found[name] = values.reshape(shape)
        return found

    def check(self, name: str) -> None:
        """Raises ModelError if the model's output of this name cannot be used."""
        if name in self.refused:
            raise ModelError(self.refused[name])
        if name not in self.shapes:
            raise ModelError(
                f"model output {name!r}: expected one that the policy or the values need ({listed(self.shapes)}), got "
                f"another one; call the model itself for it"
            )

    def leading(self, name: str, rows: int) -> int:
        """Size of the first axis of an output for `rows` states."""
        return 1 if name in self.shared else rows


def as_numbers(name: str, values: Any) -> NDArray[Any]:
    """An output as an array of real numbers; half precision of any kind becomes float32.

    Raises:
        ModelError: it is something else, such as a string, None or a dict.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # parts of different shapes
        array = np.empty((), object)
    is_extension = array.dtype.kind == "V" and np.can_cast(array.dtype, np.float32)
    if array.dtype.kind not in "biuf" and not is_extension:
        got = type(values).__name__ if array.dtype.kind == "O" and array.ndim == 0 else f"{array.dtype}"
        raise ModelError(f"model output {name!r}: expected an array of real numbers, got {got} {_shortened(values)}")
    is_half = array.dtype.kind == "f" and array.dtype.itemsize < np.dtype(np.float32).itemsize
    return array.astype(np.float32) if is_half or is_extension else array


class _Example:
    """One output of a model for one state, and for `rows`; the latter is None for a model that takes one at a time."""

    def __init__(self, name: str, one: Mapping[str, Any], several: Mapping[str, Any] | None, rows: int) -> None:
        self._name, self._one, self._several, self._rows = name, one, several, rows

    def form(self, shape: Shape | None, may_be_shared: bool) -> tuple[Shape, bool]:
        """The shape for one state, and whether the output is shared; None as `shape` takes any with a batch axis."""
        first = as_numbers(self._name, self._one[self._name])
        if shape is None:
            shape = first.shape[1:]
        elif may_be_shared and first.size == 1:
            shape = (1,)
        self._expect(first, 1, shape)
        if self._several is None:
            return shape, False
        batch = as_numbers(self._name, self._several.get(self._name))
        if may_be_shared and batch.size == first.size:
            return shape, True
        self._expect(batch, self._rows, shape)
        return shape, False

    def _expect(self, values: NDArray[Any], rows: int, shape: Shape) -> None:
        """Raises ModelError unless `values` have this shape for `rows` states, axes of size one aside."""
        allowed = {_squeezed((rows, *shape)), _squeezed((rows, math.prod(shape)))}
        if _squeezed(values.shape) not in allowed:
            raise _wrong_shape(self._name, (rows, *shape), values)


def _size(name: str, outputs: Mapping[str, Any]) -> int:
    return as_numbers(name, outputs.get(name)).size


def _squeezed(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _wrong_shape(name: str, expected: Shape, got: NDArray[Any]) -> ModelError:
    return ModelError(f"model output {name!r}: expected shape {list(expected)}, got {list(got.shape)}")


def _shortened(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 60 else f"{text[:57]}..."
