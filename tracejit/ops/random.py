"""Rows of the random numbers that `numerics="fast"` draws in kernels (Kind.PULL). Their arguments
are a key and what to make of it; `runtime.philox` says the same in torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from tracejit.fuse.index import Index, linear
from tracejit.fuse.scalar import Scalar, cast, const, index_value, make
from tracejit.ir.dtypes import NAME, TORCH
from tracejit.ir.graph import Node, Size, Value
from tracejit.ops.indexing import Indices
from tracejit.ops.table import Kind, Meta, Puller, row
from tracejit.ops.words import log, sqrt, unary
from tracejit.runtime.philox import DIGITS, cosine, limit

Sizes = Sequence[Size]
cos = unary("cos")


class Words:
    """The words of a draw: element `i` of the tensor has `each` of them, from `i * each` on."""

    def __init__(self, p: Puller, index: Indices, key: Value, sizes: Sizes) -> None:
        self.key, self.place = p.value(key, ()), linear(index, sizes)

    def __call__(self, number: int = 0, each: int = 1) -> Scalar:
        place: Index = self.place * each + number
        return make("philox", index_value(place), self.key, dtype="i32")


def top(word: Scalar, digits: int, dtype: str) -> Scalar:
    """The upper bits of a word, as a number."""
    shifted = make("shr", word, const(32 - digits, word.dtype))
    return cast(shifted & ((1 << digits) - 1), dtype)


def fraction(high: Scalar, low: Scalar, least: int = 0) -> Scalar:
    """53 bits, and `least` more of the last of them, of two words."""
    last = top(low, 27, "f64") + float(least) if least else top(low, 27, "f64")
    return (top(high, 26, "f64") * 2.0**27 + last) * 2.0**-53


def uniform(words: Words, dtype: str) -> Scalar:
    if dtype == "f64":
        return fraction(words(0, 2), words(1, 2))
    digits = DIGITS[TORCH[dtype]]
    return top(words(), digits, "f32") * 2.0**-digits


def normal(words: Words, dtype: str) -> Scalar:
    if dtype == "f64":
        first, second, third, fourth = (words(number, 4) for number in range(4))
        chance, across = fraction(first, second, 1), cos(fraction(third, fourth) * (2 * math.pi))
    else:
        chance = (cast(words(0, 2) & 0x7FFFFFFF, "f32") + 1.0) * 2.0**-31
        across = cosine(top(words(1, 2), 24, "f32") * 2.0**-24)
    return sqrt(log(chance) * -2.0) * across


def bernoulli(words: Words, p: float) -> Scalar:
    below = limit(p)
    return const(True, "bool") if below == 1 << 31 else words() < below


def floats(key: Value, sizes: Sizes, dtype: torch.dtype) -> Meta:
    return NAME[dtype], tuple(sizes)


def bools(key: Value, sizes: Sizes, p: float) -> Meta:
    return "bool", tuple(sizes)


def drawn(name: str, shape: Any, made: Any) -> None:
    """Add a row; `made` gives an element from the draw's words."""

    def pull(p: Puller, node: Node, index: Indices, which: int) -> Scalar:
        key, sizes, given = node.args
        given = NAME[given] if isinstance(given, torch.dtype) else given
        return cast(made(Words(p, index, key, sizes), given), node.out.dtype)

    row(f"tj.{name}", Kind.PULL, shape, pull=pull)


drawn("uniform", floats, uniform)
drawn("normal", floats, normal)
drawn("bernoulli", bools, bernoulli)
