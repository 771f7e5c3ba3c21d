"""What a model takes: the leaves of an observation in the model's dtypes, and weights of the model's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.schema import Spec
from really.data.spaces import observation_leaves
from really.errors import ModelError
from really.policies.given_weights import check_framework, expected_weights


def model_leaves(space: Any) -> Spec:
    """The leaves of an observation space as models take them: floats of any width as float32, as in Keras."""
    float32 = np.dtype(np.float32)
    return {
        name: leaf._replace(dtype=float32) if np.issubdtype(leaf.dtype, np.floating) else leaf
        for name, leaf in observation_leaves(space).items()
    }


def check_weights(
    shapes: Sequence[tuple[int, ...]],
    weights: Sequence[NDArray[Any]],
    names: Sequence[str] | None = None,
    framework: str = "",
) -> None:
    """Raises ModelError, naming the expected and the given shapes, unless `weights` have exactly `shapes`.

    `names` are the names of the weights for the message. With the model's `framework`, the message says if the weights
    are of another one.
    """
    got = _shapes(weights)
    if got != [tuple(shape) for shape in shapes]:
        check_framework(framework, weights)
    if got is None:
        raise ModelError(f"weights: expected {expected_weights(framework)}, got {type(weights).__name__}")
    if len(got) != len(shapes):
        raise ModelError(f"weights: expected {len(shapes)} arrays of shapes {list(shapes)}, got {len(got)} of {got}")
    for at, (expected, shape) in enumerate(zip(shapes, got, strict=True)):
        if tuple(expected) != shape:
            name = f" ({names[at]})" if names else ""
            raise ModelError(
                f"weights[{at}]{name}: expected shape {list(expected)}, got {list(shape)}; "
                f"{_likely_cause(expected, shape)}"
            )


def _shapes(weights: Any) -> list[tuple[int, ...]] | None:
    """The shapes of a list of arrays; an item that is none has the shape `()`. Returns None if it is no list."""
    if isinstance(weights, str | bytes) or not isinstance(weights, Sequence | np.ndarray):
        return None
    return list(map(_shape, weights))


def _shape(weight: Any) -> tuple[int, ...]:
    try:
        return tuple(np.shape(weight))
    except ValueError:  # arrays of different shapes
        return ()


def _likely_cause(expected: Sequence[int], shape: Sequence[int]) -> str:
    if len(shape) == 2 and list(shape) == list(expected)[::-1]:
        return (
            "kernels are [outputs, inputs] in PyTorch, [inputs, outputs] in Keras and JAX: transpose those of another"
        )
    return "are these the weights of another model?"
