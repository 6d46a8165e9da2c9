"""The micro suite's kernels in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = Any


def gate(a: Array, b: Array) -> Array:
    return jax.nn.gelu(a * b + a, approximate=False) * jax.nn.sigmoid(b)


def chain(a: Array, b: Array) -> Array:
    c = a * 0.5 + b
    return jnp.tanh(c * c - a) * jnp.exp(-jnp.abs(b)) + jax.nn.relu(a)


def broadcast(x: Array, row: Array, column: Array) -> Array:
    return x * row + column


def transpose(x: Array) -> Array:
    return x.T


def transpose_add(x: Array, turned: Array) -> Array:
    return x + turned.T


def sum_rows(x: Array) -> Array:
    return x.sum(-1)


def sum_columns(x: Array) -> Array:
    return x.sum(0)


def sum_middle(x: Array) -> Array:
    return x.sum(1)


def sum_all(x: Array) -> Array:
    return x.sum()


def max_columns(x: Array) -> Array:
    return x.max(0)


def var_rows(x: Array) -> Array:
    return x.var(-1, ddof=1)


def softmax(x: Array) -> Array:
    return jax.nn.softmax(x, -1)


def nll(x: Array, targets: Array) -> Array:
    likely = jax.nn.log_softmax(x, -1)
    return -jnp.take_along_axis(likely, targets[:, None], 1).mean()


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    return normal(x, -1) * weight + bias


def normal(x: Array, axis: int | tuple[int, ...]) -> Array:
    """Less its mean, by its standard deviation, over these axes; computed in float32."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis, keepdims=True)
    variance = wide.var(axis, keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(variance + 1e-5)).astype(x.dtype)


def rms_norm(x: Array, weight: Array) -> Array:
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)
    return (wide * scale).astype(x.dtype) * weight


def group_norm(x: Array, weight: Array, bias: Array) -> Array:
    batch, channels, width = x.shape
    split = x.reshape(batch, min(32, channels // 2), -1, width)
    return normal(split, (2, 3)).reshape(x.shape) * weight[:, None] + bias[:, None]


def rotary(x: Array, cos: Array, sin: Array) -> Array:
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate((first * cos - second * sin, second * cos + first * sin), -1)


def gelu_gate(a: Array, b: Array) -> Array:
    return jax.nn.gelu(a, approximate=False) * b


def silu_gate(a: Array, b: Array) -> Array:
    return jax.nn.silu(a) * b


def argmax(x: Array) -> Array:
    return x.argmax(-1)


def cumsum(x: Array) -> Array:
    return jnp.cumsum(x, -1)


def embedding_add(table: Array, ids: Array, places: Array) -> Array:
    return table[ids] + places


def embedding_sum(table: Array, bags: Array) -> Array:
    return table[bags].sum(1)
