"""Pointwise rows: activation functions, composed as ATen's kernels compose them."""

from __future__ import annotations

import math
from typing import Any

from tracejit.fuse.scalar import Scalar, where
from tracejit.ops.pointwise import always, pointwise
from tracejit.ops.words import clamp, erf, exp, expm1, log1p, operand, tanh


def gelu(x: Scalar, *, approximate: str = "none") -> Scalar:
    if approximate == "none":
        return x * 0.5 * (1 + erf(x * math.sqrt(0.5)))
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    return 0.5 * x * (1 + tanh(inner))


def softplus(x: Scalar, beta: float = 1, threshold: float = 20) -> Scalar:
    """`log(1 + exp(beta x)) / beta`, and x itself where beta x is large."""
    scaled = x * beta
    return where(scaled > threshold, x, log1p(exp(scaled)) / beta)


def elu(x: Scalar, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Scalar:
    return where(x < 0, expm1(x * input_scale) * (alpha * scale), x * scale)


def relu(x: Scalar) -> Scalar:
    return clamp(x, operand(0, x.dtype))


def hardtanh(x: Scalar, low: Any = -1, high: Any = 1) -> Scalar:
    return clamp(x, operand(low, x.dtype), operand(high, x.dtype))


def six(x: Scalar) -> Scalar:
    """x + 3, kept in [0, 6]."""
    return clamp(x + 3, operand(0, x.dtype), operand(6, x.dtype))


def threshold(x: Scalar, limit: Any, value: Any) -> Scalar:
    return where(x <= limit, operand(value, x.dtype), x)


def leaky_relu(x: Scalar, slope: Any = 0.01) -> Scalar:
    return where(x > 0, x, x * slope)


def softshrink(x: Scalar, limit: Any = 0.5) -> Scalar:
    """Toward 0 by `limit`; a zero keeps x's sign and a NaN stays."""
    return where(x > limit, x - limit, where(x < -limit, x + limit, x * 0))


def hardshrink(x: Scalar, limit: Any = 0.5, *, step: Any) -> Scalar:
    edge = step(operand(limit, x.dtype))
    return where((x >= -edge.arg) & (x <= edge), operand(0, x.dtype), x)


pointwise("relu", relu)
pointwise("relu6", lambda x: hardtanh(x, 0, 6))
pointwise("hardtanh", hardtanh)
pointwise("gelu", gelu)
pointwise("silu", lambda x: x / (1 + exp(-x)))
pointwise("mish", lambda x: x * tanh(log1p(exp(x))))
pointwise("softplus", softplus)
pointwise("elu", elu)
pointwise("celu", lambda x, alpha=1: elu(x, alpha, 1, 1 / alpha))
pointwise("selu", lambda x: elu(x, 1.6732632423543772, 1.0507009873554805))
pointwise("leaky_relu", leaky_relu)
pointwise("_prelu_kernel", leaky_relu, operands=2)
pointwise("hardsigmoid", lambda x: six(x) / 6)
pointwise("hardswish", lambda x: x * six(x) / 6)
pointwise("threshold", threshold)
pointwise("softshrink", softshrink)
pointwise("hardshrink", hardshrink, rounds=always, stepwise=True)
