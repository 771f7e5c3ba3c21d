"""The sample unit of n-step returns: a row becomes up to n steps, with their discounted reward and `discount`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from really._utils.checks import checked_integer, checked_number
from really.data.schema import ColumnSpec, Spec
from really.errors import InvalidTypeError, InvalidValueError
from really.replay._ring import Ring
from really.replay.units import SampleUnit

REWARD, END, TERMINAL, AGENT, DISCOUNT = "reward", "episode_end", "terminal", "agent", "discount"
MOST_STEPS = 2**31 - 1
AFTER = ("state_new", "action_mask_new", TERMINAL, "not_done", "truncated", END)
"""Columns that a batch takes from the last of a row's steps, leaves of `state_new` included."""


class NSteps(SampleUnit):
    """Each row of a batch is up to `n_step` steps of one agent.

    `reward` is their discounted sum; `state_new`, `terminal` and the other columns of `AFTER` are those of the last
    step; `discount`, float32, is gamma^k (1 - terminal) after k steps.
    """

    def __init__(self, n_step: SupportsIndex, gamma: float) -> None:
        steps, discount = checked(n_step, gamma)
        assert discount is not None
        self.n_step, self.gamma = steps, discount

    def options(self) -> dict[str, Any]:
        """`n_step` and `gamma`."""
        return {"n_step": self.n_step, "gamma": self.gamma}

    def check_keys(self, keys: Sequence[str]) -> None:
        """Raises InvalidValueError if a column that several steps need is missing."""
        if not {REWARD, END, TERMINAL} <= set(keys):
            raise InvalidValueError(
                f"n_step: expected the keys {REWARD!r}, {END!r} and {TERMINAL!r}, got {list(keys)}; managers deliver "
                f"{END!r} where `returns` asks for it"
            )

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError if a column that several steps need is missing or of another dtype or shape."""
        self.check_keys(list(spec))
        for name in (REWARD, END, TERMINAL):
            dtype, shape = spec[name]
            if dtype != np.float32 or shape != ():
                raise InvalidValueError(
                    f"n_step: key {name!r}: expected float32 of shape [], got {dtype} of {list(shape)}"
                )
        if DISCOUNT in spec:
            raise InvalidValueError(f"n_step: expected no key {DISCOUNT!r}, which batches add, got {list(spec)}")

    def prepare(self, ring: Ring) -> None:
        """Makes batches of the ring consist of up to `n_step` steps."""
        names = ring.names
        reward, end, terminal = (names.index(name) for name in (REWARD, END, TERMINAL))
        agent = names.index(AGENT) if AGENT in names else -1
        after = [at for at, name in enumerate(names) if name.partition(".")[0] in AFTER]
        ring.set_steps(self.n_step, self.gamma, reward, end, terminal, agent, after)

    def batch_spec(self, spec: Spec) -> Spec:
        """The columns and `discount`."""
        return spec | {DISCOUNT: ColumnSpec(np.dtype(np.float32))}


def checked(n_step: Any, gamma: Any) -> tuple[int, float | None]:
    """`n_step` as an integer >= 1, and `gamma` as a number from 0 to 1, or None with n_step=1."""
    num = checked_integer("n_step", n_step, 1, MOST_STEPS)
    if num == 1 and gamma is not None:
        raise InvalidValueError(f"gamma: expected none with n_step=1, which would not use it, got {gamma!r}")
    if num == 1:
        return num, None
    if gamma is None:
        raise InvalidTypeError(f"gamma: expected a number from 0 to 1 with n_step={num}, got None")
    return num, checked_number("gamma", gamma, 0, 1)


def with_gamma(options: dict[str, Any], gamma: float) -> dict[str, Any]:
    """A buffer's options with the manager's gamma, if n_step needs one; raises InvalidValueError for another gamma."""
    if options.get("n_step", 1) == 1:
        return options
    if options.get("gamma") not in (None, gamma):
        raise InvalidValueError(
            f"gamma: expected {gamma}, which the manager was made with, got {options['gamma']!r} for the buffer"
        )
    return {**options, "gamma": gamma}
