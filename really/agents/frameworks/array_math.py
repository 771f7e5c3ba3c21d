"""Log-probability and entropy of each kind of policy, in the names that NumPy, PyTorch and JAX have in common.

Each function but `of_actions` and `allowed` returns a pair: log-probabilities `[n]` and entropies `[n]`. `xp` is the
library: `numpy`, `torch` or `jax.numpy`. In PyTorch and JAX gradients reach the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from really.data.masks import ActionMasks
from really.policies.policy import LEAST_DISTANCE, Policy, SquashedNormal, normal_quadrature

_LOG_2PI = math.log(2.0 * math.pi)
# Logit of an action that is not allowed. Its probability is 0, and gradients stay finite.
NEVER = -1e30


def of_policy(
    xp: Any, policy: Policy, space: spaces.Space[Any], outputs: Mapping[str, Any], actions: Any, masks: Any
) -> tuple[Any, Any]:
    """For stored actions `[n, parts]` of `space` that count from 0, under the policy with these outputs.

    `masks` are the allowed actions `[n, width]`, or None.
    """
    if isinstance(policy, SquashedNormal):
        return squashed_normal(xp, outputs["mu"], outputs["sigma"], actions, policy)
    if isinstance(space, spaces.Box):
        return normal(xp, outputs["mu"], outputs["sigma"], actions)
    if policy.sampling_type == "epsilon_greedy":
        return epsilon_greedy(xp, outputs["q_values"], actions[:, 0], policy.epsilon, masks)
    if policy.sampling_type == "thompson":
        return categorical(xp, outputs["q_values"] / policy.temperature, actions[:, 0], masks)
    if isinstance(space, spaces.MultiBinary):
        return bernoulli(xp, outputs["policy"], actions, masks)
    sizes = np.ravel(getattr(space, "nvec", getattr(space, "n", 0))).tolist()
    parts = split(outputs["policy"], sizes)
    part_masks = [None] * len(parts) if masks is None else split(masks, sizes)
    pairs = [
        categorical(xp, logits, actions[:, at], mask)
        for at, (logits, mask) in enumerate(zip(parts, part_masks, strict=True))
    ]
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


def of_actions(xp: Any, values: Any, actions: Any) -> Any:
    """The value of each row's action, `[n]`, from values `[n, action]` and action numbers `[n]`."""
    take = xp.take_along_axis if hasattr(xp, "take_along_axis") else xp.take_along_dim
    return take(values, actions[:, None], 1)[:, 0]


def categorical(xp: Any, logits: Any, actions: Any, masks: Any = None) -> tuple[Any, Any]:
    """For action numbers `[n]` under softmax(logits), logits `[n, action]`; `masks` `[n, action]` tells what may be."""
    if masks is not None:
        logits = xp.where(masks, logits, NEVER)
    shifted = logits - xp.amax(logits, -1)[:, None]
    log_probs = shifted - xp.log(xp.sum(xp.exp(shifted), -1))[:, None]
    entropy = -xp.sum(log_probs * xp.exp(log_probs), -1)
    chosen = of_actions(xp, log_probs, actions)
    return chosen if masks is None else xp.where(of_actions(xp, masks, actions), chosen, -math.inf), entropy


def bernoulli(xp: Any, logits: Any, actions: Any, masks: Any = None) -> tuple[Any, Any]:
    """For independent binary actions `[n, parts]`; a logit is that of the action 1.

    `masks` `[n, 2 * parts]` tells for each part whether 0 and whether 1 are allowed.
    """
    logits = logits.reshape(actions.shape)
    softplus = xp.logaddexp(xp.zeros_like(logits), logits)
    log_probs = actions * logits - softplus
    entropies = softplus - xp.exp(logits - softplus) * logits
    if masks is not None:
        zero, one = masks[:, ::2], masks[:, 1::2]
        forced = xp.where(xp.where(actions > 0, one, zero), xp.zeros_like(logits), -math.inf)
        log_probs, entropies = xp.where(zero & one, log_probs, forced), xp.where(zero & one, entropies, 0.0)
    return xp.sum(log_probs, -1), xp.sum(entropies, -1)


def epsilon_greedy(xp: Any, q_values: Any, actions: Any, epsilon: float, masks: Any = None) -> tuple[Any, Any]:
    """For action numbers `[n]`, where a uniformly random one of the allowed actions has probability epsilon."""
    if masks is None:
        masks = q_values == q_values
    else:
        q_values = xp.where(masks, q_values, -math.inf)
    zeros = 0.0 * xp.where(masks, q_values, 0.0)
    counts = xp.sum(zeros + masks, -1)
    # Zeros that depend on the q-values, so that there is a gradient, which is zero.
    random, zero = epsilon / counts, xp.sum(zeros, -1)
    best = random + (1.0 - epsilon)
    of_random = xp.where(of_actions(xp, masks, actions), random, 0.0)
    probabilities = xp.where(actions == xp.argmax(q_values, -1), best, of_random) + zero
    entropy = -_plogp(xp, best) - (counts - 1.0) * _plogp(xp, random)
    with np.errstate(divide="ignore"):
        return xp.log(probabilities), entropy


def _plogp(xp: Any, probabilities: Any) -> Any:
    return probabilities * xp.log(xp.where(probabilities > 0, probabilities, 1.0))


def squashed_normal(xp: Any, mu: Any, sigma: Any, actions: Any, policy: SquashedNormal) -> tuple[Any, Any]:
    """For real actions `[n, parts]` under a Gaussian that tanh squashes into a Box (see `SquashedNormal`).

    Its entropy has no closed form: that of the Gaussian, plus the mean of log(1 - tanh(u)²), by quadrature, plus log of
    half the range.
    """
    # `new_tensor` of PyTorch makes a tensor on the device of `mu`.
    constant = getattr(mu, "new_tensor", xp.asarray)
    low, high, half_range, nodes, weights = map(
        constant, (policy.low, policy.high, policy.half_range, *normal_quadrature())
    )
    distances = xp.stack([actions - low, high - actions]) / half_range
    lower, upper = xp.log(xp.clip(distances, LEAST_DISTANCE, None))
    log_prob, entropy = normal(xp, mu, sigma, 0.5 * (lower - upper))
    u = mu[..., None] + (sigma + xp.zeros_like(mu))[..., None] * nodes
    log_slope = xp.sum(2.0 * (math.log(2.0) - u - xp.logaddexp(xp.zeros_like(u), -2.0 * u)) * weights, (-2, -1))
    log_range = xp.sum(xp.log(half_range), -1)
    return log_prob - xp.sum(lower + upper, -1) - log_range, entropy + log_slope + log_range


def normal(xp: Any, mu: Any, sigma: Any, actions: Any) -> tuple[Any, Any]:
    """For real actions `[n, parts]` under a diagonal Gaussian: log-densities, and entropies ½ + ½ log 2π + log sigma.

    `mu` is `[n, parts]`, and `sigma` is broadcast to it. Both are summed over the parts.
    """
    sigma = sigma + xp.zeros_like(mu)
    z = (actions - mu) / sigma
    log_prob = xp.sum(-0.5 * z * z - xp.log(sigma) - 0.5 * _LOG_2PI, -1)
    return log_prob, xp.sum(0.5 + 0.5 * _LOG_2PI + xp.log(sigma), -1)


def allowed(xp: Any, masks: ActionMasks, values: Any) -> Any:
    """Masks of n states as `[n, width]` booleans. A part without any choice, as in a last state, is not restricted."""
    parts = split(values.reshape(-1, masks.width) != 0, masks.sizes)
    return xp.concatenate([part | ~xp.any(part, -1)[:, None] for part in parts], -1)


def split(values: Any, sizes: Sequence[int]) -> list[Any]:
    """The parts of these sizes along the last axis of `[n, width]`."""
    ends = np.cumsum(sizes).tolist()
    return [values[:, end - size : end] for size, end in zip(sizes, ends, strict=True)]
