"""The Protocols between agents and frameworks: `Framework` makes, calls and exports models, `Network` computes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really.agents.recurrent import called
from really.agents.verification import CALLS
from really.data.masks import ActionMasks
from really.data.schema import Spec, shape_text
from really.data.spaces import action_bounds, no_observation
from really.errors import InvalidTypeError, InvalidValueError, ModelError
from really.policies.inference import Build, Exported
from really.policies.model_inputs import model_leaves
from really.policies.outputs import OutputForms
from really.policies.policy import VALUE_OUTPUTS, Policy
from really.policies.recurrent import RECURRENT_STATE
from really.policies.states import State

Q_VALUES = ("q_values",)
VALUES = (*VALUE_OUTPUTS, "q_values")


@dataclass(frozen=True)
class Interface:
    """How an agent uses a model: the spaces of the environment, the policy, and the outputs that it reads.

    Attributes:
        observation_space, action_space: of the environment; a recurrent model takes a pair, of an observation and the
            leaves of its state, so that the space is a Tuple then.
        policy: samples actions from the outputs.
        output_names: names of the model's outputs.
        forms: how the outputs that are used become arrays with a batch axis.
        masks: how the environment tells which actions it allows; None if it does not.
    """

    observation_space: Any
    action_space: spaces.Space[Any]
    policy: Policy
    output_names: tuple[str, ...]
    forms: OutputForms
    masks: ActionMasks | None

    @functools.cached_property
    def leaves(self) -> Spec:
        """The arrays that the model takes, in its dtypes: those of an observation, and of a recurrent state."""
        layout = self.forms.recurrent
        if layout is None:
            return model_leaves(self.observation_space)
        return model_leaves(self.observation_space[0]) | layout.columns

    def title(self, leaf: str) -> str:
        """How an error calls a leaf."""
        return leaf if leaf.startswith(RECURRENT_STATE) else f"state{leaf}"

    def no_state(self, state: Any) -> InvalidTypeError:
        """The error for a state that a library does not take; of a recurrent model's pair it is the observation."""
        if self.forms.recurrent is None:
            return no_observation(self.observation_space, state)
        return no_observation(self.observation_space[0], state[0])

    @property
    def acting_outputs(self) -> tuple[str, ...]:
        """The outputs that acting needs: those that the policy reads, and the recurrent state."""
        layout = self.forms.recurrent
        return (*self.policy.required_outputs, *(layout.names if layout else ()))

    @functools.cached_property
    def bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """The least and the largest action of a discrete space."""
        return action_bounds(self.action_space)

    @property
    def first_action(self) -> NDArray[np.int64] | None:
        """The stored action that is number 0 for the model; None for a space whose actions count from 0."""
        start = getattr(self.action_space, "start", None)
        return None if start is None else np.ravel(start).astype(np.int64)

    @property
    def mask_width(self) -> int:
        """Number of actions that a mask tells about; 0 without masks."""
        return self.masks.width if self.masks else 0

    @property
    def value_name(self) -> str:
        """The output that gives values of states: a value output, or else the q-values."""
        return next(name for name in VALUES if name in self.output_names)

    def check_output(self, method: str, names: Sequence[str]) -> None:
        """Raises ModelError unless the model has one of these outputs, of which the first that it has is used."""
        found = next((name for name in names if name in self.output_names), None)
        if names and found is None:
            raise ModelError(
                f"agent.{method}: expected a model with output {' or '.join(map(repr, names))}, "
                f"got one with {', '.join(map(repr, self.output_names))}"
            )
        if found is not None and found in self.forms.refused:
            raise ModelError(f"agent.{method}: {self.forms.refused[found]}")

    def check_actions(self, shape: Sequence[int], rows: int) -> None:
        """Raises InvalidValueError unless actions of this shape are one for each of `rows` states."""
        one = self.policy.action_shape
        if math.prod(shape) != rows * math.prod(one):
            expected = f"{shape_text(one, 'n')} with n = {rows} states"
            raise InvalidValueError(f"action: expected {expected}, got {shape_text(shape)}")

    def check_bounds(self, actions: NDArray[Any]) -> None:
        """Raises InvalidValueError if one of these actions is none of a discrete action space."""
        if self.bounds is None:
            return
        low, high = self.bounds
        actions = actions.reshape(-1, *low.shape)
        valid = (actions >= low) & (actions <= high) & (actions == np.floor(actions))
        if not valid.all():
            raise InvalidValueError(
                f"action: expected whole numbers from {low.tolist()} to {high.tolist()}, got {actions[~valid][0]}"
            )

    def check_mask(self, mask: Any) -> None:
        """Raises InvalidValueError for a mask of actions if the environment gives none beside its states."""
        if mask is not None and (self.masks is None or self.masks.leaf is not None):
            raise InvalidValueError(
                f"action_mask: expected none, as {'the states have masks' if self.masks else 'no actions are masked'}, "
                f"got {type(mask).__name__}"
            )

    def no_shape(self, name: str, shape: Sequence[int | None]) -> InvalidValueError:
        """The error for one observation, or several, of which this leaf has another shape."""
        one = self.leaves[name].shape
        expected = f"{shape_text(one)} or {shape_text(one, 'n')}"
        return InvalidValueError(f"{self.title(name)}: expected shape {expected}, got {shape_text(shape)}")

    def check_mask_shape(self, shape: Sequence[int], rows: int) -> None:
        """Raises InvalidValueError unless masks of this shape are one for each of `rows` states."""
        width = self.mask_width
        if math.prod(shape) != rows * width:
            expected = f"{shape_text([width], 'n')} with n = {rows} states"
            raise InvalidValueError(f"action_mask: expected {expected}, got {shape_text(shape)}")


class ChoosesDevice:
    """What a framework inherits that places the weights of a model itself.

    Attributes:
        models: its models, in messages.
        chooses: how it chooses a device, in messages.
    """

    models: str
    chooses: str

    def placed(self, model: Any, device: Any) -> Any:
        """Raises InvalidValueError: the framework has chosen."""
        raise InvalidValueError(f"device: expected none for {self.models}: {self.chooses}, got {device!r}")

    def beside(self, model: Any, other: Any) -> Any:
        """The model where the framework has put it."""
        return model


class Network(Protocol):
    """A model with what an agent computes from it, in the framework's own tensors.

    States are one observation or `[n, ...]`, in the structure of the observation space; one gives results without the
    batch axis. The methods are those of `Agent`.

    Attributes:
        model: the model.
        compiled: whether methods are compiled; False for a model that must run as Python.
    """

    model: Any
    compiled: bool

    def acting(self, state: Any, mask: Any) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None, int, bool]:
        """The outputs that the policy reads, NumPy; allowed actions; number of states; whether it was one state."""

    def max_q(self, state: Any, mask: Any) -> Any:
        """The largest q-value of each state, `[n]` float32."""

    def q_val(self, state: Any, action: Any) -> Any:
        """The q-values of stored actions, `[n]` float32."""

    def v(self, state: Any, mask: Any) -> Any:
        """The value of each state, `[n]` float32."""

    def log_prob(self, state: Any, action: Any, mask: Any, entropy: bool) -> Any:
        """Log-probability of stored actions, `[n]` float32; with `entropy` a pair of it and the policy's entropy."""

    def outputs(self, state: Any, names: Sequence[str]) -> dict[str, Any]:
        """The outputs of these names, `[n, *shape]` float32, without checks."""

    def q_values(self, state: Any, mask: Any) -> Any:
        """The q-values of all actions, `[n, actions]`; minus infinity for those that are not allowed."""

    def with_parameters(self, parameters: Any) -> Network:
        """The network as a pure function of these parameters; raises ModelError if the framework has no such form."""

    def forget(self) -> None:
        """Drops what was compiled for parts of the model that were replaced."""


@dataclass(frozen=True)
class ExportRequest:
    """What runners need of a model.

    Attributes:
        observation_space: forms are verified with random elements of it.
        batch_size: number of states with which forms are timed.
        build: builds the model in a runner; picklable.
        repeatable: True takes the first form that agrees; the fastest may differ from run to run.
        forms: how the model's outputs become arrays with a batch axis; None for outputs as the model gives them.
        names: with `forms`, the outputs that runners read.
        calls: how many calls of a runner have the same weights, at the least.
    """

    observation_space: spaces.Space[Any]
    batch_size: int
    build: Build
    repeatable: bool = False
    forms: OutputForms | None = None
    names: Sequence[str] = ()
    calls: int = CALLS

    def called(self, model: Any) -> Any:
        """The model as a function of one argument, which is a pair for a recurrent one."""
        return called(model, None if self.forms is None else self.forms.recurrent)

    def as_python(self, kind: str, state: State, report: str) -> Exported:
        """The model as each runner builds it and calls it as Python."""
        return Exported(
            kind,
            b"",
            model_leaves(self.observation_space),
            tuple(sorted(self.names)),
            tuple(tuple(each.shape) for each in state.variables),
            build=self.build,
            observation_space=self.observation_space,
            forms=self.forms,
            report={kind: report},
        )


class Framework(Protocol):
    """What agents and runners need of a framework.

    Attributes:
        name: `tensorflow`, `torch`, `jax`, `keras_torch`, `keras_jax` or `callable`.
    """

    name: str

    def building(self) -> AbstractContextManager[None]:
        """The context in which a model is called while it is built."""

    def call(self, model: Any, observation: Any) -> Any:
        """What the model returns for an observation in NumPy, `[n, ...]` a leaf; outputs are in the form of NumPy."""

    def first_call(self, model: Any, observation: Any) -> Any:
        """As `call`, and creates weights that a model makes at its first call."""

    def acting(self, model: Any) -> Callable[[Any], Mapping[str, Any]]:
        """The model as runners call it: a function of an observation in NumPy."""

    def prepare_runner(self) -> None:
        """Makes the framework use one thread, in a process of a runner."""

    def settings(self) -> dict[str, Any]:
        """What this process has set that decides the dtypes of a model, to be sent with it."""

    def use(self, settings: Mapping[str, Any]) -> None:
        """Makes settings of another process those of this one."""

    def copy(self, model: Any) -> Any:
        """A copy of a model with the same weights, which shares none of them; raises ModelError if there is none."""

    def placed(self, model: Any, device: Any) -> Any:
        """The model with its weights on a device; raises InvalidValueError if it cannot be there."""

    def beside(self, model: Any, other: Any) -> Any:
        """The model with its weights on the device of another one of its kind."""

    def pickled(self, model: Any) -> bytes:
        """The model as a pickle for a runner's process; raises ModelError if there is none."""

    def network(self, model: Any, interface: Interface) -> Network:
        """What an agent computes from the model."""

    def export(self, model: Any, request: ExportRequest) -> Exported:
        """The model in the form in which runners act fastest; raises ModelError if runners cannot have it."""
