"""The micro suite's kernels in TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Array = Any


def gate(a: Array, b: Array) -> Array:
    return tf.nn.gelu(a * b + a, approximate=False) * tf.sigmoid(b)


def chain(a: Array, b: Array) -> Array:
    c = a * 0.5 + b
    return tf.tanh(c * c - a) * tf.exp(-tf.abs(b)) + tf.nn.relu(a)


def broadcast(x: Array, row: Array, column: Array) -> Array:
    return x * row + column


def transpose(x: Array) -> Array:
    return tf.transpose(x)


def transpose_add(x: Array, turned: Array) -> Array:
    return x + tf.transpose(turned)


def sum_rows(x: Array) -> Array:
    return tf.reduce_sum(x, -1)


def sum_columns(x: Array) -> Array:
    return tf.reduce_sum(x, 0)


def sum_middle(x: Array) -> Array:
    return tf.reduce_sum(x, 1)


def sum_all(x: Array) -> Array:
    return tf.reduce_sum(x)


def max_columns(x: Array) -> Array:
    return tf.reduce_max(x, 0)


def var_rows(x: Array) -> Array:
    wide, count = tf.cast(x, tf.float32), x.shape[-1]
    return tf.cast(tf.math.reduce_variance(wide, -1) * (count / (count - 1)), x.dtype)


def softmax(x: Array) -> Array:
    return tf.nn.softmax(x, -1)


def nll(x: Array, targets: Array) -> Array:
    likely = tf.nn.log_softmax(x, -1)
    return -tf.reduce_mean(tf.gather(likely, targets, axis=1, batch_dims=1))


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    return normal(x, [-1]) * weight + bias


def normal(x: Array, axes: list[int]) -> Array:
    """Less its mean, by its standard deviation, over these axes; computed in float32."""
    wide = tf.cast(x, tf.float32)
    mean, variance = tf.nn.moments(wide, axes, keepdims=True)
    return tf.cast((wide - mean) * tf.math.rsqrt(variance + 1e-5), x.dtype)


def rms_norm(x: Array, weight: Array) -> Array:
    wide = tf.cast(x, tf.float32)
    scale = tf.math.rsqrt(tf.reduce_mean(wide * wide, -1, keepdims=True) + 1e-6)
    return tf.cast(wide * scale, x.dtype) * weight


def group_norm(x: Array, weight: Array, bias: Array) -> Array:
    batch, channels, width = x.shape
    split = tf.reshape(x, (batch, min(32, channels // 2), -1, width))
    return tf.reshape(normal(split, [2, 3]), x.shape) * weight[:, None] + bias[:, None]


def rotary(x: Array, cos: Array, sin: Array) -> Array:
    first, second = tf.split(x, 2, -1)
    return tf.concat((first * cos - second * sin, second * cos + first * sin), -1)


def gelu_gate(a: Array, b: Array) -> Array:
    return tf.nn.gelu(a, approximate=False) * b


def silu_gate(a: Array, b: Array) -> Array:
    return tf.nn.silu(a) * b


def argmax(x: Array) -> Array:
    return tf.argmax(x, -1)


def cumsum(x: Array) -> Array:
    return tf.cumsum(x, -1)


def embedding_add(table: Array, ids: Array, places: Array) -> Array:
    return tf.gather(table, ids) + places


def embedding_sum(table: Array, bags: Array) -> Array:
    return tf.reduce_sum(tf.gather(table, bags), 1)
