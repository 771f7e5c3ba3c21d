"""Steps of a buffer's batches: several at a time, with what they earn as reward and what is left of the discount."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from really.errors import InvalidTypeError, InvalidValueError
from really.replay import arguments
from really.replay._ring import Ring
from really.replay.columns import Spec

REWARD, END, TERMINAL, AGENT, DISCOUNT = "reward", "episode_end", "terminal", "agent", "discount"
MOST_STEPS = 2**31 - 1
AFTER = ("state_new", TERMINAL, "not_done", "truncated", END)
"""What a batch takes from the last of a row's steps, leaves of `state_new` included."""


def checked(n_step: Any, gamma: Any, keys: Sequence[str] | None) -> tuple[int, float | None]:
    """`n_step` and `gamma` of a buffer: an integer from 1 on, and from 2 on a number from 0 to 1; checks keys."""
    num = arguments.whole("n_step", n_step, MOST_STEPS)
    if num == 1 and gamma is not None:
        raise InvalidValueError(f"gamma: expected none with n_step=1, which would not use it, got {gamma!r}")
    if num == 1:
        return num, None
    if isinstance(gamma, bool) or not isinstance(gamma, int | float | np.number):
        raise InvalidTypeError(f"gamma: expected a number from 0 to 1 with n_step={num}, got {gamma!r}")
    if not 0 <= float(gamma) <= 1:
        raise InvalidValueError(f"gamma: expected a number from 0 to 1, got {gamma!r}")
    if keys is not None:
        check_keys(keys)
    return num, float(gamma)


def with_gamma(options: dict[str, Any], gamma: float) -> dict[str, Any]:
    """Options of a manager's buffer, with the manager's gamma where several steps need one; refuses another."""
    if options.get("n_step", 1) == 1:
        return options
    if options.get("gamma") not in (None, gamma):
        raise InvalidValueError(
            f"gamma: expected {gamma}, which the manager was made with, got {options['gamma']!r} for the buffer"
        )
    return {**options, "gamma": gamma}


def check_keys(keys: Iterable[str]) -> None:
    """Raises InvalidValueError where a column that several steps need is missing."""
    if not {REWARD, END, TERMINAL} <= set(keys):
        raise InvalidValueError(
            f"n_step: expected the keys {REWARD!r}, {END!r} and {TERMINAL!r}, got {list(keys)}; managers deliver "
            f"{END!r} where `returns` asks for it"
        )


def check_spec(spec: Spec) -> None:
    """Raises InvalidValueError where a column that several steps need is missing or of another kind."""
    check_keys(spec)
    for name in (REWARD, END, TERMINAL):
        dtype, shape = spec[name]
        if dtype != np.float32 or shape != ():
            raise InvalidValueError(f"n_step: key {name!r}: expected float32 of shape [], got {dtype} of {list(shape)}")
    if DISCOUNT in spec:
        raise InvalidValueError(f"n_step: expected no key {DISCOUNT!r}, which batches have besides, got {list(spec)}")


def prepare(ring: Ring, n_step: int, gamma: float) -> None:
    """Lets batches of a ring with the right columns be of up to `n_step` steps."""
    names = ring.names
    reward, end, terminal = (names.index(name) for name in (REWARD, END, TERMINAL))
    agent = names.index(AGENT) if AGENT in names else -1
    ring.set_steps(n_step, gamma, reward, end, terminal, agent, _after(names))


def alternating() -> InvalidValueError:
    """The error for rows that cannot be followed."""
    return InvalidValueError(
        f"n_step: expected each agent's rows one after the other, with {END!r} 1 at the last one, got rows of "
        f"another {AGENT!r} where that is 0"
    )


def _after(names: Sequence[str]) -> list[int]:
    return [at for at, name in enumerate(names) if name.partition(".")[0] in AFTER]
