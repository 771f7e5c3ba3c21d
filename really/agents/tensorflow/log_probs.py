"""Log-probability and entropy of each kind of policy in TensorFlow, with gradients to the model's outputs.

Each function but `of_actions` returns a pair: log-probabilities [n] and entropies [n].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from gymnasium import spaces

from really.policies.policy import LEAST_DISTANCE, Policy, SquashedNormal, normal_quadrature

_LOG_2PI = math.log(2.0 * math.pi)
# Logit of an action that is not allowed. Its probability is 0, and gradients stay finite.
NEVER = -1e30


def of_policy(
    policy: Policy,
    space: spaces.Space[Any],
    outputs: Mapping[str, tf.Tensor],
    actions: tf.Tensor,
    epsilon: tf.Tensor,
    temperature: tf.Tensor,
    masks: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """For stored actions [n, parts] of `space` that count from 0, under the policy with these outputs and settings."""
    if isinstance(policy, SquashedNormal):
        return squashed_normal(outputs["mu"], outputs["sigma"], actions, policy)
    if isinstance(space, spaces.Box):
        return normal(outputs["mu"], outputs["sigma"], actions)
    if policy.sampling_type == "epsilon_greedy":
        return epsilon_greedy(outputs["q_values"], actions, epsilon, masks)
    if policy.sampling_type == "thompson":
        return categorical(outputs["q_values"] / temperature, actions[:, 0], masks)
    if isinstance(space, spaces.MultiBinary):
        return bernoulli(outputs["policy"], actions, masks)
    sizes = np.ravel(getattr(space, "nvec", getattr(space, "n", 0))).tolist()
    parts = tf.split(outputs["policy"], sizes, axis=-1)
    part_masks = [None] * len(parts) if masks is None else tf.split(masks, sizes, axis=-1)
    pairs = [
        categorical(logits, actions[:, at], mask)
        for at, (logits, mask) in enumerate(zip(parts, part_masks, strict=True))
    ]
    return tf.add_n([pair[0] for pair in pairs]), tf.add_n([pair[1] for pair in pairs])


def of_actions(values: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """The value of each row's action, [n], from values [n, action] and action numbers [n].

    `tf.gather(batch_dims=1)` does not serve here: once traced for any number of rows, its gradient makes XLA compile
    anew for every batch size.
    """
    rows = tf.range(tf.shape(actions, out_type=actions.dtype)[0], dtype=actions.dtype)
    return tf.gather_nd(values, tf.stack([rows, actions], axis=1))


def categorical(logits: tf.Tensor, actions: tf.Tensor, masks: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """For action numbers [n] under softmax(logits), logits [n, action]; `masks` [n, action] tells what is allowed."""
    if masks is not None:
        logits = tf.where(masks, logits, NEVER)
    log_probs = tf.nn.log_softmax(logits)
    entropy = -tf.reduce_sum(tf.math.multiply_no_nan(log_probs, tf.exp(log_probs)), axis=-1)
    return _or_impossible(of_actions(log_probs, actions), actions, masks), entropy


def bernoulli(logits: tf.Tensor, actions: tf.Tensor, masks: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """For independent binary actions [n, parts]; a logit is that of the action 1.

    `masks` [n, 2 * parts] tells for each part whether 0 and whether 1 are allowed.
    """
    logits = tf.reshape(logits, tf.shape(actions))
    cross = functools.partial(tf.nn.sigmoid_cross_entropy_with_logits, logits=logits)
    log_probs, entropies = -cross(labels=tf.cast(actions, tf.float32)), cross(labels=tf.sigmoid(logits))
    if masks is not None:
        zero, one = masks[:, ::2], masks[:, 1::2]
        forced = tf.where(tf.where(actions > 0, one, zero), 0.0, -math.inf)
        log_probs, entropies = tf.where(zero & one, log_probs, forced), tf.where(zero & one, entropies, 0.0)
    return tf.reduce_sum(log_probs, axis=-1), tf.reduce_sum(entropies, axis=-1)


def epsilon_greedy(
    q_values: tf.Tensor, actions: tf.Tensor, epsilon: tf.Tensor, masks: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """For action numbers [n, 1], where a uniformly random one of the allowed actions has probability epsilon."""
    count = q_values.shape[-1]
    random = epsilon / count
    if masks is not None:
        q_values = tf.where(masks, q_values, -math.inf)
        allowed = tf.cast(masks, tf.float32)
        random = epsilon * allowed / tf.reduce_sum(allowed, axis=-1, keepdims=True)
    probabilities = (1.0 - epsilon) * tf.one_hot(tf.argmax(q_values, axis=-1), count) + random
    entropy = -tf.reduce_sum(tf.math.multiply_no_nan(tf.math.log(probabilities), probabilities), axis=-1)
    return tf.math.log(of_actions(probabilities, actions[:, 0])), entropy


def _or_impossible(log_probs: tf.Tensor, actions: tf.Tensor, masks: tf.Tensor | None) -> tf.Tensor:
    """The log-probabilities [n], and minus infinity for actions [n] that are not allowed."""
    return log_probs if masks is None else tf.where(of_actions(masks, actions), log_probs, -math.inf)


def squashed_normal(
    mu: tf.Tensor, sigma: tf.Tensor, actions: tf.Tensor, policy: SquashedNormal
) -> tuple[tf.Tensor, tf.Tensor]:
    """For real actions [n, parts] under a Gaussian that tanh squashes into a Box (see `SquashedNormal`).

    Its entropy has no closed form: that of the Gaussian, plus the mean of log(1 - tanh(u)²), by quadrature, plus log of
    half the range.
    """
    distances = tf.stack([actions - policy.low, policy.high - actions]) / policy.half_range
    lower, upper = tf.unstack(tf.math.log(tf.maximum(distances, LEAST_DISTANCE)))
    log_prob, entropy = normal(mu, sigma, 0.5 * (lower - upper))
    nodes, weights = normal_quadrature()
    u = mu[..., None] + (sigma + tf.zeros_like(mu))[..., None] * nodes
    log_slope = tf.reduce_sum(2.0 * (math.log(2.0) - u - tf.math.softplus(-2.0 * u)) * weights, axis=[-2, -1])
    log_range = tf.reduce_sum(tf.math.log(policy.half_range))
    return log_prob - tf.reduce_sum(lower + upper, axis=-1) - log_range, entropy + log_slope + log_range


def normal(mu: tf.Tensor, sigma: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For real actions [n, parts] under a diagonal Gaussian: log-densities, and entropies ½ + ½ log 2π + log sigma.

    `mu` is [n, parts], and `sigma` is broadcast to it. Both are summed over the parts.
    """
    sigma = sigma + tf.zeros_like(mu)
    z = (actions - mu) / sigma
    log_prob = tf.reduce_sum(-0.5 * z * z - tf.math.log(sigma) - 0.5 * _LOG_2PI, axis=-1)
    return log_prob, tf.reduce_sum(0.5 + 0.5 * _LOG_2PI + tf.math.log(sigma), axis=-1)
