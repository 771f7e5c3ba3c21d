"""Building models: from a class, a function or an instance to a model that has its weights."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import operator
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really.agents.frameworks.choice import TITLES, framework_named, framework_of
from really.agents.frameworks.protocol import Framework
from really.agents.recurrent import FromStart, at_start, called, layout_of, takes_state
from really.agents.seeding import seeded_initialisers
from really.data.spaces import flatten, nest
from really.errors import InvalidTypeError, InvalidValueError, ModelError, summary
from really.policies.jax_state import JaxModel, as_jax_model
from really.policies.model_inputs import model_leaves
from really.policies.outputs import as_numbers
from really.policies.recurrent import RECURRENT_STATE, RecurrentLayout
from really.policies.states import is_module, shared_variables, state_of


def build_model(
    model: Any,
    model_kwargs: Mapping[str, Any] | None,
    input_shape: Any,
    observation_space: spaces.Space[Any],
    weights: Sequence[NDArray[Any]] | None = None,
    device: Any = None,
) -> Any:
    """Builds a model and creates its weights.

    Args:
        model: a class, a function that returns a model, or a model. A function of one observation is a model.
        model_kwargs: arguments of the class or function.
        input_shape: None builds the model by a call on zeros of the observation space, [1, ...] a leaf. A shape
            without the batch axis replaces that of the space. False means that the model has its weights without
            a call.
        observation_space: of the environment.
        weights: the weights to set; None keeps the initial ones.
        device: of PyTorch or JAX, to which the weights are moved; None leaves them where the model made them.

    Raises:
        InvalidTypeError: the class or function does not take these kwargs.
        InvalidValueError: kwargs are given with a model instance, a shape is given with a Dict or Tuple space,
            `input_shape` is not a shape, or the framework has no such device.
        ModelError: making or calling the model raised, its output is not a dict, the weights do not fit, or a layer
            has a state that does not travel with the weights.
    """
    made = _instance(model, dict(model_kwargs or {}))
    framework = framework_of(made)
    built = _built(framework, made, input_shape, observation_space, weights)
    return built if device is None else framework.placed(built, device)


def _built(
    framework: Framework, model: Any, input_shape: Any, observation_space: spaces.Space[Any], weights: Any = None
) -> Any:
    """Creates the weights of a model, and sets them; returns the model."""
    if input_shape is not False:
        with framework.building():
            _first_calls(framework, model, observation_space, input_shape)
    state_of(model).check_layers()
    if weights is not None:
        set_model_weights(model, weights)
    return model


def set_model_weights(model: Any, weights: Any) -> None:
    """Sets the model's weights. Raises ModelError, with nothing changed, if a shape is not the model's."""
    state_of(model).set(weights)


@dataclass(frozen=True)
class ModelBuilder:
    """Builds a user's model again; picklable, so that a runner can build it in its own process.

    The first four fields are the arguments of `build_model`.

    Attributes:
        learners: the learner's model, of which this process acts with a copy. It stays here when this is pickled.
        framework: name of the model's framework.
        recurrent: the layout of the model's recurrent state; None if it has none.
    """

    model: Any
    model_kwargs: Mapping[str, Any]
    input_shape: Any
    observation_space: spaces.Space[Any]
    learners: Any = None
    framework: str = "tensorflow"
    recurrent: RecurrentLayout | None = None

    def __call__(self) -> tuple[Callable[[Any], Mapping[str, Any]], Callable[[Any], None]]:
        """Returns a model that is not the learner's, as runners call it, and a function that sets its weights."""
        framework = framework_named(self.framework)
        if self.learners is None:
            framework.prepare_runner()
        # The weights that are drawn here are never used: they must not cost the program's generator anything.
        seed = None if self.framework == "tensorflow" else np.random.SeedSequence(0)
        with seeded_initialisers(seed):
            model = self._build(framework)
        return framework.acting(called(model, self.recurrent)), functools.partial(set_model_weights, model)

    def check(self) -> None:
        """Raises ModelError if this process cannot have a model that is not the learner's."""
        if is_instance(self.model, self.model_kwargs):
            self._build(framework_named(self.framework))

    def __reduce__(self) -> tuple[Any, ...]:
        fields = self.model_kwargs, self.input_shape, self.observation_space, None, self.framework, self.recurrent
        framework = framework_named(self.framework)
        settings = _Settings(self.framework, framework.settings())
        if is_instance(self.model, self.model_kwargs):
            return _with_instance, (settings, framework.pickled(self.model), *fields)
        _check_sent(self.model, self.model_kwargs)
        return _with_maker, (settings, self.model, *fields)

    def _build(self, framework: Framework) -> Any:
        model = _instance(self.model, dict(self.model_kwargs))
        check_same_framework(framework, model)
        # A function may return the same model each time.
        if self.learners is not None and shared_variables(model, self.learners):
            return framework.copy(model)
        return _built(framework, model, self.input_shape, self.observation_space)


def check_same_framework(framework: Framework, model: Any) -> None:
    """Raises ModelError if a model that was made again is one of another framework than before."""
    other = framework_of(model)
    if other.name != framework.name:
        names = [TITLES.get(each.name, "no framework") for each in (framework, other)]
        raise ModelError(
            f"model: expected a model of {names[0]}, as the manager's, each time that its class or function makes one, "
            f"got one of {names[1]}"
        )


def _check_sent(model: Any, kwargs: Mapping[str, Any]) -> None:
    """Raises ModelError, with what cannot be pickled, unless a class or function and its arguments can be."""
    try:
        cloudpickle.dumps(model)
    except Exception as error:
        raise ModelError(
            f"model: expected a class or function that can be sent to another process, got {_qualified(model)}: "
            f"{summary(error)}; make what cannot be sent inside of it: every process then makes its own"
        ) from error
    for name, value in kwargs.items():
        try:
            cloudpickle.dumps(value)
        except Exception as error:
            raise ModelError(
                f"model_kwargs: expected arguments that can be sent to another process, got {name} of type "
                f"{type(value).__name__}: {summary(error)}; let the model make it itself: every process then makes its "
                f"own"
            ) from error


def _qualified(model: Any) -> str:
    return str(getattr(model, "__qualname__", type(model).__name__))


@dataclass(frozen=True)
class _Settings:
    """Settings of a framework. A process that unpickles them uses them; it then unpickles the model."""

    framework: str
    values: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return _used, (self.framework, dict(self.values))


def _used(framework: str, values: Mapping[str, Any]) -> _Settings:
    if values:
        framework_named(framework).use(values)
    return _Settings(framework, values)


def _with_instance(settings: _Settings, model: bytes, *fields: Any) -> ModelBuilder:
    return ModelBuilder(pickle.loads(model), *fields)


def _with_maker(settings: _Settings, model: Any, *fields: Any) -> ModelBuilder:
    return ModelBuilder(model, *fields)


def recurrent_layout(framework: Framework, model: Any, space: spaces.Space[Any]) -> RecurrentLayout | None:
    """The layout of the recurrent state of a model; None if its call takes none.

    Raises:
        ModelError: the state that the model returns is not what it takes.
    """
    if not takes_state(model):
        return None
    begins = FromStart(model)
    return layout_of(begins, *example_outputs(framework, begins, space, rows=2)[:2])


def example_outputs(
    framework: Framework, model: Any, space: Any, layout: RecurrentLayout | None = None, rows: int | None = None
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None, int]:
    """The model's outputs for one example observation, and for several, None if it raises for them; and how many.

    Unless `rows` says how many, they are not as many as an output has numbers: shapes tell the batch axis then.
    With a layout the model gets pairs of an observation and the leaves of a recurrent state.

    Raises:
        ModelError: the outputs are not a dict, or the recurrent state is not as before.
    """
    one = _example(space, None) if layout is None else (_example(space[0], None), tuple(layout.begin(1)))
    with framework.building():
        outputs = _as_outputs(framework.call(model, one))
        if layout is not None:
            layout.check({name: as_numbers(name, outputs[name]) for name in layout.names}, 1)
        if rows is None:
            sizes = {np.size(value) for value in map(_numbers_or_none, outputs.items())}
            rows = next(number for number in itertools.count(2) if number not in sizes)
        several = nest(space, [np.concatenate([leaf] * rows) for leaf in flatten(space, one)])
        try:
            return outputs, _as_outputs(framework.call(model, several)), rows
        except Exception:
            return outputs, None, rows


def _numbers_or_none(output: tuple[str, Any]) -> Any:
    try:
        return as_numbers(*output)
    except ModelError:
        return None


def is_instance(model: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether `model` is a model, and not a class or function that makes one.

    A function is one if it cannot be called with `kwargs`, there are none, and one argument is enough.
    """
    is_factory = isinstance(model, type | functools.partial) or inspect.isroutine(model)
    if not is_factory and (is_module(model) or hasattr(model, "get_weights")):
        return True
    return not kwargs and not isinstance(model, type) and _takes_one_argument(model)


def _takes_one_argument(function: Any) -> bool:
    """Whether a function, or an object that can be called, needs exactly one positional argument."""
    required = _required_arguments(function)
    return len(required) == 1 and required[0].kind is not required[0].KEYWORD_ONLY


def _required_arguments(function: Any) -> list[inspect.Parameter]:
    """The arguments without a default, but a recurrent state; none for what has no signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    required = [each for each in signature.parameters.values() if each.default is each.empty]
    required = [each for each in required if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [each for each in required if each.name != RECURRENT_STATE]


def _instance(model: Any, kwargs: dict[str, Any]) -> Any:
    """The model itself, or the one that a class or function returns."""
    model = as_jax_model(model)
    if not is_instance(model, kwargs):
        if not callable(model):
            raise InvalidValueError(f"model: expected a model, its class or a function, got {_told(model)}")
        return as_jax_model(_call_factory(model, kwargs))
    if kwargs:
        raise InvalidValueError(f"model_kwargs: expected none with a model instance, got {sorted(kwargs)}")
    return model


def _told(given: Any) -> str:
    """What was given as a model and is none; a sequence by its parts, with the form that a pair of JAX has."""
    if hasattr(given, "run"):
        return f"{type(given).__name__}, which is no callable: give a function of observations that calls its run()"
    if not isinstance(given, tuple | list):
        return repr(given)
    parts = ", ".join("a function" if callable(each) else type(each).__name__ for each in given)
    hint = "; with JAX, give the pair (apply, parameters)" if any(map(callable, given)) else ""
    return f"a {type(given).__name__} of {parts or 'nothing'}{hint}"


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
                f"{_hint_of_jax(factory, kwargs)}"
            ) from None
    try:
        return factory(**kwargs)
    except Exception as error:
        raise ModelError(
            f"model: expected a model from {name} with model_kwargs {kwargs}, got {summary(error)}"
        ) from error


def _hint_of_jax(factory: Any, kwargs: Mapping[str, Any]) -> str:
    """What to give with a function that may be one of parameters and observations."""
    if kwargs or "jax" not in sys.modules or isinstance(factory, type) or len(_required_arguments(factory)) != 2:
        return ""
    return "; a function of JAX comes with its parameters, as the pair (apply, parameters)"


def _first_calls(framework: Framework, model: Any, space: spaces.Space[Any], input_shape: Any) -> None:
    """Calls the model, which creates its weights: on `input_shape` first, then on an observation of another shape."""
    observation = _example(space, None)
    examples, after = [observation], ""
    if input_shape is not None and input_shape is not True:
        given = _example(space, input_shape)
        examples = [given] if given.shape == observation.shape else [given, observation]
        after = f" after input_shape={input_shape!r}"
    for example in examples:
        try:
            outputs = framework.first_call(at_start(model), example)
        except Exception as error:
            leaves = ", ".join(
                f"{name or 'state'} {list(leaf.shape)} {leaf.dtype}" for name, leaf in model_leaves(space).items()
            )
            told = error if isinstance(error, ModelError) else summary(error)
            raise ModelError(
                f"model: expected {_name(model)} to take observations ({leaves}){after}, got {told}{_hint(space)}"
                f"{'; if it makes a model, give its arguments as model_kwargs' if inspect.isroutine(model) else ''}"
            ) from error
        if inspect.isroutine(model) and not isinstance(outputs, Mapping) and not hasattr(outputs, "shape"):
            raise InvalidTypeError(
                f"model_kwargs: expected arguments of {_name(model)}{inspect.signature(model)}, got {{}}; or, if it is "
                f"a model and makes none, a dict of outputs for observations, got {type(outputs).__name__}"
            )
        _as_outputs(outputs)


def _name(model: Any) -> str:
    """The name of a model in messages; that of a function of JAX with how it is called."""
    if isinstance(model, JaxModel):
        return f"{model.title}(parameters, state)" if type(model) is JaxModel else model.title
    return str(getattr(model, "__name__", type(model).__name__))


def _hint(space: spaces.Space[Any]) -> str:
    """What a model has to do with an observation that is one number of a Discrete space."""
    if not isinstance(space, spaces.Discrete):
        return ""
    return (
        f"; an observation of {space} is a number and not a row of numbers: the model may begin with a one-hot code of "
        f"width {space.n}, as tf.one_hot(state, {space.n}) or torch.nn.functional.one_hot(state, {space.n}).float(), "
        f"or with an embedding"
    )


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
