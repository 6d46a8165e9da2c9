"""Models in JAX, on the parameters of PyTorch's modules (tracejit.benchmarks.models)."""

from __future__ import annotations

import itertools
from typing import Any

import jax

from tracejit.benchmarks.ports.jax_micro import layer_norm

Array = Any
Parameters = dict[str, Array]


def linear(p: Parameters, name: str, x: Array) -> Array:
    found = x @ p[f"{name}.weight"].T
    return found + p[f"{name}.bias"] if f"{name}.bias" in p else found


def norm(p: Parameters, name: str, x: Array) -> Array:
    return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"])


def add_norm(p: Parameters, x: Array, y: Array) -> Array:
    return norm(p, "norm", x + y)


def mlp(p: Parameters, x: Array) -> Array:
    last = max(int(name.split(".")[0]) for name in p)
    for layer in range(0, last, 2):
        x = jax.nn.gelu(linear(p, str(layer), x), approximate=False)
    return linear(p, str(last), x)


def gpt(p: Parameters, ids: Array, *, heads: int) -> Array:
    x = p["tokens.weight"][ids] + p["places.weight"][: ids.shape[1]]
    for block in itertools.count():
        if f"blocks.{block}.qkv.weight" not in p:
            return linear(p, "head", norm(p, "norm", x))
        x = gpt_block(p, f"blocks.{block}.", x, heads)


def gpt_block(p: Parameters, at: str, x: Array, heads: int) -> Array:
    x = x + attend(p, at, norm(p, f"{at}norm1", x), heads)
    wide = jax.nn.gelu(linear(p, f"{at}up", norm(p, f"{at}norm2", x)), approximate=False)
    return x + linear(p, f"{at}down", wide)


def attend(p: Parameters, at: str, x: Array, heads: int) -> Array:
    batch, tokens, width = x.shape
    split = linear(p, f"{at}qkv", x).reshape(batch, tokens, 3, heads, width // heads)
    q, k, v = split[:, :, 0], split[:, :, 1], split[:, :, 2]
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return linear(p, f"{at}out", mixed.reshape(batch, tokens, width))
