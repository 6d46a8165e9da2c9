"""Rows composed of simpler ops: losses. The result is a mean, a sum, or one element a pair."""

from __future__ import annotations

from typing import Any

from tracejit.ir.dtypes import COMPUTED, FLOATS, TORCH
from tracejit.ir.graph import Value
from tracejit.ops.compose import (
    apply,
    composed,
    convert,
    divide,
    floats,
    multiply,
    subtract,
    wide,
)
from tracejit.ops.promote import broadcast, result_type
from tracejit.ops.table import Builder, Meta
from tracejit.ops.words import rounded

MEAN, SUM = 1, 2  # the `reduction` argument of losses; 0 is none


def loss_shape(x: Value, y: Value, reduction: int = MEAN, *_: Any) -> Meta:
    sizes = broadcast(x.sizes, y.sizes)
    return result_type(x, y), () if reduction in (MEAN, SUM) else sizes


def reduce_loss(b: Builder, loss: Value, reduction: int) -> Value:
    if reduction == MEAN:
        return apply(b, "mean", loss)
    return apply(b, "sum", loss) if reduction == SUM else loss


def mse_loss(b: Builder, x: Value, y: Value, reduction: int = MEAN) -> Value:
    difference = subtract(b, x, y)
    return reduce_loss(b, multiply(b, difference, difference), reduction)


def ready(b: Builder, x: Value, y: Value, whole: str) -> tuple[str, Value, Value]:
    """The result's dtype, and both sides: in f32 if it is `whole`, which eager widens on the CPU.

    Elsewhere each step is rounded.
    """
    dtype = result_type(x, y)
    if dtype == whole and x.device == "cpu":
        return dtype, wide(b, x), wide(b, y)
    return dtype, x, y


def huber_loss(b: Builder, x: Value, y: Value, reduction: int = MEAN, delta: float = 1.0) -> Value:
    dtype, x, y = ready(b, x, y, "f16")
    delta = rounded(delta, result_type(x, y))
    distance = apply(b, "abs", subtract(b, x, y))
    near = multiply(b, multiply(b, distance, 0.5), distance)
    far = multiply(b, subtract(b, distance, 0.5 * delta), delta)
    loss = apply(b, "where.self", apply(b, "le.Scalar", distance, delta), near, far)
    return reduce_loss(b, convert(b, loss, dtype), reduction)


def smooth_l1_loss(
    b: Builder, x: Value, y: Value, reduction: int = MEAN, beta: float = 1.0
) -> Value:
    dtype, x, y = ready(b, x, y, "bf16")
    beta = rounded(beta, result_type(x, y))
    loss = distance = apply(b, "abs", subtract(b, x, y))
    if beta != 0:
        near = divide(b, multiply(b, multiply(b, distance, 0.5), distance), beta)
        far = subtract(b, distance, 0.5 * beta)
        loss = apply(b, "where.self", apply(b, "lt.Scalar", distance, beta), near, far)
    return reduce_loss(b, convert(b, loss, dtype), reduction)


def float_pair(x: Value, y: Value, *_: Any) -> bool:
    return result_type(x, y) in FLOATS & COMPUTED and floats(x) and 0 not in y.sizes


composed("mse_loss", loss_shape, mse_loss, float_pair)
composed("huber_loss", loss_shape, huber_loss, float_pair)
composed("smooth_l1_loss", loss_shape, smooth_l1_loss, float_pair)


def nll_shape(
    x: Value, target: Value, weight: Value | None, reduction: int, ignore: int
) -> tuple[Meta, Meta]:
    rows = x.sizes[:1] if reduction == 0 and x.ndim == 2 else ()
    return (x.dtype, rows), (x.dtype, ())


def nll_loss(
    b: Builder, x: Value, target: Value, weight: Value | None, reduction: int, ignore: int
) -> tuple[Value, Value]:
    """Minus each row's entry at its target, weighted; a target of `ignore` counts nothing."""
    rows = x if x.ndim == 2 else apply(b, "unsqueeze", x, 0)
    labels = target if target.ndim == 1 else apply(b, "unsqueeze", target, 0)
    ignored = apply(b, "eq.Scalar", labels, ignore)
    place = apply(b, "masked_fill.Scalar", labels, ignored, 0)
    picked = apply(b, "gather", rows, 1, apply(b, "unsqueeze", place, 1))
    loss = apply(b, "neg", wide(b, apply(b, "squeeze.dims", picked, (1,))))
    if weight is None:
        share = convert(b, apply(b, "logical_not", ignored), loss.dtype)
    else:
        share = apply(
            b, "masked_fill.Scalar", wide(b, apply(b, "index_select", weight, 0, place)), ignored, 0
        )
        loss = multiply(b, loss, share)
    loss = apply(b, "masked_fill.Scalar", loss, ignored, 0)
    if reduction == 0 and x.ndim == 2:
        return convert(b, loss, x.dtype), apply(b, "zeros", (), dtype=TORCH[x.dtype])
    out, shares = apply(b, "sum", loss), apply(b, "sum", share)
    if reduction == MEAN:
        out = divide(b, out, shares)
    return convert(b, out, x.dtype), convert(b, shares, x.dtype)


def nll_applies(x: Value, target: Value, *_: Any) -> bool:
    return floats(x) and target.dtype == "i64"


composed("nll_loss_forward", nll_shape, nll_loss, nll_applies)


def soft_margin_loss(b: Builder, x: Value, y: Value, reduction: int = MEAN) -> Value:
    """`log(1 + exp(-x y))`, each step rounded, as eager does."""
    power = apply(b, "exp", multiply(b, apply(b, "neg", x), y))
    return reduce_loss(b, apply(b, "log1p", power), reduction)


composed("soft_margin_loss", loss_shape, soft_margin_loss, float_pair)
