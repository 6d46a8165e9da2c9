"""Rows composed of simpler ops: softmax, the norms, and other layers."""

from __future__ import annotations

from typing import Any, Union

import torch

from tracejit.ir.dtypes import COMPUTED, HALVES, TORCH, opmath
from tracejit.ir.graph import Size, Value
from tracejit.ops.compose import (
    add,
    apply,
    average,
    composed,
    convert,
    divide,
    drop,
    floats,
    multiply,
    nothing,
    subtract,
    total,
    wide,
)
from tracejit.ops.promote import dims_of
from tracejit.ops.statistics import squares
from tracejit.ops.table import Builder, Meta

Maybe = Union[Value, None]  # a weight or bias that a layer may not have


# Softmax.
def softmax_shape(x: Value, dim: int, half_to_float: bool) -> Meta:
    return "f32" if half_to_float else x.dtype, x.sizes


def shifted(b: Builder, x: Value, dims: tuple[int, ...]) -> Value:
    """`x` less its maximum, in the dtype to compute in."""
    x = wide(b, x)
    return subtract(b, x, apply(b, "amax", x, dims, True))


def softmax(b: Builder, x: Value, dim: int, half_to_float: bool) -> Value:
    dims = dims_of(dim, x.ndim)
    powers = apply(b, "exp", shifted(b, x, dims))
    return convert(
        b, divide(b, powers, total(b, powers, dims)), softmax_shape(x, dim, half_to_float)[0]
    )


def log_softmax(b: Builder, x: Value, dim: int, half_to_float: bool) -> Value:
    dims = dims_of(dim, x.ndim)
    below = shifted(b, x, dims)
    logarithm = apply(b, "log", total(b, apply(b, "exp", below), dims))
    return convert(b, subtract(b, below, logarithm), softmax_shape(x, dim, half_to_float)[0])


composed("_softmax", softmax_shape, softmax, floats)
composed("_log_softmax", softmax_shape, log_softmax, floats)


# Norms. Each gives its mean and the reciprocal of its deviation too.
def trailing(x: Value, normalized: tuple[Size, ...]) -> tuple[int, ...]:
    return tuple(range(x.ndim - len(normalized), x.ndim))


def statistics_dtype(x: Value, *parameters: Maybe) -> str:
    """Halves keep f32 statistics on GPUs, and on the CPU next to f32 parameters."""
    if x.dtype not in HALVES:
        return x.dtype
    if x.device != "cpu":
        return "f32"
    return next((p.dtype for p in parameters if p is not None), x.dtype)


def normalized(
    b: Builder, x: Value, dims: tuple[int, ...], eps: float
) -> tuple[Value, Value, Value]:
    """`(x - mean) * rstd`, mean and rstd, from x in the dtype to compute in."""
    mean, square = squares(b, x, dims)
    rstd = apply(b, "rsqrt", add(b, average(b, square, dims), eps))
    return multiply(b, subtract(b, x, mean), rstd), mean, rstd


def affine(b: Builder, x: Value, weight: Maybe, bias: Maybe) -> Value:
    if weight is not None:
        x = multiply(b, x, wide(b, weight))
    return x if bias is None else add(b, x, wide(b, bias))


def layer_norm_shape(
    x: Value, sizes: tuple[Size, ...], weight: Maybe, bias: Maybe, eps: float
) -> tuple[Meta, ...]:
    rows = x.sizes[: x.ndim - len(sizes)] + (1,) * len(sizes)
    statistics = statistics_dtype(x, weight, bias), rows
    return (x.dtype, x.sizes), statistics, statistics


def layer_norm(
    b: Builder, x: Value, sizes: tuple[Size, ...], weight: Maybe, bias: Maybe, eps: float
) -> tuple[Value, Value, Value]:
    unit, mean, rstd = normalized(b, wide(b, x), trailing(x, sizes), eps)
    kept = statistics_dtype(x, weight, bias)
    out = convert(b, affine(b, unit, weight, bias), x.dtype)
    return out, convert(b, mean, kept), convert(b, rstd, kept)


composed("native_layer_norm", layer_norm_shape, layer_norm, floats)


def rms_norm_shape(
    x: Value, sizes: tuple[Size, ...], weight: Maybe, eps: float | None
) -> tuple[Meta, Meta]:
    rows = x.sizes[: x.ndim - len(sizes)] + (1,) * len(sizes)
    return (x.dtype, x.sizes), (opmath(x.dtype), rows)


def rms_norm(
    b: Builder, x: Value, sizes: tuple[Size, ...], weight: Maybe, eps: float | None
) -> tuple[Value, Value]:
    values = wide(b, x)
    if eps is None:
        eps = torch.finfo(TORCH[values.dtype]).eps
    square = average(b, multiply(b, values, values), trailing(x, sizes))
    rstd = apply(b, "rsqrt", add(b, square, eps))
    return convert(b, affine(b, multiply(b, values, rstd), weight, None), x.dtype), rstd


composed("_fused_rms_norm", rms_norm_shape, rms_norm, floats)


def group_norm_shape(
    x: Value, weight: Maybe, bias: Maybe, n: Size, c: Size, hw: Size, groups: int, eps: float
) -> tuple[Meta, ...]:
    statistics = statistics_dtype(x, weight, bias), (n, groups)
    return (x.dtype, x.sizes), statistics, statistics


def group_norm(
    b: Builder,
    x: Value,
    weight: Maybe,
    bias: Maybe,
    n: Size,
    c: Size,
    hw: Size,
    groups: int,
    eps: float,
) -> tuple[Value, Value, Value]:
    split = apply(b, "view", x, (n, groups, c // groups, *x.sizes[2:]))
    inner = tuple(range(2, split.ndim))
    unit, mean, rstd = normalized(b, wide(b, split), inner, eps)
    weight, bias = (per_channel(b, p, x.ndim) for p in (weight, bias))
    out = affine(b, apply(b, "view", unit, x.sizes), weight, bias)
    kept = statistics_dtype(x, weight, bias)
    mean, rstd = (convert(b, drop(b, s, inner), kept) for s in (mean, rstd))
    return convert(b, out, x.dtype), mean, rstd


def per_channel(b: Builder, p: Maybe, ndim: int) -> Maybe:
    """A vector over the channels as [1, C, 1, …]."""
    return None if p is None else apply(b, "view", p, (1, p.sizes[0], *(1,) * (ndim - 2)))


composed("native_group_norm", group_norm_shape, group_norm, floats)


def batch_norm_shape(
    x: Value, weight: Maybe, bias: Maybe, mean: Value, var: Value, *_: Any
) -> tuple[Meta, ...]:
    kept = statistics_dtype(x, weight, bias, mean)
    return (x.dtype, x.sizes), (kept, (0,)), (kept, (0,))


def batch_norm(
    b: Builder,
    x: Value,
    weight: Maybe,
    bias: Maybe,
    mean: Value,
    var: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, Value, Value]:
    """With running statistics, in eager's order: one scale and one shift a channel."""
    kept = statistics_dtype(x, weight, bias, mean)
    scale = apply(b, "reciprocal", apply(b, "sqrt", add(b, wide(b, var), eps)))
    if weight is not None:
        scale = multiply(b, scale, wide(b, weight))
    moved = multiply(b, wide(b, mean), scale)
    shift = apply(b, "neg", moved) if bias is None else subtract(b, wide(b, bias), moved)
    out = multiply(b, wide(b, x), per_channel(b, scale, x.ndim))
    out = add(b, out, per_channel(b, shift, x.ndim))
    return convert(b, out, x.dtype), nothing(b, kept), nothing(b, kept)


def training_shape(x: Value, w: Any, bias: Any, m: Any, v: Any, training: bool, *rest: Any) -> Any:
    if not training:
        return batch_norm_shape(x, w, bias, m, v, *rest)
    kept = statistics_dtype(x, w, bias, m), x.sizes[1:2]
    return (x.dtype, x.sizes), kept, kept


composed("_native_batch_norm_legit_no_training", batch_norm_shape, batch_norm, floats)
composed(
    "batch_norm",
    lambda x, *_: (x.dtype, x.sizes),
    lambda b, x, w, bias, m, v, training, momentum, eps, _: batch_norm(
        b, x, w, bias, m, v, momentum, eps
    )[0],
    lambda x, w, bias, m, v, training, *rest: not training and m is not None and floats(x),
)
composed(
    "native_batch_norm",
    training_shape,
    lambda b, x, w, bias, m, v, training, *rest: batch_norm(b, x, w, bias, m, v, *rest),
    lambda x, w, bias, m, v, training, *rest: not training and floats(x),
)


def own_statistics_shape(x: Value, weight: Maybe, bias: Maybe, *_: Any) -> tuple[Meta, ...]:
    kept = statistics_dtype(x, weight, bias), x.sizes[1:2]
    return (x.dtype, x.sizes), kept, kept


def own_statistics(
    b: Builder, x: Value, weight: Maybe, bias: Maybe, training: bool, momentum: float, eps: float
) -> tuple[Value, Value, Value]:
    """Batch norm by the statistics of this batch, which nobody keeps (instance norm)."""
    dims = tuple(d for d in range(x.ndim) if d != 1)
    unit, mean, rstd = normalized(b, wide(b, x), dims, eps)
    out = affine(b, unit, per_channel(b, weight, x.ndim), per_channel(b, bias, x.ndim))
    kept = statistics_dtype(x, weight, bias)
    mean, rstd = (convert(b, drop(b, s, dims), kept) for s in (mean, rstd))
    return convert(b, out, x.dtype), mean, rstd


composed("_native_batch_norm_legit.no_stats", own_statistics_shape, own_statistics, floats)


# Other layers.
def log_sigmoid_shape(x: Value) -> tuple[Meta, Meta]:
    return (x.dtype, x.sizes), (x.dtype, x.sizes if x.device == "cpu" else (0,))


def log_sigmoid(b: Builder, x: Value) -> tuple[Value, Value]:
    """`min(x, 0) - log1p(exp(-|x|))`, and the exponential."""
    values = wide(b, x)
    power = apply(b, "exp", apply(b, "neg", apply(b, "abs", values)))
    out = subtract(b, apply(b, "clamp_max", values, 0), apply(b, "log1p", power))
    buffer = convert(b, power, x.dtype) if x.device == "cpu" else nothing(b, x.dtype)
    return convert(b, out, x.dtype), buffer


composed("log_sigmoid_forward", log_sigmoid_shape, log_sigmoid, floats)


def dropout_shape(x: Value, p: float, train: bool | None) -> tuple[Meta, Meta]:
    return (x.dtype, x.sizes), ("bool", x.sizes)


def no_dropout(b: Builder, x: Value, p: float, train: bool | None) -> tuple[Value, Value]:
    return apply(b, "clone", x), apply(b, "ones_like", x, dtype=torch.bool)


composed(
    "native_dropout",
    dropout_shape,
    no_dropout,
    lambda x, p, train: train is False and x.dtype in COMPUTED,
)
