"""TensorFlowNetwork: a model of TensorFlow with compiled, differentiable functions of its outputs."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils.keras_versions import is_layer
from really.agents.frameworks.protocol import Q_VALUES, VALUES, Interface
from really.agents.recurrent import called
from really.agents.tensorflow.arguments import action_tensor, mask_tensors, typed_tensor
from really.agents.tensorflow.compiled import Compiled, remember, signature
from really.agents.tensorflow.log_probs import of_actions, of_policy
from really.agents.tensorflow.outputs import allowed, outputs_of
from really.agents.tensorflow.switches import undecorated
from really.data.spaces import flatten, nest
from really.errors import ModelError
from really.policies.model_state import ModelState, PartsWatch
from really.policies.policy import VALUE_OUTPUTS


class TensorFlowNetwork:
    """A model of TensorFlow, or any callable that takes tensors, with what an agent computes from it.

    All methods but `acting` return tensors, are compiled with `tf.function`, and pass gradients.

    Attributes:
        model: the model.
        compiled: False for a model that must run as Python in each call. It becomes False if compiling fails.
        functions: what is compiled, by the method and the number of its tensors.
    """

    def __init__(self, model: Any, interface: Interface) -> None:
        self.model, self._interface = model, interface
        self.compiled = is_layer(model) and not interface.forms.one_by_one
        self.functions: dict[tuple[Callable[..., Any], int], Compiled] = {}
        # Compiled functions by method and signature, for calls that have passed all checks before.
        self._traces: dict[Any, Callable[..., Any]] = {}
        self._watch = PartsWatch(model)
        self._settings_of: tuple[float, float] | None = None
        self._tensors: tuple[tf.Tensor, tf.Tensor]

    def acting(self, state: Any, mask: Any) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None, int, bool]:
        """The outputs that the policy reads, NumPy; allowed actions; number of states; whether it was one state."""
        self._forget_replaced()
        leaves, single = self._batch(state)
        outputs = {name: np.asarray(out) for name, out in self._run(TensorFlowNetwork._acting, leaves).items()}
        allowed_actions = self._mask(leaves, *self._masks(mask, leaves))
        return (
            outputs,
            None if allowed_actions is None else np.asarray(allowed_actions),
            int(leaves[0].shape[0]),
            single,
        )

    def max_q(self, state: Any, mask: Any) -> tf.Tensor:
        """The largest q-value of each state, [n] float32."""
        return self._result(TensorFlowNetwork._max_q, Q_VALUES, state, mask=mask)

    def q_val(self, state: Any, action: Any) -> tf.Tensor:
        """The q-values of stored actions, [n] float32."""
        return self._result(TensorFlowNetwork._q_val, Q_VALUES, state, action)

    def v(self, state: Any, mask: Any) -> tf.Tensor:
        """The value of each state, [n] float32."""
        return self._result(TensorFlowNetwork._v, VALUES, state, mask=mask)

    def log_prob(self, state: Any, action: Any, mask: Any, entropy: bool) -> Any:
        """Log-probability of stored actions, [n] float32; with `entropy` a pair of it and the policy's entropy."""
        function = TensorFlowNetwork._log_prob_and_entropy if entropy else TensorFlowNetwork._log_prob
        return self._result(function, (), state, action, mask=mask, settings=self._settings())

    def outputs(self, state: Any, names: Sequence[str]) -> dict[str, tf.Tensor]:
        """The outputs of these names, float32 `[n, *shape]`; it checks and compiles nothing."""
        return self._outputs(flatten(self._interface.observation_space, state), names)

    def q_values(self, state: Any, mask: Any) -> tf.Tensor:
        """The q-values of all actions, [n, actions] float32; minus infinity for those that are not allowed."""
        q_values = self.outputs(state, Q_VALUES)["q_values"]
        masks = () if mask is None else (tf.convert_to_tensor(mask),)
        found = self._mask(flatten(self._interface.observation_space, state), *masks)
        return q_values if found is None else tf.where(found, q_values, -math.inf)

    def with_parameters(self, parameters: Any) -> TensorFlowNetwork:
        """Raises ModelError: variables of TensorFlow are objects, of which a GradientTape knows the gradients."""
        raise ModelError("agent.with_parameters: expected a model of JAX or PyTorch, got one of TensorFlow")

    def forget(self) -> None:
        """Drops what was compiled for parts of the model that were replaced."""
        self.functions.clear()
        self._traces.clear()
        self._watch = PartsWatch(self.model)

    def _forget_replaced(self) -> None:
        """Drops what was compiled if a part of the model was replaced since then."""
        if not self._watch.is_current():
            self.forget()

    # Functions that are compiled: from leaves [n, ...] to results [n]

    def _outputs(self, leaves: list[tf.Tensor], names: Sequence[str], double: bool = False) -> dict[str, tf.Tensor]:
        return outputs_of(self._call, self._interface.forms, leaves, names, double)

    def _call(self, leaves: Sequence[tf.Tensor]) -> Any:
        """The model's outputs as they are. A graph reads the state of adapted layers in each of its runs."""
        finalized = ModelState(self.model).finalized() if tf.is_symbolic_tensor(leaves[0]) else contextlib.nullcontext()
        with finalized:
            return called(self.model, self._interface.forms.recurrent)(nest(self._interface.observation_space, leaves))

    def _acting(self, leaves: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._outputs(leaves, self._interface.acting_outputs, double=True)

    def _max_q(self, leaves: list[tf.Tensor], *masks: tf.Tensor) -> tf.Tensor:
        q_values, mask = self._outputs(leaves, Q_VALUES)["q_values"], self._mask(leaves, *masks)
        return tf.reduce_max(q_values if mask is None else tf.where(mask, q_values, -math.inf), axis=-1)

    def _q_val(self, leaves: list[tf.Tensor], action: tf.Tensor) -> tf.Tensor:
        return of_actions(self._outputs(leaves, Q_VALUES)["q_values"], self._parts(action)[:, 0])

    def _v(self, leaves: list[tf.Tensor], *masks: tf.Tensor) -> tf.Tensor:
        name = self._interface.value_name
        return self._outputs(leaves, (name,))[name] if name in VALUE_OUTPUTS else self._max_q(leaves, *masks)

    def _log_prob(self, leaves: list[tf.Tensor], *tensors: tf.Tensor) -> tf.Tensor:
        return self._log_prob_and_entropy(leaves, *tensors)[0]

    def _log_prob_and_entropy(
        self,
        leaves: list[tf.Tensor],
        action: tf.Tensor,
        epsilon: tf.Tensor,
        temperature: tf.Tensor,
        *masks: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        outputs, actions = self._outputs(leaves, self._interface.policy.required_outputs), self._parts(action)
        mask = self._mask(leaves, *masks)
        return of_policy(
            self._interface.policy, self._interface.action_space, outputs, actions, epsilon, temperature, mask
        )

    def _mask(self, leaves: Sequence[tf.Tensor], *masks: tf.Tensor) -> tf.Tensor | None:
        """The allowed actions [n, width], from the states or from one tensor of masks. Returns None if all are."""
        if self._interface.masks is None:
            return None
        given = masks if self._interface.masks.leaf is None else (leaves[self._interface.masks.leaf],)
        return allowed(self._interface.masks, given[0]) if given else None

    def _parts(self, action: tf.Tensor) -> tf.Tensor:
        """Stored actions as [n, parts]: float32 for a Box, otherwise int64 that counts from 0."""
        dtype = tf.float32 if isinstance(self._interface.action_space, spaces.Box) else tf.int64
        actions = tf.reshape(tf.cast(action, dtype), [-1, math.prod(self._interface.policy.action_shape)])
        first = self._interface.first_action
        return actions if first is None else actions - first

    # From the user's arguments to the tensors of the compiled functions. An operation inside a compiled function costs
    # hardly anything; here, each costs as much as a small layer.

    def _result(
        self,
        function: Callable[..., Any],
        needed: tuple[str, ...],
        state: Any,
        *actions: Any,
        mask: Any = None,
        settings: tuple[tf.Tensor, ...] = (),
    ) -> Any:
        self._forget_replaced()
        masks = () if mask is None else (mask,)
        key = signature((state, *actions, *masks))
        trace = None if key is None else self._traces.get((function, key))
        if trace is not None and self.compiled:
            return trace(state, *actions, *settings, *masks)
        self._interface.check_output(function.__name__[1:], needed)
        leaves, single = self._batch(state)
        masks = self._masks(mask, leaves)
        tensors = *(self._actions(action, leaves) for action in actions), *settings, *masks
        result = self._run(function, leaves, *tensors)
        # Later calls skip the checks. For discrete actions only integers may: TensorFlow itself refuses invalid ones.
        unchecked = self._interface.bounds is None or all(action.dtype.is_integer for action in tensors[: len(actions)])
        if (
            key is not None
            and self.compiled
            and unchecked
            and leaves[0] is state
            and masks == (() if mask is None else (mask,))
        ):
            remember(self._traces, (function, key), self.functions[function, len(tensors)].trace((*leaves, *tensors)))
        if not single:
            return result
        return result[0] if isinstance(result, tf.Tensor) else tuple(part[0] for part in result)

    def _run(self, function: Callable[..., Any], leaves: list[tf.Tensor], *tensors: tf.Tensor) -> Any:
        if not self.compiled:
            return function(self, leaves, *tensors)
        # A call with a mask has one tensor more, and a `tf.function` of its own.
        key = function, len(tensors)
        if key in self.functions:
            return self.functions[key](*leaves, *tensors)
        bound = functools.update_wrapper(functools.partial(function, self), function)
        # A decorated `call` that was traced while its weights were created holds their first values. So its Python is
        # traced anew first. A `call` that needs AutoGraph fails then, and is traced with its decorator.
        for context in (undecorated, contextlib.nullcontext):
            compiled = Compiled(bound, len(leaves), context)
            with contextlib.suppress(Exception):
                result = compiled(*leaves, *tensors)
                self.functions[key] = compiled
                return result
        # The model may still work as Python. If not, the error that it raises there is the one to show.
        result = function(self, leaves, *tensors)
        self.compiled = False
        return result

    def _batch(self, state: Any) -> tuple[list[tf.Tensor], bool]:
        """Returns the leaves [n, ...] in the model's dtypes, and whether `state` was one observation."""
        leaves = self._interface.leaves
        try:
            given = zip(flatten(self._interface.observation_space, state), leaves.values(), strict=True)
            tensors = [typed_tensor(value, leaf) for value, leaf in given]
        except Exception as error:  # TensorFlow has errors of several kinds for it
            raise self._interface.no_state(state) from error
        single = tensors[0].shape.rank == len(next(iter(leaves.values())).shape)
        tensors = [tensor[tf.newaxis] for tensor in tensors] if single else tensors
        for tensor, (name, leaf) in zip(tensors, leaves.items(), strict=True):
            if not tensor.shape[1:].is_compatible_with(leaf.shape):
                raise self._interface.no_shape(name, tensor.shape[single:].as_list())
        return tensors, single

    def _masks(self, mask: Any, leaves: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """Masks of actions as a tuple of one tensor, which is empty if there are none."""
        return mask_tensors(self._interface, mask, leaves[0].shape[0])

    def _actions(self, action: Any, leaves: list[tf.Tensor]) -> tf.Tensor:
        """The actions as a tensor, after a check that there is one for each state."""
        return action_tensor(self._interface, action, leaves[0].shape[0])

    def _settings(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Epsilon and temperature as tensors. They are made again only if one of them has changed."""
        now = self._interface.policy.epsilon, self._interface.policy.temperature
        if self._settings_of != now:
            with tf.init_scope():  # outside of a graph that is being traced
                self._settings_of, self._tensors = now, (tf.constant(now[0]), tf.constant(now[1]))
        return self._tensors
