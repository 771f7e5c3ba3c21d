"""Columns that learners learn from: checks before anything is compiled, and states as the model takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from really._utils.checks import checked_number
from really.data.masks import KEY
from really.data.schema import ColumnSpec, Spec
from really.data.spaces import action_bounds, nest
from really.data.transitions import REQUESTABLE
from really.errors import InvalidTypeError, InvalidValueError, one_of
from really.policies.model_inputs import model_leaves
from really.replay.tensors import converter

if TYPE_CHECKING:
    from really.agents.agent import Agent

# One number of a row, as a compiled function takes it.
NUMBER, INTEGER = ColumnSpec(np.dtype(np.float32)), ColumnSpec(np.dtype(np.int64))
# Largest difference between a float32 discount and gamma^k.
DISCOUNT_TOLERANCE = 1e-5
# How far an action may be outside of its Box, as a fraction of the Box.
BOUND_TOLERANCE = 1e-6
# Estimators of advantages, and the column that each reads besides `value_estimate`.
ADVANTAGES = {"gae": "advantage", "monte_carlo": "monte_carlo"}
# Bytes from which TensorFlow takes longer to copy a column than to share it, and the alignment that it computes with.
LARGE, ALIGNMENT = 1 << 20, 64
# Columns that change the meaning of a batch's rows; a learner that ignored them would learn something else.
REPLAYED = ("discount", "weight", "index")


def values_of(variables: Sequence[Any]) -> list[Any]:
    """Variables of TensorFlow, and what variables of Keras hold, as a tape watches them."""
    return [variable.value if isinstance(variable, keras.Variable) else variable for variable in variables]


def checked_norm(max_gradient_norm: float | None) -> float | None:
    """The norm to which gradients are clipped, or None."""
    return None if max_gradient_norm is None else checked_number("max_gradient_norm", max_gradient_norm, 1e-6, 1e6)


def estimates_of(advantages: str) -> list[str]:
    """The columns from which advantages and returns are computed."""
    if advantages not in ADVANTAGES:
        raise InvalidValueError(one_of("advantages", advantages, ADVANTAGES))
    return ["value_estimate", ADVANTAGES[advantages]]


def policy_columns(learner: str, data: Mapping[str, Any], agent: Agent, floats: Sequence[str]) -> dict[str, Any]:
    """The checked columns `floats`, `action` and those of `state`."""
    action = ColumnSpec(agent.policy.action_dtype, agent.policy.action_shape)
    needed = {
        **dict.fromkeys(floats, NUMBER),
        "action": action,
        **state_inputs(agent, "state"),
        **mask_inputs(agent, KEY),
    }
    asked = [name for name in floats if name in REQUESTABLE and name not in data]
    hint = f"ask for {asked} with SampleManager(returns=...)" if asked else ""
    columns = checked_columns(learner, data, needed, hint=hint)
    if unused := [name for name in REPLAYED if name in data]:
        raise InvalidValueError(
            f"{learner}.update: expected rows as they were collected, got columns {listed(unused)} of a replay "
            f"buffer with n_step= or alpha=, which it would not use"
        )
    check_actions(learner, columns["action"], agent.action_space)
    return columns


def replayed_columns(
    learner: str, batch: Mapping[str, Any], inputs_with: Callable[..., Spec], agent: Agent, gamma: float, n_step: int
) -> dict[str, Any]:
    """The checked columns of a batch `[row]` or `[update, row]`, with `discount` and `weight` added if missing.

    `inputs_with(*names)` returns the columns that are needed, with a number of each of these names.
    """
    ends = "terminal" if n_step == 1 and "discount" not in batch else "discount"
    hint = "" if ends == "terminal" or ends in batch else f"a buffer with n_step={n_step} gives {ends!r}"
    columns = checked_columns(learner, batch, inputs_with(ends, *({"weight"} & set(batch))), (1, 2), hint)
    check_weights(learner, batch, columns)
    if "terminal" in columns:
        columns["discount"] = gamma * (1.0 - columns.pop("terminal"))
    else:
        check_discount(learner, columns["discount"], gamma, n_step)
    columns.setdefault("weight", np.ones(columns["reward"].shape, np.float32))
    check_actions(learner, columns["action"], agent.action_space)
    return columns


def results(compiled: Callable[..., Any], columns: dict[str, Any]) -> list[NDArray[Any]]:
    """The results of compiled updates of batches `[update, row, ...]`; those of a batch `[row, ...]` for one update."""
    single = columns["reward"].ndim == 1
    batches = shared({name: column[None] for name, column in columns.items()} if single else columns)
    found = [result.numpy() for result in compiled(batches)]
    return [result[0] for result in found] if single else found


def shared(columns: dict[str, Any]) -> dict[str, Any]:
    """These columns, large ones as tensors over the same memory.

    Nobody may write there as long as they are read. The caller holds them until then: TensorFlow computes in place in
    the memory of a tensor that nobody holds.
    """
    over_memory = converter("tf")
    return {name: over_memory(name, column) if _can_share(column) else column for name, column in columns.items()}


def _can_share(column: Any) -> bool:
    if not isinstance(column, np.ndarray) or column.nbytes < LARGE:
        return False
    flags, dtype = column.flags, column.dtype
    usual = flags.c_contiguous and flags.writeable and dtype.isnative and dtype.kind in "iuf"
    return usual and column.ctypes.data % ALIGNMENT == 0


def apply_gradients(
    optimizer: Any,
    tape: tf.GradientTape,
    loss: Any,
    variables: Sequence[Any],
    max_norm: float | None = None,
    jit_compile: bool = False,
) -> None:
    """One step of an optimizer along gradients that are clipped to a global norm, if one is given.

    A variable on which the loss does not depend, such as one of another output, has a gradient of zero. With
    `jit_compile` XLA compiles the step alone: XLA reads each variable once a step, TensorFlow once an operation.
    """
    zero = tf.UnconnectedGradients.ZERO
    gradients = tape.gradient(loss, values_of(variables), unconnected_gradients=zero)
    if max_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, max_norm)
    if jit_compile:
        tf.function(lambda given: optimizer.apply(given, variables), jit_compile=True, autograph=False)(gradients)
    else:
        optimizer.apply(gradients, variables)


def advantages_and_returns(columns: dict[str, Any]) -> dict[str, Any]:
    """`advantage` A and `return` R, `[row]`: R = A + V (the lambda-return) from advantages, A = R - V from returns."""
    value, advantage, monte_carlo = columns.pop("value_estimate"), columns.get("advantage"), columns.get("monte_carlo")
    if advantage is not None:
        return {"return": advantage + value}
    return {"advantage": columns.pop("monte_carlo") - value, "return": monte_carlo}


def has_convolutions(model: Any) -> bool:
    """Whether a weight is the kernel of a convolution, which has more than two axes."""
    return any(len(weight.shape) > 2 for weight in model.trainable_variables)


def xla_parts(jit_compile: bool | None, *models: Any) -> tuple[bool, bool]:
    """Whether XLA compiles the updates of these models, and whether it compiles the steps of their optimizers alone.

    None chooses the first without convolutions, for which XLA takes long on a CPU, and the second with them.
    """
    convolves = any(map(has_convolutions, models))
    return not convolves if jit_compile is None else jit_compile, jit_compile is None and convolves


def state_of(agent: Agent, batch: Mapping[str, Any], key: str) -> Any:
    """The states of a batch as the model takes them."""
    leaves = [batch[key + name] for name in model_leaves(agent.observation_space)]
    return nest(agent.observation_space, leaves)


def state_inputs(agent: Agent, key: str) -> Spec:
    """The columns of `state` or `state_new`: one, or one `<key>.<name>` for each leaf of a Dict or Tuple."""
    return {key + name: leaf for name, leaf in model_leaves(agent.observation_space).items()}


def mask_inputs(agent: Agent, key: str) -> Spec:
    """The column `key` of action masks, if these come with `info`; masks in the states are columns of those."""
    return {} if agent.masks is None else {name: spec for name, spec in agent.masks.columns.items() if name == key}


def checked_columns(
    learner: str, columns: Mapping[str, Any], inputs: Spec, axes: Sequence[int] = (1,), hint: str = ""
) -> dict[str, Any]:
    """Returns the columns that `inputs` name, in the dtypes of `inputs`; leaves out all others.

    Args:
        learner: name of the learner, for messages.
        columns: name -> array or tensor `[row, ...]`, or `[update, row, ...]`.
        inputs: the columns that are needed. The first has one number per row: its shape is the leading shape of all.
        axes: allowed numbers of leading axes.
        hint: how to get missing columns, for messages.

    Raises:
        InvalidTypeError: this is no dict of columns, or a dtype cannot be converted without loss.
        InvalidValueError: a column is missing, empty or has a wrong shape; a number, such as a reward, is not finite;
            or `terminal` is not from 0 to 1.
    """
    if not isinstance(columns, Mapping):
        raise InvalidTypeError(f"{learner}.update: expected a dict of columns, got {type(columns).__name__}")
    if missing := [name for name in inputs if name not in columns]:
        raise InvalidValueError(
            f"{learner}.update: expected columns {listed(inputs)}, "
            f"got {listed(columns)}; missing: {listed(missing)}{hint and '; '}{hint}"
        )
    arrays, first = {name: _array(columns[name]) for name in inputs}, next(iter(inputs))
    lead = tuple(arrays[first].shape)
    if len(lead) not in axes or 0 in lead:
        wanted_axes = " or ".join(str(["update", "row"][-count:]).replace("'", "") for count in axes)
        raise InvalidValueError(
            f"{learner}.update: expected {first!r} of shape {wanted_axes}, not empty, got {list(lead)}"
        )
    _check_first(learner, arrays, inputs, lead)
    fitted = {name: _fitted(learner, name, wanted, arrays[name], lead, first) for name, wanted in inputs.items()}
    for name, wanted in inputs.items():
        if wanted == NUMBER:
            _check_numbers(learner, name, np.asarray(fitted[name]))
    return fitted


def check_actions(learner: str, actions: Any, space: Any) -> None:
    """Raises InvalidValueError for actions outside of the action space, for which XLA would take the nearest one."""
    if (bounds := action_bounds(space)) is None:
        return
    given, (low, high) = np.asarray(actions), bounds
    if (given < low).any() or (given > high).any():
        raise InvalidValueError(
            f"{learner}.update: column 'action': expected numbers from {low.tolist()} to {high.tolist()}, "
            f"got {given.min()} to {given.max()}"
        )


def check_within(learner: str, actions: Any, space: Any) -> None:
    """Raises InvalidValueError for actions outside of a Box, beyond rounding."""
    given, slack = np.asarray(actions), BOUND_TOLERANCE * (space.high - space.low)
    if (given < space.low - slack).any() or (given > space.high + slack).any():
        raise InvalidValueError(
            f"{learner}.update: column 'action': expected numbers from {space.low.tolist()} to {space.high.tolist()}, "
            f"got {given.min()} to {given.max()}"
        )


def check_weights(learner: str, batch: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
    """Raises InvalidValueError for a prioritized batch without weights, and for negative weights."""
    if "weight" not in batch and "index" in batch:
        raise InvalidValueError(
            f"{learner}.update: expected a column 'weight' beside 'index', as batches drawn by priority have, got none"
        )
    weight = np.asarray(columns.get("weight", 1.0))
    if (weight < 0).any():
        raise InvalidValueError(f"{learner}.update: column 'weight': expected numbers >= 0, got {weight.min()}")


def check_discount(learner: str, discount: Any, gamma: float, n_step: int) -> None:
    """Raises InvalidValueError for a discount that is neither 0 nor gamma^k: the buffer has another gamma or n_step."""
    given = np.asarray(discount, np.float64)
    allowed = np.append(gamma ** np.arange(1, n_step + 1), 0.0)
    distance = np.abs(given[..., None] - allowed).min(axis=-1)
    if not (distance <= DISCOUNT_TOLERANCE).all():
        raise InvalidValueError(
            f"{learner}.update: column 'discount': expected 0 or gamma^k with gamma={gamma} and k from 1 to "
            f"n_step={n_step}, got {given.ravel()[distance.argmax()]:.6g}; "
            f"were the batches made with another gamma or n_step?"
        )


def _check_first(learner: str, arrays: Mapping[str, Any], inputs: Spec, lead: tuple[int, ...]) -> None:
    """Raises InvalidValueError if the first column has an axis too many, as all other columns show."""
    first, *others = inputs
    short = lead[:-1]
    fit = [tuple(arrays[name].shape) == (*short, *inputs[name].shape) for name in others]
    if short and fit and all(fit):
        raise InvalidValueError(
            f"{learner}.update: column {first!r}: expected one number for each row, shape {list(short)} as the other "
            f"columns have, got {list(lead)}; rewards of several objectives have to be added up with weights first"
        )


def _check_numbers(learner: str, name: str, numbers: NDArray[np.float32]) -> None:
    """Raises InvalidValueError for numbers that are not finite, and for `terminal` outside of [0, 1]."""
    valid, expected = np.isfinite(numbers), "finite numbers"
    if name == "terminal":
        valid, expected = (numbers >= 0) & (numbers <= 1), "numbers from 0 to 1"
    if not valid.all():
        raise InvalidValueError(
            f"{learner}.update: column {name!r}: expected {expected}, got {numbers[~valid].ravel()[0]}"
        )


def _fitted(learner: str, name: str, wanted: ColumnSpec, array: Any, lead: tuple[int, ...], first: str) -> Any:
    shape, expected = tuple(array.shape), (*lead, *wanted.shape)
    dtype = np.dtype(getattr(array.dtype, "as_numpy_dtype", array.dtype))
    if not np.can_cast(dtype, wanted.dtype, "same_kind"):
        raise InvalidTypeError(
            f"{learner}.update: column {name!r}: expected {wanted.dtype}, got {dtype}, which it cannot hold"
        )
    if shape != expected and (wanted.shape or shape != (*expected, 1)):
        raise InvalidValueError(
            f"{learner}.update: column {name!r}: expected shape {list(expected)}, "
            f"as {first!r} has {list(lead)}, got {list(shape)}"
        )
    array = array if shape == expected else tf.reshape(array, expected)
    return array if dtype == wanted.dtype else tf.cast(array, wanted.dtype)


def _array(column: Any) -> Any:
    """Tensors stay as they are, since they may be on a GPU; anything else becomes a NumPy array."""
    return column if isinstance(column, tf.Tensor) else np.asarray(column)


def listed(names: Any) -> str:
    """Names in quotes, for messages."""
    return ", ".join(repr(name) for name in names) or "none"
