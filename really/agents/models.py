"""Building models: from a class, a function or an instance to a model that has its weights."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import pickle
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils.keras_versions import is_layer
from really.agents.copying import copy_model, pickled
from really.data.spaces import flatten, nest
from really.errors import InvalidTypeError, InvalidValueError, ModelError, summary
from really.policies.model_inputs import model_leaves
from really.policies.model_state import ModelState, shared_variables

# Held while a switch or a generator of the whole process is changed for a while.
_PROCESS_STATE = threading.RLock()


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
        ModelError: making or calling the model raised, its output is not a dict, the weights do not fit, or a layer
            has a state that does not travel with the weights.
    """
    return _built(_instance(model, dict(model_kwargs or {})), input_shape, observation_space, weights)


def _built(model: Any, input_shape: Any, observation_space: spaces.Space[Any], weights: Any = None) -> Any:
    """Creates the weights of a model, and sets them; returns the model."""
    if input_shape is not False:
        # A decorated `call` that is traced while the weights are created would keep their first values for ever.
        with undecorated():
            _first_calls(model, observation_space, input_shape)
    ModelState(model).check_layers()
    if weights is not None:
        set_model_weights(model, weights)
    return model


@contextlib.contextmanager
def undecorated() -> Iterator[None]:
    """Runs every `tf.function`, of a model and of its layers, as the Python function that it decorates.

    A `tf.function` that was traced earlier holds the variables of that time and ignores weights that are passed in.
    TensorFlow has one switch for all threads, so threads take turns.
    """
    with _PROCESS_STATE:
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(before)


def set_model_weights(model: Any, weights: Any) -> None:
    """Sets the model's weights. Raises ModelError, with nothing changed, if a shape is not the model's."""
    ModelState(model).set(weights)


@contextlib.contextmanager
def seeded_initialisers(seed: np.random.SeedSequence | None) -> Iterator[None]:
    """Makes initial weights repeatable: Keras seeds its initialisers from Python's global generator.

    The generator is restored afterwards; threads take turns. Without a seed nothing happens.
    """
    if seed is None:
        yield
        return
    with _PROCESS_STATE:
        before = random.getstate()
        random.seed(int(seed.generate_state(1)[0]))
        try:
            yield
        finally:
            random.setstate(before)


@dataclass(frozen=True)
class ModelBuilder:
    """Builds a user's model again; picklable, so that a runner can build it in its own process.

    The first four fields are the arguments of `build_model`.

    Attributes:
        learners: the learner's model, of which this process acts with a copy. It stays here when this is pickled.
    """

    model: Any
    model_kwargs: Mapping[str, Any]
    input_shape: Any
    observation_space: spaces.Space[Any]
    learners: Any = None

    def __call__(self) -> tuple[Any, Callable[[Any], None]]:
        """Returns a model that is not the learner's, and a function that checks and sets its weights."""
        model = self._build()
        return model, functools.partial(set_model_weights, model)

    def check(self) -> None:
        """Raises ModelError if this process cannot have a model that is not the learner's."""
        if is_instance(self.model):
            self._build()

    def __reduce__(self) -> tuple[Any, ...]:
        fields = self.model_kwargs, self.input_shape, self.observation_space
        if is_instance(self.model):
            return _with_instance, (pickled(self.model), *fields)
        return ModelBuilder, (self.model, *fields)

    def _build(self) -> Any:
        model = _instance(self.model, dict(self.model_kwargs))
        # A function may return the same model each time.
        if self.learners is not None and shared_variables(model, self.learners):
            return copy_model(model)
        return _built(model, self.input_shape, self.observation_space)


def _with_instance(model: bytes, *fields: Any) -> ModelBuilder:
    return ModelBuilder(pickle.loads(model), *fields)


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


def is_instance(model: Any) -> bool:
    """Whether `model` is a model, and not a class or function that makes one."""
    if isinstance(model, type | functools.partial) or inspect.isroutine(model):
        return False
    return is_layer(model) or hasattr(model, "get_weights")


def _instance(model: Any, kwargs: dict[str, Any]) -> Any:
    """The model itself, or the one that a class or function returns."""
    if not is_instance(model):
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
            outputs = _first_call(model, example)
        except Exception as error:
            leaves = ", ".join(
                f"{name or 'state'} {list(leaf.shape)} {leaf.dtype}" for name, leaf in model_leaves(space).items()
            )
            raise ModelError(
                f"model: expected {type(model).__name__} to take observations ({leaves}){after}, got {summary(error)}"
            ) from error
        _as_outputs(outputs)


def _first_call(model: Any, example: Any) -> Any:
    """Calls a model, again if a layer such as `Normalization` was built in a graph of Keras', which it cannot leave."""
    try:
        return model(example)
    except Exception:
        if not (state := ModelState(model)).has_finalized:
            raise
        state.finalize()
        return model(example)


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
