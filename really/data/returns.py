"""Returns and advantages of trajectory segments: Monte Carlo and GAE on `[env, time]`, NumPy only.

All functions solve x_t = c_t + g_t * x_{t+1}, where g_t is 0 at the end of an episode and of a segment. Functions that
look back instead of ahead reverse the time axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from really.errors import InvalidTypeError, InvalidValueError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def monte_carlo(
    rewards: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    final_values: ArrayLike,
    gamma: float,
    lengths: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Discounted returns. They stop where an episode terminates, and bootstrap where it is only cut.

    G_t = r_t + gamma * (0 if terminated; V(s'_t) if truncated or cut by the segment's end; else G_{t+1}),
    Sutton and Barto, Reinforcement Learning, 2nd edition, equation 3.9, with the time limits of Pardo et al.
    (2018), section 3.2. A row that is both terminated and truncated counts as terminated.

    Args:
        rewards: r_t, `[env, time]`; each row is one environment's segment, in time order.
        terminated: d_t, `[env, time]` bool.
        truncated: u_t, `[env, time]` bool.
        final_values: V(s'_t), `[env, time]`, zeros if the model has none. Read only where a segment is cut.
        gamma: discount factor.
        lengths: number of filled steps of each segment, `[env]`; all steps by default.

    Returns:
        G, `[env, time]` float32, computed in float64; 0 beyond a segment's length.

    Raises:
        InvalidValueError: an argument's shape differs from that of `rewards`.
    """
    reward = _matrix("rewards", rewards)
    filled, ends, open_ends = _segments(reward.shape, terminated, truncated, lengths)
    final = _like("final_values", final_values, reward.shape, np.float64)
    gains = np.where(filled, reward, 0.0)
    gains[open_ends] += gamma * final[open_ends]
    return _accumulate(gains, np.where(ends, 0.0, gamma)).astype(np.float32)


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    final_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float,
    lam: float,
    lengths: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Generalised advantage estimates, cut at the end of a segment (Schulman et al. 2016, equation 16).

    delta_t = r_t + gamma * (1 - d_t) * V(s'_t) - V(s_t);  A_t = delta_t + gamma * lam * (1 - e_t) * A_{t+1},
    where e_t is 1 at the end of an episode or segment for any reason. If t is no end, V(s'_t) is `values[t + 1]`.

    Args:
        rewards: r_t, `[env, time]`; each row is one environment's segment, in time order.
        values: V(s_t), `[env, time]`.
        final_values: V(s'_t), `[env, time]`, zeros if the model has none. Read only where a segment is cut.
        terminated: d_t, `[env, time]` bool.
        truncated: u_t, `[env, time]` bool.
        gamma: discount factor.
        lam: how far an advantage looks ahead: 0 is the one-step error, 1 Monte Carlo minus the value.
        lengths: number of filled steps of each segment, `[env]`; all steps by default.

    Returns:
        A, `[env, time]` float32, computed in float64; 0 beyond a segment's length.

    Raises:
        InvalidValueError: an argument's shape differs from that of `rewards`.
    """
    reward = _matrix("rewards", rewards)
    filled, ends, open_ends = _segments(reward.shape, terminated, truncated, lengths)
    value = np.where(filled, _like("values", values, reward.shape, np.float64), 0.0)
    final = _like("final_values", final_values, reward.shape, np.float64)
    next_value = np.zeros_like(value)
    next_value[:, :-1] = value[:, 1:]
    next_value[ends] = 0.0
    next_value[open_ends] = final[open_ends]
    delta = np.where(filled, reward, 0.0) + gamma * next_value - value
    return _accumulate(delta, np.where(ends, 0.0, gamma * lam)).astype(np.float32)


def discount_cumsum(x: ArrayLike, discount: float) -> NDArray[np.float32]:
    """Discounted sums from each step on: `[x0 + d*x1 + d^2*x2, x1 + d*x2, x2]`, `[time]` float32.

    Args:
        x: `[time]`, one episode.
        discount: the factor d.

    Raises:
        InvalidValueError: `x` does not have exactly one axis.
        InvalidTypeError: `x` has something other than numbers.
    """
    try:
        gains = np.array(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"x: expected numbers, got {x!r}: {error}") from error
    if gains.ndim != 1:
        raise InvalidValueError(f"x: expected one axis [time], got shape {gains.shape}")
    factors = np.full(gains.shape, float(discount))
    factors[-1:] = 0.0
    return _accumulate(gains, factors).astype(np.float32)


def running_returns(
    rewards: ArrayLike, ends: ArrayLike, lengths: ArrayLike, before: ArrayLike, gamma: float
) -> tuple[Floats, Floats]:
    """Discounted sums of an episode's rewards so far: R_t = r_t + gamma * R_{t-1}, with R = 0 before each episode.

    Args:
        rewards: r_t, `[row]`: the rows of one environment after those of another, each in time order.
        ends: whether an episode ended with the row, for any reason, `[row]` bool.
        lengths: number of rows of each environment, `[env]`; 0 is allowed.
        before: R of the row before each environment's first row, `[env]`; 0 if an episode starts with it.
        gamma: discount factor.

    Returns:
        R, `[row]` float64, and the argument `before` for the next rows, `[env]` float64.
    """
    gains, end, length = np.array(rewards, np.float64), np.asarray(ends, np.bool_), np.asarray(lengths)
    filled = length > 0
    last = np.cumsum(length[filled]) - 1
    first = last + 1 - length[filled]
    after = np.array(before, np.float64)
    gains[first] += gamma * after[filled]
    factors = np.full(gains.shape, float(gamma))
    factors[1:][end[:-1]] = 0.0
    factors[first] = 0.0
    found = _accumulate(gains[::-1], factors[::-1])[::-1]
    after[filled] = np.where(end[last], 0.0, found[last])
    return found, after


def _accumulate(gains: Floats, factors: Floats) -> Floats:
    """Solves x_t = gains_t + factors_t * x_{t+1} along the last axis; the last factor of each row is 0.

    By doubling: after k passes gains_t sums 2^k steps, so the number of passes is log2 of the longest episode. Factors
    are 0 at the ends, so all rows can be one vector, and the cost per step hardly depends on the shape. It is a fifth
    of the cost of a Python loop over one long row, and a fiftieth of that of NumPy calls along its time axis.
    """
    x, factor = gains.ravel().copy(), factors.ravel().copy()
    step = 1
    while step < len(x) and factor.any():
        continues = factor[:-step] != 0.0
        # At the end of an episode nothing is added: 0 * inf from the next episode would be NaN.
        ahead = np.multiply(factor[:-step], x[step:], where=continues, out=np.zeros(len(x) - step))
        x[:-step] += ahead
        factor[:-step] *= factor[step:]
        factor[-step:] = 0.0
        step *= 2
    return x.reshape(gains.shape)


def _segments(
    shape: Sequence[int], terminated: ArrayLike, truncated: ArrayLike, lengths: ArrayLike | None
) -> tuple[Flags, Flags, Flags]:
    """Flags `[env, time]`: the row is filled; it ends an episode or segment; it is such an end and bootstraps."""
    num_envs, time = shape
    length = np.full(num_envs, time) if lengths is None else np.asarray(lengths)
    if length.shape != (num_envs,) or (length < 0).any() or (length > time).any():
        raise InvalidValueError(f"lengths: expected [{num_envs}] integers from 0 to {time}, got {lengths!r}")
    step = np.arange(time)
    filled = step < length[:, None]
    done = _like("terminated", terminated, shape, np.bool_) & filled
    ends = done | _like("truncated", truncated, shape, np.bool_) | (step >= length[:, None] - 1)
    return filled, ends, ends & ~done & filled


def _matrix(name: str, got: ArrayLike) -> Floats:
    array = np.asarray(got, dtype=np.float64)
    if array.ndim != 2:
        raise InvalidValueError(f"{name}: expected two axes [env, time], got shape {array.shape}")
    return array


def _like(name: str, got: ArrayLike, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    array = np.asarray(got, dtype=dtype)
    if array.shape != tuple(shape):
        raise InvalidValueError(f"{name}: expected shape {tuple(shape)} as rewards has, got {array.shape}")
    return array
