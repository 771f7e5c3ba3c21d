"""Building models: from a class, a function or an instance to a model that has its weights."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces
from numpy.typing import NDArray

from really.data.spaces import flatten, nest
from really.errors import InvalidTypeError, InvalidValueError, ModelError, summary
from really.policies.model_inputs import check_weights, model_leaves


def build_model(
    model: Any,
    model_kwargs: Mapping[str, Any] | None,
    input_shape: Any,
    observation_space: spaces.Space[Any],
    weights: Sequence[NDArray[Any]] | None = None,
) -> Any:
    """Builds a model and creates its weights.

    Args:
        model: a class, a function that returns a model, or a model.
        model_kwargs: arguments of the class or function.
        input_shape: None builds the model by a call on zeros of the observation space, [1, ...] a leaf. A shape
            without the batch axis replaces that of the space. False means that the model has its weights without
            a call.
        observation_space: of the environment.
        weights: the weights to set; None keeps the initial ones.

    Raises:
        InvalidTypeError: the class or function does not take these kwargs.
        InvalidValueError: kwargs are given with a model instance, a shape is given with a Dict or Tuple space, or
            `input_shape` is not a shape.
        ModelError: making or calling the model raised, its output is not a dict, or the weights do not fit.
    """
    built = _instance(model, dict(model_kwargs or {}))
    if input_shape is not False:
        # A decorated `call` that is traced while the weights are created would keep their first values for ever.
        with undecorated():
            _first_calls(built, observation_space, input_shape)
    if weights is not None:
        set_model_weights(built, weights)
    return built


@contextlib.contextmanager
def undecorated() -> Iterator[None]:
    """Runs every `tf.function`, of a model and of its layers, as the Python function that it decorates.

    A `tf.function` that was traced earlier holds the variables of that time and ignores weights that are passed in.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def set_model_weights(model: Any, weights: Sequence[NDArray[Any]]) -> None:
    """Sets the model's weights. Raises ModelError, with nothing changed, if a shape is not the model's."""
    if isinstance(model, keras.layers.Layer):
        shapes = [tuple(weight.shape) for weight in model.weights]
        check_weights(shapes, weights, [weight.path for weight in model.weights])
    model.set_weights(list(weights))


@contextlib.contextmanager
def seeded_initialisers(seed: np.random.SeedSequence | None) -> Iterator[None]:
    """Makes initial weights repeatable: Keras seeds its initialisers from Python's global generator.

    The generator is restored afterwards. Without a seed nothing happens.
    """
    before = random.getstate()
    if seed is not None:
        random.seed(int(seed.generate_state(1)[0]))
    try:
        yield
    finally:
        if seed is not None:
            random.setstate(before)


@dataclass(frozen=True)
class ModelBuilder:
    """Builds a user's model again; picklable, so that a runner can build it in its own process.

    The fields are the arguments of `build_model`.
    """

    model: Any
    model_kwargs: Mapping[str, Any]
    input_shape: Any
    observation_space: spaces.Space[Any]

    def __call__(self) -> tuple[Any, Callable[[Sequence[NDArray[Any]]], None]]:
        """Returns the model, and a function that checks and sets its weights."""
        model = build_model(self.model, self.model_kwargs, self.input_shape, self.observation_space)
        return model, functools.partial(set_model_weights, model)


def example_outputs(model: Any, space: spaces.Space[Any]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The model's outputs for one example observation, and for two; None if it raises for two.

    Raises:
        ModelError: the outputs are not a dict.
    """
    one = _example(space, None)
    two = nest(space, [np.concatenate([leaf, leaf]) for leaf in flatten(space, one)])
    with undecorated():
        outputs = _as_outputs(model(one))
        try:
            return outputs, _as_outputs(model(two))
        except Exception:
            return outputs, None


def copy_model(model: Any) -> Any:
    """A Keras model of the same architecture. Raises ModelError if Keras cannot copy this model."""
    try:
        return keras.models.clone_model(model)
    except Exception as error:
        name = type(model).__name__
        raise ModelError(
            f"agent.copy: expected a model that can be built again, got the instance of {name}, which Keras cannot "
            f"copy; give the class or a function that returns the model instead"
        ) from error


def _instance(model: Any, kwargs: dict[str, Any]) -> Any:
    """The model itself, or the one that a class or function returns."""
    is_factory = isinstance(model, type | functools.partial) or inspect.isroutine(model)
    if is_factory or not (isinstance(model, keras.layers.Layer) or hasattr(model, "get_weights")):
        if not callable(model):
            raise InvalidValueError(f"model: expected a model, its class or a function, got {model!r}")
        return _call_factory(model, kwargs)
    if kwargs:
        raise InvalidValueError(f"model_kwargs: expected none with a model instance, got {sorted(kwargs)}")
    return model


def _call_factory(factory: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """The model that a class or function returns; errors name the factory and its arguments."""
    name = getattr(factory, "__name__", type(factory).__name__)
    # A builtin may have no signature.
    with contextlib.suppress(ValueError):
        signature = inspect.signature(factory)
        try:
            signature.bind(**kwargs)
        except TypeError as error:
            raise InvalidTypeError(
                f"model_kwargs: expected arguments of {name}{signature}, got {kwargs}: {error}"
            ) from None
    try:
        return factory(**kwargs)
    except Exception as error:
        raise ModelError(
            f"model: expected a model from {name} with model_kwargs {kwargs}, got {summary(error)}"
        ) from error


def _first_calls(model: Any, space: spaces.Space[Any], input_shape: Any) -> None:
    """Calls the model, which creates its weights: on `input_shape` first, then on an observation of another shape."""
    observation = _example(space, None)
    examples, after = [observation], ""
    if input_shape is not None and input_shape is not True:
        given = _example(space, input_shape)
        examples = [given] if given.shape == observation.shape else [given, observation]
        after = f" after input_shape={input_shape!r}"
    for example in examples:
        try:
            outputs = model(example)
        except Exception as error:
            leaves = ", ".join(
                f"{name or 'state'} {list(leaf.shape)} {leaf.dtype}" for name, leaf in model_leaves(space).items()
            )
            raise ModelError(
                f"model: expected {type(model).__name__} to take observations ({leaves}){after}, got {summary(error)}"
            ) from error
        _as_outputs(outputs)


def _example(space: spaces.Space[Any], input_shape: Any) -> Any:
    """One observation, [1, ...] a leaf: zeros, or the first number of a Discrete space."""
    leaves = model_leaves(space)
    if input_shape is None or input_shape is True:
        start = np.asarray(getattr(space, "start", 0))
        values = [np.zeros((1, *leaf.shape), leaf.dtype) + start.astype(leaf.dtype) for leaf in leaves.values()]
        return nest(space, values)
    if list(leaves) != [""]:
        raise InvalidValueError(f"input_shape: expected None or False with {space}, got {input_shape!r}")
    return np.zeros((1, *_checked_shape(input_shape)), leaves[""].dtype)


def _checked_shape(input_shape: Any) -> list[int]:
    sizes = list(input_shape) if isinstance(input_shape, Iterable) else [input_shape]
    try:
        if isinstance(input_shape, str) or min(map(operator.index, sizes), default=1) < 1:
            raise TypeError
    except TypeError:
        message = f"input_shape: expected sizes >= 1 of one observation, None or False, got {input_shape!r}"
        raise InvalidValueError(message) from None
    return [operator.index(size) for size in sizes]


def _as_outputs(outputs: Any) -> Mapping[str, Any]:
    if not isinstance(outputs, Mapping):
        raise ModelError(
            f"model output: expected a dict with 'q_values', or 'policy', or 'mu' and 'sigma', "
            f"got {type(outputs).__name__}"
        )
    return outputs
