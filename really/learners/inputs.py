"""What learners are given, checked before anything is compiled: an agent, an optimizer, columns of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from really.config import check_number
from really.errors import InvalidTypeError, InvalidValueError, ModelError
from really.inference import model_leaves
from really.spaces import nest

if TYPE_CHECKING:
    from really.agent import Agent
    from really.manager import SampleManager

FLOAT, INTEGER = np.dtype(np.float32), np.dtype(np.int64)
# A float32 holds gamma^k to about this, relative to 1.
DISCOUNT_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Input:
    """A column that a learner needs: its name, shape and dtype of one row as the compiled function takes it."""

    name: str
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = FLOAT


def agent_of(learner: str, source: SampleManager | Agent) -> Agent:
    """The agent to train: a manager's current one, or the one given."""
    agent: Any = source.get_agent() if hasattr(source, "get_agent") else source
    if not hasattr(agent, "output_names"):
        raise InvalidTypeError(f"{learner}: expected a SampleManager or an Agent, came {type(source).__name__}")
    if not hasattr(agent.model, "trainable_variables"):
        raise ModelError(f"{learner}: expected a Keras model to train, came {type(agent.model).__name__}")
    return agent  # type: ignore[no-any-return]


def gamma_of(learner: str, source: SampleManager | Agent, gamma: float | None) -> float:
    """The one discount factor of manager and learner; InvalidValueError where they have two, or none was given."""
    managers = getattr(source, "kwargs", {}).get("gamma")
    if gamma is None and managers is None:
        raise InvalidValueError(f"{learner}: expected gamma with an Agent, which has none of its own, came None")
    given = check_number("gamma", managers if gamma is None else gamma, 0, 1)
    if managers not in (None, given):
        raise InvalidValueError(f"{learner}: expected gamma={managers}, which the manager was made with, came {given}")
    return given


def build_optimizer(learner: str, optimizer: Any, agent: Agent) -> Any:
    """The optimizer, with its variables for the agent's model: a compiled function must not make any."""
    if not hasattr(optimizer, "apply"):
        raise InvalidTypeError(f"{learner}: expected a Keras optimizer, came {type(optimizer).__name__}")
    if optimizer.built:
        raise InvalidValueError(
            f"{learner}: expected an optimizer that trains nothing yet, came a {type(optimizer).__name__} in use"
        )
    optimizer.build(agent.model.trainable_variables)
    return optimizer


def outputs_of(learner: str, agent: Agent, names: Sequence[str]) -> Mapping[str, Any]:
    """The model's outputs for one state of zeros; ModelError where one of `names` is not among them."""
    if missing := [name for name in names if name not in agent.output_names]:
        raise ModelError(
            f"{learner}: expected a model with output {_listed(missing)}, came one with {_listed(agent.output_names)}"
        )
    leaves = [np.zeros((1, *leaf.shape), leaf.dtype) for leaf in model_leaves(agent.observation_space)]
    return agent.model(nest(agent.observation_space, leaves))  # type: ignore[no-any-return]


def state_inputs(agent: Agent, key: str) -> list[Input]:
    """The columns of `state` or `state_new`: one, or `<key>.<name>` for each leaf of a Dict or Tuple."""
    return [Input(key + leaf.name, leaf.shape, leaf.dtype) for leaf in model_leaves(agent.observation_space)]


def checked_columns(
    learner: str, columns: Mapping[str, Any], inputs: Sequence[Input], axes: Sequence[int] = (1,), hint: str = ""
) -> dict[str, Any]:
    """The columns that `inputs` name, of the dtypes that they say; all others are left out.

    Args:
        learner: whose update it is, for messages.
        columns: name -> array or tensor `[row, ...]`, or `[update, row, ...]`.
        inputs: what is needed; the first has rows without axes of their own: its shape is everyone's leading one.
        axes: how many leading axes there may be.
        hint: where missing columns come from.

    Raises:
        InvalidTypeError: no dict of columns, or a dtype that would lose what it holds.
        InvalidValueError: a column is missing, empty, or not of the expected shape.
    """
    if not isinstance(columns, Mapping):
        raise InvalidTypeError(f"{learner}.update: expected a dict of columns, came {type(columns).__name__}")
    if missing := [wanted.name for wanted in inputs if wanted.name not in columns]:
        raise InvalidValueError(
            f"{learner}.update: expected columns {_listed(wanted.name for wanted in inputs)}, "
            f"came {_listed(columns)}; missing: {_listed(missing)}{hint and '; '}{hint}"
        )
    arrays = {wanted.name: _array(columns[wanted.name]) for wanted in inputs}
    lead = tuple(arrays[inputs[0].name].shape)
    if len(lead) not in axes or 0 in lead:
        wanted_axes = " or ".join(str(["update", "row"][-count:]).replace("'", "") for count in axes)
        raise InvalidValueError(
            f"{learner}.update: expected {inputs[0].name!r} of shape {wanted_axes}, not empty, came {list(lead)}"
        )
    return {wanted.name: _fitted(learner, wanted, arrays[wanted.name], lead, inputs[0].name) for wanted in inputs}


def actions_from_zero(learner: str, actions: Any, agent: Agent) -> NDArray[np.int64]:
    """A Discrete's actions counted from 0; XLA would take one that does not exist for the nearest that does."""
    space: Any = agent.action_space
    low, high = int(space.start), int(space.start + space.n) - 1
    given = np.asarray(actions)
    if given.min() < low or given.max() > high:
        raise InvalidValueError(
            f"{learner}.update: column 'action': expected numbers from {low} to {high}, "
            f"came {given.min()} to {given.max()}"
        )
    return given - low


def check_discount(learner: str, discount: Any, gamma: float, n_step: int) -> None:
    """Refuses discounts that are no gamma^k with k from 1 to n_step: the buffer's gamma or n is another one."""
    given = np.asarray(discount, np.float64)
    allowed = np.append(gamma ** np.arange(1, n_step + 1), 0.0)
    distance = np.abs(given[..., None] - allowed).min(axis=-1)
    if not (distance <= DISCOUNT_TOLERANCE).all():
        raise InvalidValueError(
            f"{learner}.update: column 'discount': expected 0 or gamma^k with gamma={gamma} and k from 1 to "
            f"n_step={n_step}, came {given.ravel()[distance.argmax()]:.6g}; "
            f"were the batches made with another gamma or n_step?"
        )


def _fitted(learner: str, wanted: Input, array: Any, lead: tuple[int, ...], first: str) -> Any:
    shape, expected = tuple(array.shape), (*lead, *wanted.shape)
    dtype = np.dtype(getattr(array.dtype, "as_numpy_dtype", array.dtype))
    if not np.can_cast(dtype, wanted.dtype, "same_kind"):
        raise InvalidTypeError(
            f"{learner}.update: column {wanted.name!r}: expected {wanted.dtype}, came {dtype}, which it cannot hold"
        )
    if shape != expected and (wanted.shape or shape != (*expected, 1)):
        raise InvalidValueError(
            f"{learner}.update: column {wanted.name!r}: expected shape {list(expected)}, "
            f"as {first!r} has {list(lead)}, came {list(shape)}"
        )
    array = array if shape == expected else tf.reshape(array, expected)
    return array if dtype == wanted.dtype else tf.cast(array, wanted.dtype)


def _array(column: Any) -> Any:
    """Tensors stay where they are, as they may be on a GPU; all else becomes NumPy."""
    return column if isinstance(column, tf.Tensor) else np.asarray(column)


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none"
