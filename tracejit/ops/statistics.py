"""Rows composed of reductions: means, moments, norms, logsumexp, counts, placed extremes."""

from __future__ import annotations

import math
from typing import Any

from tracejit.ir.dtypes import COMPUTED, FLOATS, opmath
from tracejit.ir.graph import Value
from tracejit.ops.compose import (
    add,
    apply,
    average,
    composed,
    convert,
    count,
    divide,
    drop,
    floats,
    multiply,
    reals,
    subtract,
    total,
    wide,
)
from tracejit.ops.promote import dims_of, dtype_name, float_of, real_of, reduced
from tracejit.ops.table import Builder, Meta

Dims = Any  # int, tuple of ints or None


def mean_shape(x: Value, dims: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Meta:
    return dtype_name(dtype, x.dtype), reduced(x.sizes, dims_of(dims, x.ndim), keepdim)


def mean(
    b: Builder, x: Value, dims: Dims = None, keepdim: bool = False, *, dtype: Any = None
) -> Value:
    result = dtype_name(dtype, x.dtype)
    x = wide(b, convert(b, x, result))
    return convert(b, average(b, x, dims_of(dims, x.ndim), keepdim), result)


def mean_is_float(x: Value, *_: Any, dtype: Any = None, **__: Any) -> bool:
    result = dtype_name(dtype, x.dtype)
    return result in FLOATS & COMPUTED and reals(x)


composed("mean mean.dim", mean_shape, mean, mean_is_float)


def moment_shape(
    x: Value, dims: Dims = None, *, correction: Any = None, keepdim: bool = False
) -> Meta:
    return real_of(x.dtype), reduced(x.sizes, dims_of(dims, x.ndim), keepdim)


def moments_shape(*args: Any, **kwargs: Any) -> tuple[Meta, Meta]:
    return moment_shape(*args, **kwargs), moment_shape(*args, **kwargs)


def squares(b: Builder, x: Value, dims: tuple[int, ...]) -> tuple[Value, Value]:
    """The mean (dims kept), and the squares of the differences from it."""
    centre = average(b, x, dims)
    difference = subtract(b, x, centre)
    return centre, multiply(b, difference, difference)


def variance(
    b: Builder, x: Value, dims: Dims = None, *, correction: Any = None, keepdim: bool = False
) -> Value:
    """In the dtype to compute in, in two passes."""
    along, x = dims_of(dims, x.ndim), wide(b, x)
    degrees = count(x, along) - (1 if correction is None else correction)
    if isinstance(degrees, (int, float)):
        degrees = max(degrees, 0)
    return divide(b, total(b, squares(b, x, along)[1], along, keepdim), degrees)


def deviation(b: Builder, x: Value, dims: Dims = None, **kwargs: Any) -> Value:
    return apply(b, "sqrt", variance(b, x, dims, **kwargs))


def centre(b: Builder, x: Value, dims: Dims, keepdim: bool) -> Value:
    return average(b, wide(b, x), dims_of(dims, x.ndim), keepdim)


def var(b: Builder, x: Value, dims: Dims = None, **kwargs: Any) -> Value:
    return convert(b, variance(b, x, dims, **kwargs), x.dtype)


def std(b: Builder, x: Value, dims: Dims = None, **kwargs: Any) -> Value:
    return convert(b, deviation(b, x, dims, **kwargs), x.dtype)


def var_mean(b: Builder, x: Value, dims: Dims = None, **kwargs: Any) -> tuple[Value, Value]:
    mean = centre(b, x, dims, kwargs.get("keepdim", False))
    return var(b, x, dims, **kwargs), convert(b, mean, x.dtype)


def std_mean(b: Builder, x: Value, dims: Dims = None, **kwargs: Any) -> tuple[Value, Value]:
    mean = centre(b, x, dims, kwargs.get("keepdim", False))
    return std(b, x, dims, **kwargs), convert(b, mean, x.dtype)


composed("var.correction", moment_shape, var, floats)
composed("std.correction", moment_shape, std, floats)
composed("var_mean.correction", moments_shape, var_mean, floats)
composed("std_mean.correction", moments_shape, std_mean, floats)


def norm_shape(
    x: Value, order: Any = 2, dims: Dims = None, keepdim: bool = False, *, dtype: Any = None
) -> Meta:
    kind = real_of(dtype_name(dtype, x.dtype))
    return kind, reduced(x.sizes, dims_of(dims, x.ndim), keepdim)


def vector_norm(
    b: Builder,
    x: Value,
    order: Any = 2,
    dims: Dims = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Value:
    """`(sum |x|^order) ^ (1 / order)`, with its limits for 0 and the infinities."""
    result, along = dtype_name(dtype, x.dtype), dims_of(dims, x.ndim)
    x = convert(b, x, opmath(result))
    if order == 2:
        found = apply(b, "sqrt", total(b, multiply(b, x, x), along, keepdim))
    elif order == 0:
        found = total(b, convert(b, apply(b, "ne.Scalar", x, 0), x.dtype), along, keepdim)
    elif math.isinf(order):
        found = apply(b, "amax" if order > 0 else "amin", apply(b, "abs", x), along, keepdim)
    elif order == 1:
        found = total(b, apply(b, "abs", x), along, keepdim)
    else:
        powers = apply(b, "pow.Tensor_Scalar", apply(b, "abs", x), order)
        found = apply(b, "pow.Tensor_Scalar", total(b, powers, along, keepdim), 1 / order)
    return convert(b, found, result)


composed("linalg_vector_norm", norm_shape, vector_norm, floats)


def logsumexp_shape(x: Value, dims: Dims, keepdim: bool = False) -> Meta:
    return float_of(x.dtype), reduced(x.sizes, dims_of(dims, x.ndim), keepdim)


def logsumexp(b: Builder, x: Value, dims: Dims, keepdim: bool = False) -> Value:
    """Shifted by the maximum, but not by an infinite one."""
    along, dtype = dims_of(dims, x.ndim), x.dtype
    x = wide(b, x)
    largest = apply(b, "amax", x, along, True)
    shift = apply(b, "masked_fill.Scalar", largest, apply(b, "isinf", largest), 0)
    powers = apply(b, "exp", subtract(b, x, shift))
    found = add(b, apply(b, "log", total(b, powers, along)), shift)
    return convert(b, found if keepdim else drop(b, found, along), dtype)


composed("logsumexp", logsumexp_shape, logsumexp, floats)


def count_shape(x: Value, dims: Dims = None) -> Meta:
    return "i64", reduced(x.sizes, dims_of(dims, x.ndim), False)


def count_nonzero(b: Builder, x: Value, dims: Dims = None) -> Value:
    return total(b, apply(b, "ne.Scalar", x, 0), dims_of(dims, x.ndim), False)


composed("count_nonzero count_nonzero.dim_IntList", count_shape, count_nonzero, reals)


# The first of equal extremes, and NaN before all, for both the value and its position.
def extreme_shape(x: Value, dim: int, keepdim: bool = False) -> tuple[Meta, Meta]:
    sizes = reduced(x.sizes, dims_of(dim, x.ndim), keepdim)
    return (x.dtype, sizes), ("i64", sizes)


def max_dim(b: Builder, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return apply(b, "amax", x, (dim,), keepdim), apply(b, "argmax", x, dim, keepdim)


def min_dim(b: Builder, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return apply(b, "amin", x, (dim,), keepdim), apply(b, "argmin", x, dim, keepdim)


composed("max.dim", extreme_shape, max_dim, reals)
composed("min.dim", extreme_shape, min_dim, reals)


def aminmax_shape(x: Value, *, dim: int | None = None, keepdim: bool = False) -> tuple[Meta, Meta]:
    found = x.dtype, reduced(x.sizes, dims_of(dim, x.ndim), keepdim)
    return found, found


def aminmax(
    b: Builder, x: Value, *, dim: int | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    along = dims_of(dim, x.ndim)
    return apply(b, "amin", x, along, keepdim), apply(b, "amax", x, along, keepdim)


composed("aminmax", aminmax_shape, aminmax, reals)
