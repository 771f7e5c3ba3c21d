"""Environment: one environment of any API behind one interface: gymnasium, gym 0.26, the older gym, plain classes."""

from __future__ import annotations

import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from really.errors import EnvironmentFailedError

log = logging.getLogger("really")

# `elapsed >= NO_LIMIT` is never true, so an episode without a time limit needs no test of its own.
NO_LIMIT = sys.maxsize

# Characters of an error's message and of its traceback that a runner sends.
LONGEST_MESSAGE, LONGEST_TRACE = 1000, 8000

StepResult = tuple[Any, Any, Any, Any, Any]


class Environment:
    """One environment: `reset(seed) -> observation`, `step(action) -> (obs, reward, terminated, truncated, info)`.

    The first call of `step` finds out whether the environment returns four or five values, and sets `is_known`. Read
    the attribute `step` again then: it calls the environment directly.

    Args:
        env: the environment itself.
        limit: steps after which the caller truncates an episode; NO_LIMIT if `env` truncates it, or nobody does.
        is_owned: whether `close` closes `env`.
    """

    def __init__(self, env: Any, limit: int = NO_LIMIT, is_owned: bool = True) -> None:
        self.env = env
        self.limit = limit
        self._is_owned = is_owned
        self.step: Callable[[Any], StepResult] = self._first_step
        self.is_known = False
        self._resets_with_seed = _takes_seed(env)

    def reset(self, seed: int | None = None) -> Any:
        """Starts an episode and returns its first observation; a seed restarts the environment's generator."""
        if seed is not None:
            self._seed_spaces(seed)
        if seed is not None and self._resets_with_seed:
            result = self.env.reset(seed=seed)
        else:
            if seed is not None and callable(getattr(self.env, "seed", None)):
                self.env.seed(seed)
            result = self.env.reset()
        return result[0] if self._has_info(result) else result

    def render(self, mode: str | None) -> Any:
        """Renders a frame; calls `render(mode=...)` if the environment has this older API."""
        if hasattr(self.env, "render_mode") or "mode" not in parameters(self.env.render):
            return self.env.render()
        return self.env.render(mode=mode)

    def close(self) -> None:
        """Closes the environment if it is owned and has a method `close`."""
        if self._is_owned and callable(getattr(self.env, "close", None)):
            self.env.close()

    def _first_step(self, action: Any) -> StepResult:
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) not in (4, 5):
            got = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"{type(result)}"
            raise TypeError(
                "step: expected (observation, reward, terminated, truncated, info) "
                f"or the older (observation, reward, done, info), got {got}"
            )
        self.is_known = True
        if len(result) == 5:
            self.step = self.env.step
            return result
        self.step = self._old_step
        return _from_old(*result)

    def _old_step(self, action: Any) -> StepResult:
        return _from_old(*self.env.step(action))

    def _has_info(self, result: Any) -> bool:
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            return False
        # The observation of an older environment may itself be such a pair; its space shows that.
        space: Any = getattr(self.env, "observation_space", None)
        parts = [type(part).__name__ for part in space.spaces] if type(space).__name__ == "Tuple" else []
        return parts[1:] != ["Dict"] or not space.contains(result)

    def _seed_spaces(self, seed: int) -> None:
        """Seeds the spaces, for environments that sample from them."""
        for name in ("action_space", "observation_space"):
            space = getattr(self.env, name, None)
            if space is not None and callable(getattr(space, "seed", None)):
                space.seed(seed)


def _from_old(observation: Any, reward: Any, done: Any, info: Any) -> StepResult:
    """Five values from the older four: `done` by the time limit is a truncation, not a termination."""
    truncated = bool(done and isinstance(info, Mapping) and info.get("TimeLimit.truncated", False))
    return observation, reward, bool(done) and not truncated, truncated, info


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


def failure(where: str, error: BaseException) -> EnvironmentFailedError:
    """The EnvironmentFailedError to raise from `error`; it holds the place, the error and its traceback as text.

    The text can be sent between processes: it has a bounded length, and lone surrogates are escaped.
    """
    try:
        message, trace = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
    except Exception as unprintable:  # `__str__` of the environment's own error raised
        message = f"{type(error).__name__}, whose text raised {type(unprintable).__name__}"
        trace = "".join(traceback.format_tb(error.__traceback__))
    text = f"{where}: {_shortened(message, LONGEST_MESSAGE)}\n\nOriginal traceback:\n{_shortened(trace, LONGEST_TRACE)}"
    return EnvironmentFailedError(text.encode("utf-8", "backslashreplace").decode())


def _shortened(text: str, longest: int) -> str:
    """The text, without its middle if it has more than `longest` characters."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
