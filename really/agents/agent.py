"""The driver's agent: a model with TensorFlow around it, compiled and differentiable, acting as runners act."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces
from numpy.typing import NDArray

from really.agents.compiled import Compiled, remember, signature
from really.data.normalisation import Normalisation
from really.data.spaces import action_bounds, flatten, nest, observation_leaves
from really.errors import InvalidTypeError, InvalidValueError, ModelError, summary
from really.policies.inference import check_weights, model_leaves
from really.policies.policy import VALUE_OUTPUTS, check_finite, infer_sampling_type, make_policy

_LOG_2PI = math.log(2.0 * math.pi)
_Q_VALUES = ("q_values",)
_VALUES = (*VALUE_OUTPUTS, "q_values")


def build_model(
    model: Any,
    model_kwargs: Mapping[str, Any] | None,
    input_shape: Any,
    observation_space: spaces.Space[Any],
    weights: Sequence[NDArray[Any]] | None = None,
) -> Any:
    """A model with its weights in place.

    Args:
        model: a class, a function that returns a model, or a model.
        model_kwargs: what the class or function is called with.
        input_shape: None builds the model by a call on zeros of the observation space, [1, ...] a leaf; a shape
            without the batch axis takes its place; False means that the model needs no call to have weights.
        observation_space: of the environment.
        weights: set if given.

    Raises:
        InvalidTypeError: the class or function does not take these kwargs.
        InvalidValueError: kwargs come with a model that exists already, or a shape with a Dict or Tuple space, or
            something that is no shape.
        ModelError: making or calling the model raised; the output is not a dict; the weights are another model's.
    """
    built = _instance(model, dict(model_kwargs or {}))
    if input_shape is not False:
        # A decorated `call` that is traced while the weights come into being keeps their first values for ever.
        with undecorated():
            _first_calls(built, observation_space, input_shape)
    if weights is not None:
        set_model_weights(built, weights)
    return built


@contextlib.contextmanager
def undecorated() -> Iterator[None]:
    """Run every `tf.function`, of a model and of its layers, as the Python function under it.

    One that was traced before holds the variables it saw then, and ignores weights that are given to it.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def set_model_weights(model: Any, weights: Sequence[NDArray[Any]]) -> None:
    """Set weights that have the model's shapes; ModelError naming both otherwise, with the model as it was."""
    if isinstance(model, keras.layers.Layer):
        shapes = [tuple(weight.shape) for weight in model.weights]
        check_weights(shapes, weights, [weight.path for weight in model.weights])
    model.set_weights(list(weights))


@contextlib.contextmanager
def seeded_initialisers(seed: np.random.SeedSequence | None) -> Iterator[None]:
    """Repeatable initial weights: Keras seeds its initialisers from Python's generator, which is put back after."""
    before = random.getstate()
    if seed is not None:
        random.seed(int(seed.generate_state(1)[0]))
    try:
        yield
    finally:
        if seed is not None:
            random.setstate(before)


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
        with undecorated():
            example = _as_outputs(model(_example(observation_space, None)))
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
        model = _copied(self.model) if made is self.model else made
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
        return _of_actions(self._outputs(leaves)["q_values"], self._parts(action)[:, 0])

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
            return _normal(outputs["mu"], outputs["sigma"], actions)
        if self.policy.sampling_type == "epsilon_greedy":
            return _epsilon_greedy(outputs["q_values"], actions, epsilon)
        if self.policy.sampling_type == "thompson":
            return _categorical(outputs["q_values"] / temperature, actions[:, 0])
        if isinstance(self.action_space, spaces.MultiBinary):
            return _bernoulli(outputs["policy"], actions)
        sizes = np.ravel(getattr(self.action_space, "nvec", getattr(self.action_space, "n", 0))).tolist()
        parts = tf.split(outputs["policy"], sizes, axis=-1)
        pairs = [_categorical(logits, actions[:, at]) for at, logits in enumerate(parts)]
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


def _instance(model: Any, kwargs: dict[str, Any]) -> Any:
    makes_one = isinstance(model, type | functools.partial) or inspect.isroutine(model)
    if makes_one or not (isinstance(model, keras.layers.Layer) or hasattr(model, "get_weights")):
        if not callable(model):
            raise InvalidValueError(f"model: expected a model, its class or a function, got {model!r}")
        return _made(model, kwargs)
    if kwargs:
        raise InvalidValueError(f"model_kwargs: expected none with a model that exists already, got {sorted(kwargs)}")
    return model


def _made(make: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """What a class or function returns, with errors that name it and what it was given."""
    name = getattr(make, "__name__", type(make).__name__)
    # A builtin may tell no signature.
    with contextlib.suppress(ValueError):
        signature = inspect.signature(make)
        try:
            signature.bind(**kwargs)
        except TypeError as error:
            raise InvalidTypeError(
                f"model_kwargs: expected arguments of {name}{signature}, got {kwargs}: {error}"
            ) from None
    try:
        return make(**kwargs)
    except Exception as error:
        raise ModelError(
            f"model: expected a model from {name} with model_kwargs {kwargs}, got {summary(error)}"
        ) from error


def _first_calls(model: Any, space: spaces.Space[Any], input_shape: Any) -> None:
    """Calls the model with `input_shape`, which creates its weights, and, where that is another, with observations."""
    observation = _example(space, None)
    examples, was = [observation], ""
    if input_shape is not None and input_shape is not True:
        given = _example(space, input_shape)
        examples = [given] if given.shape == observation.shape else [given, observation]
        was = f" after input_shape={input_shape!r}"
    for example in examples:
        try:
            outputs = model(example)
        except Exception as error:
            leaves = ", ".join(
                f"{leaf.name or 'state'} {list(leaf.shape)} {leaf.dtype}" for leaf in model_leaves(space)
            )
            raise ModelError(
                f"model: expected {type(model).__name__} to take observations ({leaves}){was}, got {summary(error)}"
            ) from error
        _as_outputs(outputs)


def _copied(model: Any) -> Any:
    try:
        return keras.models.clone_model(model)
    except Exception as error:
        name = type(model).__name__
        raise ModelError(
            f"agent.copy: expected a model that can be made anew, got the instance of {name}, which Keras cannot "
            f"copy; give the class or a function that returns the model instead"
        ) from error


def _example(space: spaces.Space[Any], input_shape: Any) -> Any:
    """One observation, [1, ...] a leaf: zeros, or the first number of a Discrete."""
    leaves = model_leaves(space)
    if input_shape is None or input_shape is True:
        start = np.asarray(getattr(space, "start", 0))
        return nest(space, [np.zeros((1, *leaf.shape), leaf.dtype) + start.astype(leaf.dtype) for leaf in leaves])
    if len(leaves) > 1 or leaves[0].name:
        raise InvalidValueError(f"input_shape: expected None or False with {space}, got {input_shape!r}")
    return np.zeros((1, *_checked_shape(input_shape)), leaves[0].dtype)


def _checked_shape(input_shape: Any) -> list[int]:
    sizes = list(input_shape) if isinstance(input_shape, Iterable) else [input_shape]
    try:
        if isinstance(input_shape, str) or min(map(operator.index, sizes), default=1) < 1:
            raise TypeError
    except TypeError:
        message = f"input_shape: expected sizes >= 1 of one observation, None or False, got {input_shape!r}"
        raise InvalidValueError(message) from None
    return [operator.index(size) for size in sizes]


def _tensor(value: Any, dtype: np.dtype[Any]) -> tf.Tensor:
    tensor = tf.convert_to_tensor(value)
    return tensor if tensor.dtype == dtype else tf.cast(tensor, dtype)


def _as_outputs(outputs: Any) -> Mapping[str, Any]:
    if not isinstance(outputs, Mapping):
        raise ModelError(
            f"model output: expected a dict with 'q_values', or 'policy', or 'mu' and 'sigma', "
            f"got {type(outputs).__name__}"
        )
    return outputs


def _of_actions(values: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """What `[n, action]` values have for `[n]` actions, `[n]`.

    Not by `tf.gather(batch_dims=1)`: traced for any number of rows, its gradient makes XLA compile for every batch.
    """
    rows = tf.range(tf.shape(actions, out_type=actions.dtype)[0], dtype=actions.dtype)
    return tf.gather_nd(values, tf.stack([rows, actions], axis=1))


# (log-probability [n], entropy [n]) of each kind of policy


def _categorical(logits: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    log_probs = tf.nn.log_softmax(logits)
    entropy = -tf.reduce_sum(tf.math.multiply_no_nan(log_probs, tf.exp(log_probs)), axis=-1)
    return _of_actions(log_probs, actions), entropy


def _bernoulli(logits: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    logits = tf.reshape(logits, tf.shape(actions))
    cross = functools.partial(tf.nn.sigmoid_cross_entropy_with_logits, logits=logits)
    log_prob = -tf.reduce_sum(cross(labels=tf.cast(actions, tf.float32)), axis=-1)
    return log_prob, tf.reduce_sum(cross(labels=tf.sigmoid(logits)), axis=-1)


def _epsilon_greedy(q_values: tf.Tensor, actions: tf.Tensor, epsilon: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    count = q_values.shape[-1]
    probabilities = (1.0 - epsilon) * tf.one_hot(tf.argmax(q_values, axis=-1), count) + epsilon / count
    entropy = -tf.reduce_sum(tf.math.multiply_no_nan(tf.math.log(probabilities), probabilities), axis=-1)
    return tf.math.log(_of_actions(probabilities, actions[:, 0])), entropy


def _normal(mu: tf.Tensor, sigma: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums over dimensions: of log-densities, and of entropies ½ + ½ log 2π + log sigma."""
    width = actions.shape[-1]
    mu = tf.reshape(mu, [-1, width])
    sigma = tf.reshape(sigma, [1, 1] if sigma.shape.num_elements() == 1 else [-1, width]) + tf.zeros_like(mu)
    z = (actions - mu) / sigma
    log_prob = tf.reduce_sum(-0.5 * z * z - tf.math.log(sigma) - 0.5 * _LOG_2PI, axis=-1)
    return log_prob, tf.reduce_sum(0.5 + 0.5 * _LOG_2PI + tf.math.log(sigma), axis=-1)
