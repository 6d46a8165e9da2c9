"""Pointwise rows: elementary and special functions, a word of the vocabulary each or a few."""

from __future__ import annotations

import math

from tracejit.fuse.scalar import FUNCTIONS, Scalar, make, where
from tracejit.ir.graph import Node
from tracejit.ops.pointwise import always, floating, pointwise
from tracejit.ops.promote import result_type
from tracejit.ops.words import (
    Step,
    binary,
    copysign,
    exp,
    exp2,
    is_float,
    isnan,
    log,
    log1p,
    maximum,
    minimum,
    operand,
    sigmoid,
    sin,
    unary,
)


def logit(x: Scalar, eps: float | None = None, *, step: Step) -> Scalar:
    """`log(x / (1 - x))`, with x kept in [eps, 1 - eps] if eps is given."""
    if eps is not None:
        low = step(operand(eps, x.dtype))
        high = step(operand(1 - low.arg, x.dtype))
        x = where(x < low, low, where(x > high, high, x))
    return log(step(x / step(1 - x)))


def xlogy(x: Scalar, y: Scalar, *, step: Step) -> Scalar:
    """`x * log(y)`, 0 where x is 0 unless y is NaN."""
    return where(isnan(y), y, where(x.eq(0), operand(0, x.dtype), x * step(log(y))))


def logaddexp(x: Scalar, y: Scalar) -> Scalar:
    """`log(exp(x) + exp(y))`; equal infinities stay as they are."""
    both_infinite = x.eq(y) & abs(x).eq(math.inf)
    return where(both_infinite, x, maximum(x, y) + log1p(exp(-abs(x - y))))


def logaddexp2(x: Scalar, y: Scalar) -> Scalar:
    both_infinite = x.eq(y) & abs(x).eq(math.inf)
    return where(both_infinite, x, maximum(x, y) + log1p(exp2(-abs(x - y))) / math.log(2))


def sinc(x: Scalar) -> Scalar:
    """`sin(pi x) / (pi x)`, 1 at 0."""
    angle = x * math.pi
    return where(x.eq(0), operand(1, x.dtype), sin(angle) / angle)


def entropy(x: Scalar, *, step: Step) -> Scalar:
    """`-x log(x)`, 0 at 0 and minus infinity below."""
    outside = where(x < 0, operand(-math.inf, x.dtype), abs(x))
    return where(x > 0, -x * step(log(x)), outside)


def fmax(x: Scalar, y: Scalar) -> Scalar:
    """The larger; NaN loses."""
    return make("fmax", x, y) if is_float(x) else maximum(x, y)


def fmin(x: Scalar, y: Scalar) -> Scalar:
    """The smaller; NaN loses."""
    return make("fmin", x, y) if is_float(x) else minimum(x, y)


def full_precision(node: Node) -> bool:
    """The neighbour of a half is not that of the same number in f32."""
    return result_type(*node.args) in ("f32", "f64")


for name in FUNCTIONS:
    pointwise(name, unary(name), rule=floating)
pointwise("atan2", binary("atan2"), operands=2, rule=floating, rounds=always)
pointwise("copysign.Tensor copysign.Scalar", copysign, operands=2, rule=floating, rounds=always)
pointwise("hypot", binary("hypot"), operands=2, rounds=always)
pointwise("nextafter", binary("nextafter"), operands=2, applies=full_precision)
pointwise("fmax", fmax, operands=2, rounds=always)
pointwise("fmin", fmin, operands=2, rounds=always)
pointwise("sigmoid", sigmoid, rule=floating)
pointwise("logit special_logit", logit, rule=floating, rounds=always, stepwise=True)
pointwise(
    "xlogy.Tensor xlogy.Scalar_Other xlogy.Scalar_Self",
    xlogy,
    operands=2,
    rule=floating,
    rounds=always,
    stepwise=True,
)
pointwise("logaddexp", logaddexp, operands=2, rule=floating, rounds=always)
pointwise("logaddexp2", logaddexp2, operands=2, rule=floating, rounds=always)
pointwise("sinc", sinc, rule=floating)
pointwise("special_entr", entropy, rule=floating, rounds=always, stepwise=True)
