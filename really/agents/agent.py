"""The driver's agent: a model with TensorFlow around it, compiled and differentiable, acting as runners act."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces
from numpy.typing import NDArray

from really.agents.compiled import Compiled, remember, signature
from really.agents.log_probs import bernoulli, categorical, epsilon_greedy, normal, of_actions
from really.agents.models import copy_model, example_outputs, set_model_weights, undecorated
from really.data.normalisation import Normalisation
from really.data.spaces import action_bounds, flatten, nest, observation_leaves
from really.errors import InvalidValueError, ModelError
from really.policies.model_inputs import model_leaves
from really.policies.policy import VALUE_OUTPUTS, check_finite, infer_sampling_type, make_policy

_Q_VALUES = ("q_values",)
_VALUES = (*VALUE_OUTPUTS, "q_values")


class Agent:
    """A model that acts and is learned from.

    States are one observation or a batch [n, ...] of them, in the structure of the observation space, as arrays or
    tensors; one observation gives results without the batch axis. Apart from `act`, methods return tensors, are
    compiled with `tf.function`, and let gradients through.

    Where the manager normalises observations, `act` takes states as environments show them, and all other methods take
    them as they are delivered, which is normalised; `normalize` makes the second of the first.

    Attributes:
        model: the Keras model; its variables are the agent's weights.
        policy: how actions are sampled, with `epsilon` and `temperature`.
        rng: the generator from which `act` draws.
        epoch: the epoch that a loaded model was saved with.
        normalization: how observations are normalised, frozen with the weights that the manager was last given; None
            where they are not. A copy keeps the one that it was made with.
        compiled: False for a model that has to run as Python each time; found out where compiling fails, and may
            be set where it would go wrong unnoticed (side effects that the outputs depend on).
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
    ) -> None:
        self.model, self.epoch, self.normalization = model, epoch, normalization
        self.observation_space, self.action_space = observation_space, action_space
        self._make_model = make_model
        self.compiled = isinstance(model, keras.layers.Layer)
        self._leaves = model_leaves(observation_space)
        self._bounds = action_bounds(action_space)
        self.rng = np.random.default_rng() if rng is None else rng
        example = example_outputs(model, observation_space)
        self.output_names = tuple(sorted(example))
        sampling_type = sampling_type or infer_sampling_type(self.output_names)
        self.policy = make_policy(sampling_type, action_space, epsilon, temperature)
        self.policy.check_outputs({name: np.asarray(value) for name, value in example.items()}, 1)
        self._functions: dict[Callable[..., Any], Compiled] = {}
        # Of calls that passed all checks, with tensors that the compiled function takes as they are.
        self._traces: dict[Any, Callable[..., Any]] = {}
        self._settings_of: tuple[float, float] | None = None
        self._tensors: tuple[tf.Tensor, tf.Tensor]

    def __iter__(self) -> Iterator[Any]:
        """`agent, epoch = manager.load_model(path)`."""
        return iter((self, self.epoch))

    def act(self, state: Any, greedy: bool = False, normalized: bool = False) -> NDArray[Any]:
        """Actions as runners sample and store them (a Box's unclipped), NumPy, [n, *action_shape].

        Args:
            state: as the environment shows it; what is to be normalised is normalised here.
            greedy: take the best action instead of sampling one.
            normalized: `state` comes from data that the manager delivered, and is taken as it is.
        """
        leaves, single = self._batch(state if normalized else self.normalize(state))
        outputs = {name: np.asarray(out) for name, out in self._run(self._outputs, leaves).items()}
        check_finite(outputs, self.policy.required_outputs)
        if greedy:
            actions = self.policy.greedy(outputs)
        else:
            actions = self.policy.sample(outputs, self.policy.noise(self.rng, int(leaves[0].shape[0])))
        return actions[0] if single else actions

    def normalize(self, state: Any) -> Any:
        """States as the manager delivers them, NumPy, of states as the environment shows them.

        `state` itself where the manager does not normalise observations. Rewards are never touched.
        """
        if self.normalization is None:
            return state
        given = zip(flatten(self.observation_space, state), observation_leaves(self.observation_space), strict=True)
        return nest(
            self.observation_space,
            self.normalization.observations([np.asarray(value, leaf.dtype) for value, leaf in given]),
        )

    def max_q(self, state: Any) -> tf.Tensor:
        """The largest q-value of each state, [n] float32."""
        return self._result(self._max_q, _Q_VALUES, state)

    def q_val(self, state: Any, action: Any) -> tf.Tensor:
        """The q-values of `action`, [n] or [n, 1] as stored (a Discrete's `start` included), [n] float32.

        Actions that there are not are refused, as far as they can be seen: not while a `tf.function` is traced.
        """
        return self._result(self._q_val, _Q_VALUES, state, action)

    def v(self, state: Any) -> tf.Tensor:
        """The value of each state, [n] float32: the model's value output, or the largest q-value without one."""
        return self._result(self._v, _VALUES, state)

    def flowing_log_prob(self, state: Any, action: Any, return_entropy: bool = False) -> Any:
        """Log-probability of stored actions, [n] float32, with gradients to the model's weights.

        With `return_entropy` a pair: the policy's entropy too, [n] float32. Under `epsilon_greedy` both are constant
        in the weights nearly everywhere: their gradient is zero. A `tf.function` of yours keeps the epsilon and
        temperature that held when it was traced.
        """
        if self.policy.sampling_type == "thompson" and not self.policy.temperature:
            raise InvalidValueError("agent.flowing_log_prob: expected a temperature > 0, got 0, which is greedy")
        function = self._log_prob_and_entropy if return_entropy else self._log_prob
        return self._result(function, (), state, action, settings=self._settings())

    def copy(self) -> Agent:
        """An agent with a model of its own and the same weights, say for targets.

        Raises:
            ModelError: the agent was not told how to make a model (`make_model`), and Keras cannot copy this one.
        """
        made = self.model if self._make_model is None else self._make_model()
        model = copy_model(self.model) if made is self.model else made
        set_model_weights(model, self.get_weights())
        policy, rng = self.policy, self.rng.spawn(1)[0]
        return Agent(
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
        )

    def get_weights(self) -> list[NDArray[Any]]:
        """The model's weights, as copies."""
        weights: list[NDArray[Any]] = self.model.get_weights()
        return weights

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        """Set the model's weights; ModelError naming expected and received shapes for another model's."""
        set_model_weights(self.model, weights)

    # Inside the compiled functions: leaves [n, ...] -> [n]

    def _outputs(self, leaves: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        return dict(self.model(nest(self.observation_space, leaves)))

    def _max_q(self, leaves: list[tf.Tensor]) -> tf.Tensor:
        return tf.reduce_max(self._outputs(leaves)["q_values"], axis=-1)

    def _q_val(self, leaves: list[tf.Tensor], action: tf.Tensor) -> tf.Tensor:
        return of_actions(self._outputs(leaves)["q_values"], self._parts(action)[:, 0])

    def _v(self, leaves: list[tf.Tensor]) -> tf.Tensor:
        outputs = self._outputs(leaves)
        for name in VALUE_OUTPUTS:
            if name in outputs:
                return tf.reshape(outputs[name], [-1])
        return tf.reduce_max(outputs["q_values"], axis=-1)

    def _log_prob(
        self, leaves: list[tf.Tensor], action: tf.Tensor, epsilon: tf.Tensor, temperature: tf.Tensor
    ) -> tf.Tensor:
        return self._log_prob_and_entropy(leaves, action, epsilon, temperature)[0]

    def _log_prob_and_entropy(
        self, leaves: list[tf.Tensor], action: tf.Tensor, epsilon: tf.Tensor, temperature: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        outputs, actions = self._outputs(leaves), self._parts(action)
        if isinstance(self.action_space, spaces.Box):
            return normal(outputs["mu"], outputs["sigma"], actions)
        if self.policy.sampling_type == "epsilon_greedy":
            return epsilon_greedy(outputs["q_values"], actions, epsilon)
        if self.policy.sampling_type == "thompson":
            return categorical(outputs["q_values"] / temperature, actions[:, 0])
        if isinstance(self.action_space, spaces.MultiBinary):
            return bernoulli(outputs["policy"], actions)
        sizes = np.ravel(getattr(self.action_space, "nvec", getattr(self.action_space, "n", 0))).tolist()
        parts = tf.split(outputs["policy"], sizes, axis=-1)
        pairs = [categorical(logits, actions[:, at]) for at, logits in enumerate(parts)]
        return tf.add_n([pair[0] for pair in pairs]), tf.add_n([pair[1] for pair in pairs])

    def _parts(self, action: tf.Tensor) -> tf.Tensor:
        """Stored actions as [n, parts], float32 for a Box, else int64 counted from 0."""
        dtype = tf.float32 if isinstance(self.action_space, spaces.Box) else tf.int64
        actions = tf.reshape(tf.cast(action, dtype), [-1, math.prod(self.policy.action_shape)])
        start = getattr(self.action_space, "start", None)
        return actions if start is None else actions - np.ravel(start).astype(np.int64)

    # From what users give to what the compiled functions take. What can be done in those costs hardly anything, each
    # operation here costs as much as a small layer.

    def _result(
        self,
        function: Callable[..., Any],
        needed: tuple[str, ...],
        state: Any,
        *actions: Any,
        settings: tuple[tf.Tensor, ...] = (),
    ) -> Any:
        key = signature((state, *actions))
        trace = None if key is None else self._traces.get((function, key))
        if trace is not None and self.compiled:
            return trace(state, *actions, *settings)
        self._need(function.__name__[1:], needed)
        leaves, single = self._batch(state)
        tensors = *(self._actions(action, leaves) for action in actions), *settings
        result = self._run(function, leaves, *tensors)
        # Of actions only whole numbers go unchecked from now on: TensorFlow itself refuses those that there are not.
        whole = self._bounds is None or all(action.dtype.is_integer for action in tensors[: len(actions)])
        if key is not None and self.compiled and whole and leaves[0] is state:
            remember(self._traces, (function, key), self._functions[function].trace((*leaves, *tensors)))
        if not single:
            return result
        return result[0] if isinstance(result, tf.Tensor) else tuple(part[0] for part in result)

    def _run(self, function: Callable[..., Any], leaves: list[tf.Tensor], *tensors: tf.Tensor) -> Any:
        if not self.compiled:
            return function(leaves, *tensors)
        # A bound method is a new object at each access, but an equal one: this finds the compiled function again.
        if function in self._functions:
            return self._functions[function](*leaves, *tensors)
        # A decorated `call` that was traced while its weights came into being holds their first values, so that its
        # Python is traced anew; one that needs AutoGraph cannot be.
        for context in (undecorated, contextlib.nullcontext):
            compiled = Compiled(function, len(leaves), context)
            with contextlib.suppress(Exception):
                result = compiled(*leaves, *tensors)
                self._functions[function] = compiled
                return result
        # What no graph can follow may still work as Python; if not, that is the error to show.
        result = function(leaves, *tensors)
        self.compiled = False
        return result

    def _batch(self, state: Any) -> tuple[list[tf.Tensor], bool]:
        """Leaves [n, ...] in the model's dtypes, and whether `state` was one observation."""
        given = flatten(self.observation_space, state)
        tensors = [_tensor(value, leaf.dtype) for value, leaf in zip(given, self._leaves, strict=True)]
        single = tensors[0].shape.rank == len(self._leaves[0].shape)
        tensors = [tensor[tf.newaxis] for tensor in tensors] if single else tensors
        for tensor, leaf in zip(tensors, self._leaves, strict=True):
            if not tensor.shape[1:].is_compatible_with(leaf.shape):
                shape = list(leaf.shape)
                raise InvalidValueError(
                    f"state{leaf.name}: expected shape {shape} or {['n', *shape]}, got {tensor.shape[single:]}"
                )
        return tensors, single

    def _actions(self, action: Any, leaves: list[tf.Tensor]) -> tf.Tensor:
        """Actions as they are stored, as many as there are states."""
        actions = tf.convert_to_tensor(action)
        width = math.prod(self.policy.action_shape)
        rows, got = leaves[0].shape[0], actions.shape.num_elements()
        if None not in (rows, got) and got != rows * width:
            raise InvalidValueError(
                f"action: expected {['n', *self.policy.action_shape]} with n = {rows} states, got {actions.shape}"
            )
        if self._bounds is not None and not tf.is_symbolic_tensor(actions):
            self._check_numbers(np.asarray(actions), *self._bounds)
        return actions

    @staticmethod
    def _check_numbers(actions: NDArray[Any], low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        actions = actions.reshape(-1, *low.shape)
        good = (actions >= low) & (actions <= high) & (actions == np.floor(actions))
        if not good.all():
            raise InvalidValueError(
                f"action: expected whole numbers from {low.tolist()} to {high.tolist()}, got {actions[~good][0]}"
            )

    def _settings(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Epsilon and temperature as tensors, made anew only when one of them changes."""
        now = self.policy.epsilon, self.policy.temperature
        if self._settings_of != now:
            with tf.init_scope():  # not of a graph that is just being traced
                self._settings_of, self._tensors = now, (tf.constant(now[0]), tf.constant(now[1]))
        return self._tensors

    def _need(self, method: str, names: tuple[str, ...]) -> None:
        if names and not set(names) & set(self.output_names):
            raise ModelError(
                f"agent.{method}: expected a model with output {' or '.join(map(repr, names))}, "
                f"got one with {', '.join(map(repr, self.output_names))}"
            )


def _tensor(value: Any, dtype: np.dtype[Any]) -> tf.Tensor:
    tensor = tf.convert_to_tensor(value)
    return tensor if tensor.dtype == dtype else tf.cast(tensor, dtype)
