"""What a model takes: the leaves of an observation in the model's dtypes, and weights of the model's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.schema import Spec
from really.data.spaces import observation_leaves
from really.errors import ModelError


def model_leaves(space: Any) -> Spec:
    """The leaves of an observation space as models take them: floats of any width as float32, as in Keras."""
    float32 = np.dtype(np.float32)
    return {
        name: leaf._replace(dtype=float32) if np.issubdtype(leaf.dtype, np.floating) else leaf
        for name, leaf in observation_leaves(space).items()
    }


def check_weights(
    shapes: Sequence[tuple[int, ...]], weights: Sequence[NDArray[Any]], names: Sequence[str] | None = None
) -> None:
    """Raises ModelError, naming the expected and the given shapes, unless `weights` have exactly `shapes`.

    `names` are the names of the weights for the message.
    """
    if not isinstance(weights, Sequence | np.ndarray):
        raise ModelError(f"weights: expected a list of arrays as get_weights() gives, got {type(weights).__name__}")
    got = [tuple(np.shape(weight)) for weight in weights]
    if len(got) != len(shapes):
        raise ModelError(f"weights: expected {len(shapes)} arrays of shapes {list(shapes)}, got {len(got)} of {got}")
    for at, (expected, shape) in enumerate(zip(shapes, got, strict=True)):
        if tuple(expected) != shape:
            name = f" ({names[at]})" if names else ""
            raise ModelError(
                f"weights[{at}]{name}: expected shape {list(expected)}, got {list(shape)}; are these the "
                f"weights of another model?"
            )
