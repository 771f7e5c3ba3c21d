"""Agent: the model on the driver, with compiled and differentiable TensorFlow methods; it acts as the runners do."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils.keras_versions import is_layer
from really._utils.published import PublishedAgent
from really.agents.arguments import action_tensor, mask_tensors, typed_tensor
from really.agents.compiled import Compiled, remember, signature
from really.agents.copying import copy_model
from really.agents.log_probs import of_actions, of_policy
from really.agents.models import example_outputs, set_model_weights, undecorated
from really.agents.outputs import allowed, outputs_of
from really.data.masks import ActionMasks
from really.data.normalisation import Normalisation
from really.data.spaces import action_bounds, flatten, nest, observation_leaves
from really.errors import InvalidValueError, ModelError
from really.policies.model_inputs import model_leaves
from really.policies.model_state import ModelState, shared_variables
from really.policies.outputs import OutputForms
from really.policies.policy import VALUE_OUTPUTS, check_finite, infer_sampling_type, make_policy

log = logging.getLogger("really")

_Q_VALUES = ("q_values",)
_VALUES = (*VALUE_OUTPUTS, "q_values")


class Agent(PublishedAgent):
    """A model with methods to act and to learn.

    A state is one observation or a batch [n, ...] of observations, in the structure of the observation space, as arrays
    or tensors. One observation gives results without the batch axis. All methods but `act` return tensors, are
    compiled with `tf.function`, and pass gradients.

    If the manager normalises observations, `act` takes states as the environments show them. All other methods take
    states as the manager delivers them, which is normalised; `normalize` turns the former into the latter.

    Attributes:
        model: the Keras model; its variables are the agent's weights.
        policy: the policy that samples actions, with `epsilon` and `temperature`.
        output_names: names of the model's outputs.
        forms: how the outputs that are used become arrays with a batch axis.
        rng: the generator from which `act` draws.
        epoch: the epoch with which a loaded model was saved.
        greedy: True makes every `act` take the best action.
        normalization: the normalisation of observations, frozen with the last weights that the manager was given; None
            if observations are not normalised. A copy keeps the one with which it was made.
        masks: how the environment tells which actions it allows; None if it does not. Masks that are a part of the
            states restrict every method. Masks that come with `info` are given as `action_mask`, `[n, width]`, the
            column `action_mask` or `action_mask_new` of data.
        architecture: None for a model as it was made; another object each time that a part of the model was replaced.
        compiled: False for a model that must run as Python in each call. It becomes False if compiling fails. Set it to
            False if compiling would go wrong unnoticed, for example if outputs depend on side effects.
    """

    def __init__(
        self,
        model: Any,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        sampling_type: str | None = None,
        *,
        epsilon: float = 0.95,
        temperature: float = 1.0,
        rng: np.random.Generator | None = None,
        epoch: int = 0,
        make_model: Callable[[], Any] | None = None,
        normalization: Normalisation | None = None,
        masks: ActionMasks | None = None,
    ) -> None:
        self.model, self.epoch, self.normalization = model, epoch, normalization
        self.greedy, self.masks = False, masks
        self._has_warned = False
        self.observation_space, self.action_space = observation_space, action_space
        self._make_model = make_model
        self._leaves = model_leaves(observation_space)
        self._bounds = action_bounds(action_space)
        self.rng = np.random.default_rng() if rng is None else rng
        one, two = example_outputs(model, observation_space)
        self.output_names = tuple(sorted(map(str, one)))
        sampling_type = sampling_type or infer_sampling_type(self.output_names)
        self.policy = make_policy(sampling_type, action_space, epsilon, temperature, masks is not None)
        self.forms = OutputForms.of(self.policy, one, two)
        self.policy.check_values(self.forms.arrays(one, 1, self.policy.required_outputs))
        self.compiled = is_layer(model) and not self.forms.one_by_one
        self.architecture: object | None = None
        self._known = ModelState(model)
        self._functions: dict[tuple[Callable[..., Any], int], Compiled] = {}
        # Compiled functions by method and signature, for calls that have passed all checks before.
        self._traces: dict[Any, Callable[..., Any]] = {}
        self._settings_of: tuple[float, float] | None = None
        self._tensors: tuple[tf.Tensor, tf.Tensor]

    def __iter__(self) -> Iterator[Any]:
        """`agent, epoch = manager.load_model(path)`."""
        return iter((self, self.epoch))

    def act(self, state: Any, greedy: bool = False, normalized: bool = False, action_mask: Any = None) -> NDArray[Any]:
        """Actions as runners sample and store them (not clipped to a Box), NumPy, [n, *action_shape].

        Args:
            state: as the environment shows it; this method normalises it if necessary.
            greedy: take the best action instead of sampling one.
            normalized: True for a `state` from data that the manager delivered; it is not normalised again.
            action_mask: which actions are allowed, `[n, width]`, if masks come with `info`.
        """
        self._expect_mask("act", action_mask)
        leaves, single = self._batch(state if normalized else self.normalize(state))
        outputs = {name: np.asarray(out) for name, out in self._run(Agent._acting, leaves).items()}
        check_finite(outputs, self.policy.required_outputs)
        if (mask := self._mask(leaves, *mask_tensors(self.masks, action_mask, leaves[0].shape[0]))) is not None:
            outputs = dict(self.policy.masked(outputs, np.asarray(mask)))
        if greedy or self.greedy:
            actions = self.policy.greedy(outputs)
        else:
            actions = self.policy.sample(outputs, self.policy.noise(self.rng, int(leaves[0].shape[0])))
        return actions[0] if single else actions

    def normalize(self, state: Any) -> Any:
        """Turns states as the environment shows them into states as the manager delivers them, NumPy.

        Returns `state` itself if the manager does not normalise observations.
        """
        if self.normalization is None:
            return state
        given = zip(
            flatten(self.observation_space, state), observation_leaves(self.observation_space).values(), strict=True
        )
        return nest(
            self.observation_space,
            self.normalization.observations([np.asarray(value, leaf.dtype) for value, leaf in given]),
        )

    def max_q(self, state: Any, action_mask: Any = None) -> tf.Tensor:
        """The largest q-value of each state, among the allowed actions, [n] float32."""
        self._expect_mask("max_q", action_mask)
        return self._result(Agent._max_q, _Q_VALUES, state, mask=action_mask)

    def q_val(self, state: Any, action: Any) -> tf.Tensor:
        """The q-values of `action`, [n] float32.

        `action` is [n] or [n, 1] as it is stored (a Discrete space's `start` included). Actions outside of the action
        space raise InvalidValueError, except while a `tf.function` is traced and tensors have no values yet.
        """
        return self._result(Agent._q_val, _Q_VALUES, state, action)

    def v(self, state: Any, action_mask: Any = None) -> tf.Tensor:
        """The value of each state, [n] float32: the model's value output, or else the largest q-value."""
        return self._result(Agent._v, _VALUES, state, mask=action_mask)

    def flowing_log_prob(self, state: Any, action: Any, return_entropy: bool = False, action_mask: Any = None) -> Any:
        """Log-probability of stored actions, [n] float32, with gradients to the model's weights.

        With `return_entropy` it returns a pair: the log-probability and the policy's entropy, [n] float32. Under
        `epsilon_greedy` both are constant in the weights nearly everywhere: their gradient is zero. A `tf.function` of
        yours keeps the epsilon and temperature with which it was traced.
        """
        if self.policy.sampling_type == "thompson" and not self.policy.temperature:
            raise InvalidValueError("agent.flowing_log_prob: expected a temperature > 0, got 0, which is greedy")
        self._expect_mask("flowing_log_prob", action_mask)
        function = Agent._log_prob_and_entropy if return_entropy else Agent._log_prob
        return self._result(function, (), state, action, mask=action_mask, settings=self._settings())

    def outputs(self, state: Any, *names: str) -> dict[str, tf.Tensor]:
        """The model's outputs of these names for states `[n, ...]` in the model's dtypes, float32 `[n, *shape]`.

        It checks and compiles nothing: learners call it within functions that are compiled.

        Raises:
            ModelError: the model has no such output, or it is no array with a row for each state.
        """
        for name in names:
            self._check_outputs("outputs", (name,))
        return self._outputs(flatten(self.observation_space, state), names)

    def q_values(self, state: Any, action_mask: Any = None) -> tf.Tensor:
        """The q-values of all actions, [n, actions] float32; minus infinity for those that are not allowed.

        It checks and compiles nothing, as `outputs`. A state without an allowed action is not restricted.
        """
        q_values = self.outputs(state, "q_values")["q_values"]
        masks = () if action_mask is None else (tf.convert_to_tensor(action_mask),)
        mask = self._mask(flatten(self.observation_space, state), *masks)
        return q_values if mask is None else tf.where(mask, q_values, -math.inf)

    def copy(self) -> Agent:
        """An agent with a model of its own and the same weights, for example as a target network.

        Raises:
            ModelError: the agent has no `make_model`, and Keras cannot copy the model.
        """
        model = _another_model(self.model, self._state(), self._make_model if self.architecture is None else None)
        set_model_weights(model, self.get_weights())
        policy, rng = self.policy, self.rng.spawn(1)[0]
        agent = Agent(
            model,
            self.observation_space,
            self.action_space,
            policy.sampling_type,
            epsilon=policy.epsilon,
            temperature=policy.temperature,
            rng=rng,
            epoch=self.epoch,
            make_model=self._make_model,
            normalization=self.normalization,
            masks=self.masks,
        )
        agent.architecture, agent.compiled = self.architecture, agent.compiled and self.compiled
        return agent

    def __deepcopy__(self, memo: dict[int, Any]) -> Agent:
        return self.copy()

    def get_weights(self) -> Any:
        """Copies of the model's weights: the list that `model.get_weights()` gives.

        Variables that Keras does not count as weights follow it, such as a `tf.Variable` that is an attribute. What an
        object with `get_weights` of its own gives is given as it is.
        """
        return self._state().get()

    def set_weights(self, weights: Any) -> None:
        """Sets the model's weights, as `get_weights` or `model.get_weights()` gives them.

        Raises:
            ModelError: the number of arrays or a shape is not the model's; nothing is changed then.
        """
        self._state().set(weights)

    @property
    def variables(self) -> list[Any]:
        """The variables of a Keras model in the order of `get_weights`."""
        return self._state().variables

    @property
    def trainable_variables(self) -> list[Any]:
        """The variables to train: `model.trainable_variables`, and those that Keras does not count."""
        return self._state().trainable

    def _state(self) -> ModelState:
        """The state of the model. If a part of the model was replaced, what was compiled for it is dropped."""
        state = ModelState(self.model)
        if not state.has_parts_of(self._known):
            self._known, self.architecture = state, object()
            self._functions.clear()
            self._traces.clear()
        return state

    # Functions that are compiled: from leaves [n, ...] to results [n]

    def _outputs(self, leaves: list[tf.Tensor], names: Sequence[str], double: bool = False) -> dict[str, tf.Tensor]:
        return outputs_of(self._call, self.forms, leaves, names, double)

    def _call(self, leaves: Sequence[tf.Tensor]) -> Any:
        """The model's outputs as they are. A graph reads the state of adapted layers in each of its runs."""
        finalized = ModelState(self.model).finalized() if tf.is_symbolic_tensor(leaves[0]) else contextlib.nullcontext()
        with finalized:
            return self.model(nest(self.observation_space, leaves))

    def _acting(self, leaves: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._outputs(leaves, self.policy.required_outputs, double=True)

    def _max_q(self, leaves: list[tf.Tensor], *masks: tf.Tensor) -> tf.Tensor:
        q_values, mask = self._outputs(leaves, _Q_VALUES)["q_values"], self._mask(leaves, *masks)
        return tf.reduce_max(q_values if mask is None else tf.where(mask, q_values, -math.inf), axis=-1)

    def _q_val(self, leaves: list[tf.Tensor], action: tf.Tensor) -> tf.Tensor:
        return of_actions(self._outputs(leaves, _Q_VALUES)["q_values"], self._parts(action)[:, 0])

    def _v(self, leaves: list[tf.Tensor], *masks: tf.Tensor) -> tf.Tensor:
        name = next(name for name in _VALUES if name in self.output_names)
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
        outputs, actions = self._outputs(leaves, self.policy.required_outputs), self._parts(action)
        mask = self._mask(leaves, *masks)
        return of_policy(self.policy, self.action_space, outputs, actions, epsilon, temperature, mask)

    def _mask(self, leaves: Sequence[tf.Tensor], *masks: tf.Tensor) -> tf.Tensor | None:
        """The allowed actions [n, width], from the states or from one tensor of masks. Returns None if all are."""
        if self.masks is None:
            return None
        given = masks if self.masks.leaf is None else (leaves[self.masks.leaf],)
        return allowed(self.masks, given[0]) if given else None

    def _parts(self, action: tf.Tensor) -> tf.Tensor:
        """Stored actions as [n, parts]: float32 for a Box, otherwise int64 that counts from 0."""
        dtype = tf.float32 if isinstance(self.action_space, spaces.Box) else tf.int64
        actions = tf.reshape(tf.cast(action, dtype), [-1, math.prod(self.policy.action_shape)])
        start = getattr(self.action_space, "start", None)
        return actions if start is None else actions - np.ravel(start).astype(np.int64)

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
        masks = () if mask is None else (mask,)
        key = signature((state, *actions, *masks))
        trace = None if key is None else self._traces.get((function, key))
        if trace is not None and self.compiled:
            return trace(state, *actions, *settings, *masks)
        self._check_outputs(function.__name__[1:], needed)
        leaves, single = self._batch(state)
        masks = mask_tensors(self.masks, mask, leaves[0].shape[0])
        tensors = *(self._actions(action, leaves) for action in actions), *settings, *masks
        result = self._run(function, leaves, *tensors)
        # Later calls skip the checks. For discrete actions only integers may: TensorFlow itself refuses invalid ones.
        unchecked = self._bounds is None or all(action.dtype.is_integer for action in tensors[: len(actions)])
        if (
            key is not None
            and self.compiled
            and unchecked
            and leaves[0] is state
            and masks == (() if mask is None else (mask,))
        ):
            remember(self._traces, (function, key), self._functions[function, len(tensors)].trace((*leaves, *tensors)))
        if not single:
            return result
        return result[0] if isinstance(result, tf.Tensor) else tuple(part[0] for part in result)

    def _run(self, function: Callable[..., Any], leaves: list[tf.Tensor], *tensors: tf.Tensor) -> Any:
        if not self.compiled:
            return function(self, leaves, *tensors)
        # A call with a mask has one tensor more, and a `tf.function` of its own.
        key = function, len(tensors)
        if key in self._functions:
            return self._functions[key](*leaves, *tensors)
        # What is compiled lives as long as the model, not as the name of the agent.
        of_body = functools.update_wrapper(functools.partial(function, self._body), function)
        # A decorated `call` that was traced while its weights were created holds their first values. So its Python is
        # traced anew first. A `call` that needs AutoGraph fails then, and is traced with its decorator.
        for context in (undecorated, contextlib.nullcontext):
            compiled = Compiled(of_body, len(leaves), context)
            with contextlib.suppress(Exception):
                result = compiled(*leaves, *tensors)
                self._functions[key] = compiled
                return result
        # The model may still work as Python. If not, the error that it raises there is the one to show.
        result = function(self, leaves, *tensors)
        self.compiled = False
        return result

    def _expect_mask(self, method: str, mask: Any) -> None:
        """Warns once if masks come with `info`, and the caller gives none."""
        if mask is None and self.masks is not None and self.masks.leaf is None and not self._has_warned:
            self._has_warned = True
            log.warning(
                "agent.%s: expected action_mask=, the column 'action_mask' or 'action_mask_new', as the environment "
                "masks actions; got none, so that all actions count as allowed.",
                method,
            )

    @property
    def _body(self) -> Agent:
        """The agent that owns the attributes of this one, which is another for one that a manager lends."""
        return self

    def _batch(self, state: Any) -> tuple[list[tf.Tensor], bool]:
        """Returns the leaves [n, ...] in the model's dtypes, and whether `state` was one observation."""
        given = flatten(self.observation_space, state)
        tensors = [typed_tensor(value, leaf) for value, leaf in zip(given, self._leaves.values(), strict=True)]
        single = tensors[0].shape.rank == len(next(iter(self._leaves.values())).shape)
        tensors = [tensor[tf.newaxis] for tensor in tensors] if single else tensors
        for tensor, (name, leaf) in zip(tensors, self._leaves.items(), strict=True):
            if not tensor.shape[1:].is_compatible_with(leaf.shape):
                shape = list(leaf.shape)
                raise InvalidValueError(
                    f"state{name}: expected shape {shape} or {['n', *shape]}, got {tensor.shape[single:]}"
                )
        return tensors, single

    def _actions(self, action: Any, leaves: list[tf.Tensor]) -> tf.Tensor:
        """The actions as a tensor, after a check that there is one for each state."""
        return action_tensor(action, leaves[0].shape[0], self.policy.action_shape, self._bounds)

    def _settings(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Epsilon and temperature as tensors. They are made again only if one of them has changed."""
        now = self.policy.epsilon, self.policy.temperature
        if self._settings_of != now:
            with tf.init_scope():  # outside of a graph that is being traced
                self._settings_of, self._tensors = now, (tf.constant(now[0]), tf.constant(now[1]))
        return self._tensors

    def _check_outputs(self, method: str, names: tuple[str, ...]) -> None:
        """Raises ModelError unless the model has one of these outputs, of which the first that it has is used."""
        found = next((name for name in names if name in self.output_names), None)
        if names and found is None:
            raise ModelError(
                f"agent.{method}: expected a model with output {' or '.join(map(repr, names))}, "
                f"got one with {', '.join(map(repr, self.output_names))}"
            )
        if found is not None and found in self.forms.refused:
            raise ModelError(f"agent.{method}: {self.forms.refused[found]}")


def _another_model(model: Any, state: ModelState, make_model: Callable[[], Any] | None) -> Any:
    """A model of the same kind, which shares no variable with `model`: a new one if it can be made, else a copy."""
    new = model if make_model is None else make_model()
    same = shared_variables(new, model) or not state.is_like(ModelState(new))
    return copy_model(model) if same else new
