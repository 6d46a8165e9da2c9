"""Functions on scalars, so that rows read as algebra: the vocabulary's words and a few more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from tracejit.fuse.scalar import Scalar, cast, const, make, where
from tracejit.ir.dtypes import FLOATS, HALVES, INTS, TORCH, opmath

Unary = Callable[[Scalar], Scalar]
Binary = Callable[[Scalar, Scalar], Scalar]
Step = Callable[[Scalar], Scalar]  # rounds an intermediate result
F32_MAX = torch.finfo(torch.float32).max


def unary(word: str) -> Unary:
    """The one-operand word as a function."""
    return lambda x: make(word, x)


def binary(word: str) -> Binary:
    """The two-operand word as a function."""
    return lambda x, y: make(word, x, y)


exp, exp2, expm1 = unary("exp"), unary("exp2"), unary("expm1")
log, log1p = unary("log"), unary("log1p")
sqrt, rsqrt, sin = unary("sqrt"), unary("rsqrt"), unary("sin")
erf, tanh = unary("erf"), unary("tanh")
floor, ceil, trunc, round_even = unary("floor"), unary("ceil"), unary("trunc"), unary("round")
isnan, signbit = unary("isnan"), unary("signbit")
power, fmod, copysign = binary("pow"), binary("fmod"), binary("copysign")


def rounded(value: Any, dtype: str) -> Any:
    """The number that `value` becomes in `dtype`: floats rounded, integers wrapped."""
    if dtype in HALVES or (dtype == "f32" and math.isfinite(value) and abs(value) > F32_MAX):
        return torch.tensor(float(value), dtype=TORCH[dtype]).item()
    if dtype in INTS:
        info, whole = torch.iinfo(TORCH[dtype]), int(value)
        return (whole - info.min) % (1 << info.bits) + info.min
    return value


def number(value: Any, dtype: str) -> Scalar:
    """The constant that eager makes of a Python number for `dtype`."""
    return cast(const(rounded(value, dtype), opmath(dtype)), dtype)


def operand(value: Any, dtype: str) -> Scalar:
    """The same, widened: a half's constant is in f32."""
    return const(rounded(value, dtype), opmath(dtype))


def widen(x: Scalar) -> Scalar:
    """Half types in f32, the others as they are."""
    return cast(x, "f32") if x.dtype in HALVES else x


def narrow(x: Scalar, dtype: str) -> Scalar:
    """`x` rounded to `dtype`, if that is a half, and widened again: a step in the half type."""
    if dtype not in HALVES:
        return x
    return operand(x.arg, dtype) if x.op == "const" else widen(cast(x, dtype))


def multiply_add(x: Scalar, y: Scalar, z: Scalar) -> Scalar:
    """`x * y + z`, where eager's kernels use a fused multiply-add and ours round the product."""
    return x * y + z


def truth(x: Scalar) -> Scalar:
    """`x` as a bool, through the cast that a bool operand got on its way in."""
    if x.op == "cast" and x.args[0].dtype == "bool":
        return x.args[0]
    return x if x.dtype == "bool" else x.ne(0)


def maximum(x: Scalar, y: Scalar) -> Scalar:
    """The larger, NaN if one is NaN; `or` of bools."""
    return x | y if x.dtype == "bool" else make("maximum", x, y)


def minimum(x: Scalar, y: Scalar) -> Scalar:
    """The smaller, NaN if one is NaN; `and` of bools."""
    return x & y if x.dtype == "bool" else make("minimum", x, y)


def clamp(x: Scalar, low: Scalar | None = None, high: Scalar | None = None) -> Scalar:
    """`x` limited from below, then from above. Against constants, ties and NaN keep `x`."""
    if low is not None:
        x = where(x < low, low, x) if is_limit(low) else maximum(x, low)
    if high is not None:
        x = where(x > high, high, x) if is_limit(high) else minimum(x, high)
    return x


def is_limit(x: Scalar) -> bool:
    return x.op == "const" and x.arg == x.arg


def sigmoid(x: Scalar) -> Scalar:
    return 1 / (1 + exp(-x))


def is_float(x: Scalar) -> bool:
    return x.dtype in FLOATS


def choose(condition: Scalar, yes: Any, no: Any) -> Scalar:
    """`where` that also takes numbers for halves."""
    kind = yes.dtype if isinstance(yes, Scalar) else no.dtype
    yes, no = (v if isinstance(v, Scalar) else number(v, kind) for v in (yes, no))
    return where(condition, yes, no)
