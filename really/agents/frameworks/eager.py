"""EagerNetwork: what an agent computes from a model that runs as Python, in NumPy, PyTorch or JAX."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really.agents.frameworks import array_math
from really.agents.frameworks.protocol import Q_VALUES, VALUES, Interface
from really.agents.recurrent import called
from really.data.schema import ColumnSpec
from really.data.spaces import flatten, nest
from really.policies.policy import VALUE_OUTPUTS


class Library(Protocol):
    """The arrays of a library.

    Attributes:
        xp: the module with its functions: `numpy`, `torch` or `jax.numpy`.
    """

    xp: Any

    def array(self, model: Any, value: Any, dtype: np.dtype[Any] | None) -> Any:
        """An array of this dtype, on the model's device; None keeps the dtype."""

    def numpy(self, value: Any) -> NDArray[Any]:
        """An array of the library in NumPy, without its gradient; half precision as float32."""

    def is_concrete(self, value: Any) -> bool:
        """Whether a value has numbers, and is none that the library traces."""

    def forward(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The model's outputs for an observation in the library's arrays, in evaluation mode."""

    def bound(self, model: Any, parameters: Any) -> Any:
        """The model with other parameters, as a function of an observation; raises ModelError if there is none."""

    def infer(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The model's outputs, NumPy, for an observation in NumPy, as runners compute them."""


def as_arrays(library: Library, outputs: Any) -> Any:
    """Outputs in NumPy; what is no dict as it is."""
    if not isinstance(outputs, Mapping):
        return outputs
    return {name: library.numpy(value) for name, value in outputs.items()}


class EagerNetwork:
    """A model that runs as Python, with what an agent computes from it.

    Attributes:
        model: the model.
    """

    def __init__(self, model: Any, interface: Interface, library: Library) -> None:
        self.model, self._called = model, called(model, interface.forms.recurrent)
        self._interface, self._library, self._xp = interface, library, library.xp
        self._array = functools.partial(library.array, model)

    @property
    def compiled(self) -> bool:
        """False, whatever is set: nothing is compiled here."""
        return False

    @compiled.setter
    def compiled(self, value: bool) -> None:
        pass

    def acting(self, state: Any, mask: Any) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None, int, bool]:
        """The outputs that the policy reads, NumPy; allowed actions; number of states; whether it was one state."""
        leaves, single = self._batch(state, lambda value, dtype: np.asarray(self._library.numpy(value), dtype))
        rows, allowed_actions = len(leaves[0]), None
        found = self._mask_of(np, leaves, self._checked_mask(mask, rows))
        if found is not None:
            allowed_actions = np.asarray(found, np.bool_)
        return self._arrays(leaves), allowed_actions, rows, single

    def max_q(self, state: Any, mask: Any) -> Any:
        """The largest q-value of each state, `[n]` float32."""
        self._interface.check_output("max_q", Q_VALUES)
        leaves, single = self._leaves(state)
        return self._result(self._max_q(leaves, self._checked_mask(mask, leaves[0].shape[0])), single)

    def q_val(self, state: Any, action: Any) -> Any:
        """The q-values of stored actions, `[n]` float32."""
        self._interface.check_output("q_val", Q_VALUES)
        leaves, single = self._leaves(state)
        actions = self._actions(action, leaves[0].shape[0])
        q_values = self._outputs(leaves, Q_VALUES)["q_values"]
        return self._result(array_math.of_actions(self._xp, q_values, actions[:, 0]), single)

    def v(self, state: Any, mask: Any) -> Any:
        """The value of each state, `[n]` float32."""
        self._interface.check_output("v", VALUES)
        (leaves, single), name = self._leaves(state), self._interface.value_name
        if name not in VALUE_OUTPUTS:
            return self._result(self._max_q(leaves, self._checked_mask(mask, leaves[0].shape[0])), single)
        return self._result(self._outputs(leaves, (name,))[name], single)

    def log_prob(self, state: Any, action: Any, mask: Any, entropy: bool) -> Any:
        """Log-probability of stored actions, `[n]` float32; with `entropy` a pair of it and the policy's entropy."""
        policy = self._interface.policy
        leaves, single = self._leaves(state)
        rows = leaves[0].shape[0]
        actions, found = self._actions(action, rows), self._mask_of(self._xp, leaves, self._checked_mask(mask, rows))
        outputs = self._outputs(leaves, policy.required_outputs)
        pair = array_math.of_policy(self._xp, policy, self._interface.action_space, outputs, actions, found)
        pair = self._result(pair[0], single), self._result(pair[1], single)
        return pair if entropy else pair[0]

    def outputs(self, state: Any, names: Sequence[str]) -> dict[str, Any]:
        """The outputs of these names, `[n, *shape]` float32, without checks of the state."""
        return self._outputs(self._leaves(state)[0], names)

    def q_values(self, state: Any, mask: Any) -> Any:
        """The q-values of all actions, `[n, actions]`; minus infinity for those that are not allowed."""
        leaves, _ = self._leaves(state)
        return self._masked_q_values(leaves, self._checked_mask(mask, leaves[0].shape[0]))

    def with_parameters(self, parameters: Any) -> EagerNetwork:
        """The network as a pure function of these parameters; raises ModelError for a plain callable."""
        return EagerNetwork(self._library.bound(self.model, parameters), self._interface, self._library)

    def forget(self) -> None:
        """Nothing is compiled here."""

    def _max_q(self, leaves: Sequence[Any], mask: Any) -> Any:
        return self._xp.amax(self._masked_q_values(leaves, mask), -1)

    def _masked_q_values(self, leaves: Sequence[Any], mask: Any) -> Any:
        q_values, found = self._outputs(leaves, Q_VALUES)["q_values"], self._mask_of(self._xp, leaves, mask)
        return q_values if found is None else self._xp.where(found, q_values, -math.inf)

    def _outputs(self, leaves: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
        """The model's outputs `[n, *shape]` in float32, also if it takes one state at a time."""
        forms = self._interface.forms
        if forms.one_by_one and leaves[0].shape[0] != 1:
            rows = [self._outputs([leaf[at : at + 1] for leaf in leaves], names) for at in range(leaves[0].shape[0])]
            return {name: self._xp.concatenate([row[name] for row in rows]) for name in names}
        outputs = self._library.forward(self._called, nest(self._interface.observation_space, leaves))
        found = {}
        for name in names:
            forms.check(name)
            shape = (forms.leading(name, leaves[0].shape[0]), *forms.shapes[name])
            found[name] = self._array(outputs[name], forms.dtype_of(name)).reshape(shape)
        return found

    def _arrays(self, leaves: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs that the policy reads as runners have them, NumPy."""
        interface, names = self._interface, self._interface.acting_outputs
        if interface.forms.one_by_one and len(leaves[0]) != 1:
            rows = [self._arrays([leaf[at : at + 1] for leaf in leaves]) for at in range(len(leaves[0]))]
            return {name: np.concatenate([row[name] for row in rows]) for name in names}
        outputs = self._library.infer(self._called, nest(interface.observation_space, leaves))
        return interface.forms.arrays(outputs, len(leaves[0]), names)

    def _leaves(self, state: Any) -> tuple[list[Any], bool]:
        """The leaves `[n, ...]` in the model's dtypes, and whether `state` was one observation."""
        return self._batch(state, self._array)

    def _batch(self, state: Any, array: Any) -> tuple[list[Any], bool]:
        specs = self._interface.leaves
        try:
            given = zip(flatten(self._interface.observation_space, state), specs.values(), strict=True)
            leaves = [_shaped(array(value, leaf.dtype), leaf) for value, leaf in given]
        except Exception as error:  # each library has errors of its own
            raise self._interface.no_state(state) from error
        single = leaves[0].ndim == len(next(iter(specs.values())).shape)
        leaves = [leaf[None] for leaf in leaves] if single else leaves
        for leaf, (name, spec) in zip(leaves, specs.items(), strict=True):
            if tuple(leaf.shape[1:]) != spec.shape:
                raise self._interface.no_shape(name, leaf.shape[single:])
        return leaves, single

    def _actions(self, action: Any, rows: int) -> Any:
        """Stored actions as `[n, parts]`: float32 for a Box, otherwise integers that count from 0."""
        interface, is_box = self._interface, isinstance(self._interface.action_space, spaces.Box)
        if interface.bounds is not None and self._library.is_concrete(action):
            interface.check_bounds(self._library.numpy(action))
        actions = self._array(action, np.dtype(np.float32) if is_box else np.dtype(np.int64))
        interface.check_actions(actions.shape, rows)
        actions = actions.reshape(rows, math.prod(interface.policy.action_shape))
        first = interface.first_action
        return actions if first is None else actions - self._array(first, None)

    def _checked_mask(self, mask: Any, rows: int) -> Any:
        """The given mask in NumPy, or None."""
        self._interface.check_mask(mask)
        if mask is None:
            return None
        if self._library.is_concrete(mask):
            mask = self._library.numpy(mask)
        self._interface.check_mask_shape(mask.shape, rows)
        return mask

    def _mask_of(self, xp: Any, leaves: Sequence[Any], mask: Any) -> Any:
        """The allowed actions `[n, width]`, from the states or from the given mask. Returns None if all are."""
        masks = self._interface.masks
        if masks is None or (masks.leaf is None and mask is None):
            return None
        values = leaves[masks.leaf] if masks.leaf is not None else mask if xp is np else self._array(mask, None)
        return array_math.allowed(xp, masks, values)

    def _result(self, values: Any, single: bool) -> Any:
        return values[0] if single else values


def _shaped(array: Any, leaf: ColumnSpec) -> Any:
    """One observation in the leaf's shape, if only axes of one number are missing."""
    if array.ndim >= len(leaf.shape):
        return array
    given, expected = ([size for size in shape if size != 1] for shape in (array.shape, leaf.shape))
    return array.reshape(leaf.shape) if given == expected else array
