"""Environment: one environment of any API behind one interface: gymnasium, gym 0.26, the older gym, plain classes."""

from __future__ import annotations

import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from gymnasium import spaces

from really.data.masks import mask_in
from really.data.spaces import to_gymnasium
from really.envs.real_gym import advice
from really.envs.results import StepResult, first_observation, five_values, from_old
from really.errors import EnvironmentFailedError, InvalidTypeError, summary

log = logging.getLogger("really")

# `elapsed >= NO_LIMIT` is never true, so an episode without a time limit needs no test of its own.
NO_LIMIT = sys.maxsize

# Characters of an error's message and of its traceback that a runner sends.
LONGEST_MESSAGE, LONGEST_TRACE = 1000, 8000


class Environment:
    """One environment: `reset(seed) -> observation`, `step(action) -> (obs, reward, terminated, truncated, info)`.

    The first call of `step` finds out whether the environment returns four or five values, and sets `is_known`. Read
    the attribute `step` again then: it calls the environment directly. `info` is that of the last reset.

    Args:
        env: the environment itself.
        limit: steps after which the caller truncates an episode; NO_LIMIT if `env` truncates it, or nobody does.
        is_owned: whether `close` closes `env`.

    Attributes:
        reward_shape: the shape that a reward must have; () for one number.
        info: what the last `reset` returned beside the observation; None if nothing.
        odd_info: what the last `reset` returned beside the observation, if that is neither a mapping nor None.
    """

    def __init__(self, env: Any, limit: int = NO_LIMIT, is_owned: bool = True) -> None:
        self.env = env
        self.limit = limit
        self.reward_shape: tuple[int, ...] = ()
        self._is_owned = is_owned
        self.step: Callable[[Any], StepResult] = self._first_step
        self.is_known = False
        self.info: Any = None
        self.odd_info: Any = None
        self._resets_with_seed = _takes_seed(env)
        self._action_masks = _method(env, "action_masks")

    def reset(self, seed: int | None = None) -> Any:
        """Starts an episode and returns its first observation; a seed restarts the environment's generator.

        Raises:
            TypeError: the environment returned neither an observation nor (observation, info).
        """
        if seed is not None:
            self._seed_spaces(seed)
        if seed is not None and self._resets_with_seed:
            result = self.env.reset(seed=seed)
        else:
            if seed is not None and callable(getattr(self.env, "seed", None)):
                self.env.seed(seed)
            result = self.env.reset()
        if type(result) is tuple and len(result) == 2 and type(result[1]) is dict and not self._declares_tuple:
            self.info = result[1]
            return result[0]
        observation, self.odd_info = first_observation(result, self._space)
        is_pair = isinstance(result, tuple | list) and len(result) == 2 and result[0] is observation
        self.info = result[1] if is_pair else None
        return observation

    def action_mask(self, info: Any) -> Any:
        """The mask of the current state's actions: that in `info`, or that of a method `action_masks`; None if none."""
        mask = mask_in(info)
        return self._action_masks() if mask is None and self._action_masks is not None else mask

    def render(self, mode: str | None) -> Any:
        """Renders a frame; calls `render(mode=...)` if the environment has this older API."""
        if hasattr(self.env, "render_mode") or "mode" not in parameters(self.env.render):
            return self.env.render()
        return self.env.render(mode=mode)

    def close(self) -> None:
        """Closes the environment if it is owned and has a method `close`. Its errors become a warning."""
        if self._is_owned and callable(getattr(self.env, "close", None)):
            with closing_errors_as_warnings(type(self.env).__name__):
                self.env.close()

    @cached_property
    def _space(self) -> spaces.Space[Any] | None:
        """The declared observation space. None if there is none, or one of an unknown kind."""
        with suppress(InvalidTypeError):
            return to_gymnasium(getattr(self.env, "observation_space", None))
        return None

    @cached_property
    def _declares_tuple(self) -> bool:
        return isinstance(self._space, spaces.Tuple)

    def _first_step(self, action: Any) -> StepResult:
        result = self.env.step(action)
        values = five_values(result, self.reward_shape)
        self.is_known = True
        self.step = self.env.step if len(result) == 5 else self._old_step
        return values

    def _old_step(self, action: Any) -> StepResult:
        return from_old(*self.env.step(action))

    def _seed_spaces(self, seed: int) -> None:
        """Seeds the spaces, for environments that sample from them."""
        for name in ("action_space", "observation_space"):
            space = getattr(self.env, name, None)
            if space is not None and callable(getattr(space, "seed", None)):
                space.seed(seed)


class SeenEnvironment(Environment):
    """An environment that a subclass sees: its hooks are called within `reset` and `step`.

    A batch resets an environment within the step that ends its episode, so the last state is not visible from outside.

    Attributes:
        inner: the environment itself.
    """

    def __init__(self, inner: Environment) -> None:
        super().__init__(inner.env, inner.limit)
        self.inner = inner
        self.step = self._seen_step
        self.is_known = True

    def reset(self, seed: int | None = None) -> Any:
        """Starts an episode."""
        observation = self.inner.reset(seed)
        self.info = self.inner.info
        self.see_start(observation)
        return observation

    def close(self) -> None:
        """Closes the environment."""
        self.inner.close()

    def see_start(self, observation: Any) -> None:
        """Called with what a reset returned."""
        raise NotImplementedError

    def see_step(self, result: StepResult) -> None:
        """Called with what a step returned."""
        raise NotImplementedError

    def _seen_step(self, action: Any) -> StepResult:
        result = self.inner.step(action)
        self.see_step(result)
        return result


def _method(env: Any, name: str) -> Callable[[], Any] | None:
    """A method that an environment, or one that it wraps, has itself. Returns None if there is none.

    An environment whose `__getattr__` answers to every name, such as a proxy, does not have the method itself.
    """
    seen: list[Any] = []
    while env is not None and not any(env is other for other in seen):
        if inspect.getattr_static(env, name, None) is not None:
            return getattr(env, name)  # type: ignore[no-any-return]
        seen.append(env)
        env = getattr(env, "env", None) if inspect.getattr_static(env, "env", None) is not None else None
    return None


def parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a callable; empty if Python cannot tell its signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def accepts(function: Any, name: str) -> bool:
    """Whether `function` can be called with the keyword argument `name`."""
    found = parameters(function)
    return name in found or any(p.kind is p.VAR_KEYWORD for p in found.values())


def _takes_seed(env: Any) -> bool:
    """Whether `reset` takes a seed. Wrappers pass `**kwargs` on, so the innermost `reset` must accept it as well."""
    innermost = getattr(env, "unwrapped", env)
    return accepts(env.reset, "seed") and accepts(innermost.reset, "seed")


@contextmanager
def logged_warnings() -> Iterator[None]:
    """Turns warnings of registries and constructors, such as that of a deprecated version, into log lines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        log.info("%s", message)


@contextmanager
def closing_errors_as_warnings(name: str) -> Iterator[None]:
    """Turns an error of an environment's `close` into a warning: what was collected before it is still right."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"environment {name!r}: expected close to succeed, got {summary(error)}", stacklevel=2)


def failure(where: str, error: BaseException) -> EnvironmentFailedError:
    """The EnvironmentFailedError to raise from `error`; it holds the place, the error and its traceback as text.

    The text can be sent between processes: it has a bounded length, and lone surrogates are escaped.
    """
    try:
        message, trace = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
    except Exception as unprintable:  # `__str__` of the environment's own error raised
        message = f"{type(error).__name__}, whose text raised {type(unprintable).__name__}"
        trace = "".join(traceback.format_tb(error.__traceback__))
    message = _shortened(message, LONGEST_MESSAGE) + advice(error)
    text = f"{_shortened(where, LONGEST_MESSAGE)}: {message}\n\nOriginal traceback:\n{_shortened(trace, LONGEST_TRACE)}"
    return EnvironmentFailedError(text.encode("utf-8", "backslashreplace").decode())


def _shortened(text: str, longest: int) -> str:
    """The text, without its middle if it has more than `longest` characters."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
