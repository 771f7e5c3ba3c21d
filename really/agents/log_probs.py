"""Log-probability and entropy of each kind of policy in TensorFlow, with gradients to the model's outputs.

Each function but `of_actions` returns a pair: log-probabilities [n] and entropies [n].
"""

from __future__ import annotations

import functools
import math

import tensorflow as tf

_LOG_2PI = math.log(2.0 * math.pi)


def of_actions(values: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """The value of each row's action, [n], from values [n, action] and action numbers [n].

    `tf.gather(batch_dims=1)` does not serve here: once traced for any number of rows, its gradient makes XLA compile
    anew for every batch size.
    """
    rows = tf.range(tf.shape(actions, out_type=actions.dtype)[0], dtype=actions.dtype)
    return tf.gather_nd(values, tf.stack([rows, actions], axis=1))


def categorical(logits: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For action numbers [n] under softmax(logits), logits [n, action]."""
    log_probs = tf.nn.log_softmax(logits)
    entropy = -tf.reduce_sum(tf.math.multiply_no_nan(log_probs, tf.exp(log_probs)), axis=-1)
    return of_actions(log_probs, actions), entropy


def bernoulli(logits: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For independent binary actions [n, parts]; a logit is that of the action 1."""
    logits = tf.reshape(logits, tf.shape(actions))
    cross = functools.partial(tf.nn.sigmoid_cross_entropy_with_logits, logits=logits)
    log_prob = -tf.reduce_sum(cross(labels=tf.cast(actions, tf.float32)), axis=-1)
    return log_prob, tf.reduce_sum(cross(labels=tf.sigmoid(logits)), axis=-1)


def epsilon_greedy(q_values: tf.Tensor, actions: tf.Tensor, epsilon: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For action numbers [n, 1], where a uniformly random action has probability epsilon."""
    count = q_values.shape[-1]
    probabilities = (1.0 - epsilon) * tf.one_hot(tf.argmax(q_values, axis=-1), count) + epsilon / count
    entropy = -tf.reduce_sum(tf.math.multiply_no_nan(tf.math.log(probabilities), probabilities), axis=-1)
    return tf.math.log(of_actions(probabilities, actions[:, 0])), entropy


def normal(mu: tf.Tensor, sigma: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For real actions [n, parts] under a diagonal Gaussian: log-densities, and entropies ½ + ½ log 2π + log sigma.

    `mu` is [n, parts], and `sigma` is broadcast to it. Both are summed over the parts.
    """
    sigma = sigma + tf.zeros_like(mu)
    z = (actions - mu) / sigma
    log_prob = tf.reduce_sum(-0.5 * z * z - tf.math.log(sigma) - 0.5 * _LOG_2PI, axis=-1)
    return log_prob, tf.reduce_sum(0.5 + 0.5 * _LOG_2PI + tf.math.log(sigma), axis=-1)
