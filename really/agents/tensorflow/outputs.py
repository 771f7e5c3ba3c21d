"""A model's outputs in TensorFlow, in the form that policies and learners take: `[n, *shape]`, float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from really.data.masks import ActionMasks
from really.policies.outputs import OutputForms

Tensors = dict[str, tf.Tensor]
Model = Callable[[Sequence[tf.Tensor]], Mapping[str, Any]]
"""A model as a function of the leaves of its observations."""


def as_tensors(forms: OutputForms, outputs: Mapping[str, Any], names: Iterable[str], double: bool = False) -> Tensors:
    """The outputs `names` as float32 `[n, *shape]`, or `[1, *shape]` if shared; nothing is added if they are that.

    With `double`, float64 and integers stay as they are, as in runners.
    """
    found = {}
    for name in names:
        forms.check(name)
        values = tf.convert_to_tensor(outputs[name])
        is_wide = double and (values.dtype == tf.float64 or values.dtype.is_integer)
        if values.dtype != tf.float32 and not (is_wide or forms.keeps_dtype(name)):
            values = tf.cast(values, tf.float32)
        shape = forms.shapes[name]
        if values.shape.rank != 1 + len(shape) or tuple(values.shape[1:]) != shape:
            values = tf.reshape(values, [forms.leading(name, -1), *shape])
        found[name] = values
    return found


def outputs_of(
    model: Model, forms: OutputForms, leaves: Sequence[tf.Tensor], names: Sequence[str], double: bool = False
) -> Tensors:
    """The model's outputs `names` for the leaves `[n, ...]` of n states, also if it takes one state at a time."""

    def outputs(parts: Sequence[tf.Tensor]) -> Tensors:
        return as_tensors(forms, model(parts), names, double)

    if not forms.one_by_one:
        return outputs(leaves)
    if tf.is_symbolic_tensor(leaves[0]):
        specs = {name: tf.TensorSpec(forms.shapes[name], forms.dtype_of(name)) for name in names}
        return tf.map_fn(  # type: ignore[no-any-return]
            lambda parts: {name: rows[0] for name, rows in outputs([part[tf.newaxis] for part in parts]).items()},
            tuple(leaves),
            fn_output_signature=specs,
        )
    rows = [outputs([leaf[at : at + 1] for leaf in leaves]) for at in range(leaves[0].shape[0])]
    return {name: tf.concat([row[name] for row in rows], axis=0) for name in names}


def allowed(masks: ActionMasks, values: tf.Tensor) -> tf.Tensor:
    """Masks of n states as `[n, width]` booleans. A part without any choice, as in a last state, is not restricted."""
    parts = tf.split(tf.reshape(tf.cast(values, tf.bool), [-1, masks.width]), masks.sizes, axis=-1)
    return tf.concat([part | ~tf.reduce_any(part, axis=-1, keepdims=True) for part in parts], axis=-1)
