"""Arguments of an agent's methods as tensors, with checks that name the argument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from really.data.masks import ActionMasks
from really.data.schema import ColumnSpec
from really.errors import InvalidValueError

Bounds = tuple[NDArray[np.int64], NDArray[np.int64]]


def typed_tensor(value: Any, leaf: ColumnSpec) -> tf.Tensor:
    """A tensor of the leaf's dtype; one observation in the leaf's shape, if only axes of one number are missing."""
    tensor = tf.convert_to_tensor(value)
    if tensor.shape.rank is not None and tensor.shape.rank < len(leaf.shape):
        given, expected = ([size for size in shape if size != 1] for shape in (tensor.shape, leaf.shape))
        tensor = tf.reshape(tensor, leaf.shape) if given == expected else tensor
    return tensor if tensor.dtype == leaf.dtype else tf.cast(tensor, leaf.dtype)


def action_tensor(action: Any, rows: int | None, shape: tuple[int, ...], bounds: Bounds | None) -> tf.Tensor:
    """Actions of this shape as a tensor; `rows` is the number of states, or None while it is not known.

    Raises:
        InvalidValueError: there is not one action for each state, or one is outside of the bounds.
    """
    actions = tf.convert_to_tensor(action)
    got = actions.shape.num_elements()
    if rows is not None and got not in (None, rows * math.prod(shape)):
        raise InvalidValueError(f"action: expected {['n', *shape]} with n = {rows} states, got {actions.shape}")
    if bounds is not None and not tf.is_symbolic_tensor(actions):
        _check_bounds(np.asarray(actions), *bounds)
    return actions


def mask_tensors(masks: ActionMasks | None, mask: Any, rows: int | None) -> tuple[tf.Tensor, ...]:
    """Action masks `[n, width]` as a tuple of one tensor, which is empty if there are none.

    Raises:
        InvalidValueError: the environment gives no masks beside its states, or there is not one for each state.
    """
    if mask is None:
        return ()
    if masks is None or masks.leaf is not None:
        raise InvalidValueError(
            f"action_mask: expected none, as {'the states have masks' if masks else 'no actions are masked'}, "
            f"got {type(mask).__name__}"
        )
    tensor = tf.convert_to_tensor(mask)
    if rows is not None and tensor.shape.num_elements() not in (None, rows * masks.width):
        raise InvalidValueError(
            f"action_mask: expected {['n', masks.width]} with n = {rows} states, got {tensor.shape}"
        )
    return (tensor if tensor.shape.rank == 2 else tf.reshape(tensor, [-1, masks.width]),)


def _check_bounds(actions: NDArray[Any], low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
    actions = actions.reshape(-1, *low.shape)
    valid = (actions >= low) & (actions <= high) & (actions == np.floor(actions))
    if not valid.all():
        raise InvalidValueError(
            f"action: expected whole numbers from {low.tolist()} to {high.tolist()}, got {actions[~valid][0]}"
        )
