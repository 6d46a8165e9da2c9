"""Models in TensorFlow, on the parameters of PyTorch's modules (tracejit.benchmarks.models)."""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf

from tracejit.benchmarks.ports.tf_micro import layer_norm

Array = Any
Parameters = dict[str, Array]


def linear(p: Parameters, name: str, x: Array) -> Array:
    flat = tf.reshape(x, (-1, x.shape[-1]))
    found = tf.matmul(flat, p[f"{name}.weight"], transpose_b=True)
    found = found + p[f"{name}.bias"] if f"{name}.bias" in p else found
    return tf.reshape(found, (*x.shape[:-1], found.shape[-1]))


def norm(p: Parameters, name: str, x: Array) -> Array:
    return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"])


def add_norm(p: Parameters, x: Array, y: Array) -> Array:
    return norm(p, "norm", x + y)


def mlp(p: Parameters, x: Array) -> Array:
    last = max(int(name.split(".")[0]) for name in p)
    for layer in range(0, last, 2):
        x = tf.nn.gelu(linear(p, str(layer), x), approximate=False)
    return linear(p, str(last), x)


def gpt(p: Parameters, ids: Array, *, heads: int) -> Array:
    x = tf.gather(p["tokens.weight"], ids) + p["places.weight"][: ids.shape[1]]
    for block in itertools.count():
        if f"blocks.{block}.qkv.weight" not in p:
            return linear(p, "head", norm(p, "norm", x))
        x = gpt_block(p, f"blocks.{block}.", x, heads)


def gpt_block(p: Parameters, at: str, x: Array, heads: int) -> Array:
    x = x + attend(p, at, norm(p, f"{at}norm1", x), heads)
    wide = tf.nn.gelu(linear(p, f"{at}up", norm(p, f"{at}norm2", x)), approximate=False)
    return x + linear(p, f"{at}down", wide)


def attend(p: Parameters, at: str, x: Array, heads: int) -> Array:
    batch, tokens, width = x.shape
    size = width // heads
    split = tf.reshape(linear(p, f"{at}qkv", x), (batch, tokens, 3, heads, size))
    q, k, v = tf.unstack(tf.transpose(split, (2, 0, 3, 1, 4)))
    scores = tf.matmul(q, k, transpose_b=True) * size**-0.5
    seen = tf.linalg.band_part(tf.ones((tokens, tokens), tf.bool), -1, 0)
    scores = tf.where(seen, scores, tf.constant(float("-inf"), scores.dtype))
    mixed = tf.matmul(tf.nn.softmax(scores), v)
    merged = tf.reshape(tf.transpose(mixed, (0, 2, 1, 3)), (batch, tokens, width))
    return linear(p, f"{at}out", merged)
