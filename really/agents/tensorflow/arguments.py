"""Arguments of an agent's methods as tensors, with checks that name the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from really.agents.frameworks.protocol import Interface
from really.data.schema import ColumnSpec


def typed_tensor(value: Any, leaf: ColumnSpec) -> tf.Tensor:
    """A tensor of the leaf's dtype; one observation in the leaf's shape, if only axes of one number are missing."""
    tensor = tf.convert_to_tensor(value)
    if tensor.shape.rank is not None and tensor.shape.rank < len(leaf.shape):
        given, expected = ([size for size in shape if size != 1] for shape in (tensor.shape, leaf.shape))
        tensor = tf.reshape(tensor, leaf.shape) if given == expected else tensor
    return tensor if tensor.dtype == leaf.dtype else tf.cast(tensor, leaf.dtype)


def action_tensor(interface: Interface, action: Any, rows: int | None) -> tf.Tensor:
    """Actions as a tensor; `rows` is the number of states, or None while it is not known.

    Raises:
        InvalidValueError: there is not one action for each state, or one is outside of a discrete action space.
    """
    actions = tf.convert_to_tensor(action)
    if rows is not None and actions.shape.num_elements() is not None:
        interface.check_actions(actions.shape, rows)
    if interface.bounds is not None and not tf.is_symbolic_tensor(actions):
        interface.check_bounds(np.asarray(actions))
    return actions


def mask_tensors(interface: Interface, mask: Any, rows: int | None) -> tuple[tf.Tensor, ...]:
    """Action masks `[n, width]` as a tuple of one tensor, which is empty if there are none.

    Raises:
        InvalidValueError: the environment gives no masks beside its states, or there is not one for each state.
    """
    interface.check_mask(mask)
    if mask is None:
        return ()
    tensor = tf.convert_to_tensor(mask)
    if rows is not None and tensor.shape.num_elements() is not None:
        interface.check_mask_shape(tensor.shape, rows)
    return (tensor if tensor.shape.rank == 2 else tf.reshape(tensor, [-1, interface.mask_width]),)
