"""Shape rules of library calls: matrix products, convolution, attention, scatters, orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracejit.ir.graph import Size, Value
from tracejit.ops.promote import broadcast, dim_of
from tracejit.ops.table import Kind, Meta, ShapeRule, row


def extern(names: str, shape: ShapeRule) -> None:
    """Add a row for each op in `names`."""
    for name in names.split():
        row(f"aten.{name}", Kind.EXTERN, shape)


# Matrix products.
def mm(x: Value, y: Value, **_: Any) -> Meta:
    return x.dtype, (*x.sizes[:-1], y.sizes[-1])


def mv(x: Value, y: Value) -> Meta:
    return x.dtype, x.sizes[:-1]


def dot(x: Value, y: Value) -> Meta:
    return x.dtype, ()


def addmm(bias: Value, x: Value, y: Value, **_: Any) -> Meta:
    return mm(x, y)


def addmv(bias: Value, x: Value, y: Value, **_: Any) -> Meta:
    return mv(x, y)


def linear(x: Value, weight: Value, bias: Value | None = None) -> Meta:
    return x.dtype, (*x.sizes[:-1], weight.sizes[0])


extern("mm bmm", mm)
extern("mv", mv)
extern("dot vdot", dot)
extern("addmm baddbmm", addmm)
extern("addmv", addmv)
extern("linear", linear)


# Convolution.
def window(size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size) -> Size:
    """Places of a sliding window along one dim."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def unwindow(
    size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size, extra: Size
) -> Size:
    """The size that a transposed convolution gives along one dim."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1


def each(values: Sequence[Size], ndim: int) -> Sequence[Size]:
    """One value a dim: a single one counts for all."""
    return values if len(values) == ndim else tuple(values) * ndim


def convolution(
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[Size],
    padding: Sequence[Size],
    dilation: Sequence[Size],
    transposed: bool,
    output_padding: Sequence[Size],
    groups: Size,
) -> Meta:
    kernel, ndim = weight.sizes[2:], weight.ndim - 2
    inner = x.sizes[len(x.sizes) - ndim :]
    geometry = [each(v, ndim) for v in (stride, padding, dilation)]
    if transposed:
        extra = each(output_padding, ndim)
        places = tuple(map(unwindow, inner, kernel, *geometry, extra))
        channels = weight.sizes[1] * groups
    else:
        places = tuple(map(window, inner, kernel, *geometry))
        channels = weight.sizes[0]
    return x.dtype, (*x.sizes[: len(x.sizes) - ndim - 1], channels, *places)


extern("convolution", convolution)


# Attention.
def attention(query: Value, key: Value, value: Value, *_: Any, **__: Any) -> Meta:
    return query.dtype, (*query.sizes[:-1], value.sizes[-1])


extern("scaled_dot_product_attention", attention)


# Writes to computed places, and orders.
def like(x: Value, *_: Any, **__: Any) -> Meta:
    return x.dtype, x.sizes


def ordered(x: Value, *_: Any, **__: Any) -> tuple[Meta, Meta]:
    return (x.dtype, x.sizes), ("i64", x.sizes)


def topk(x: Value, k: Size, dim: int = -1, *_: Any) -> tuple[Meta, Meta]:
    dim = dim_of(dim, x.ndim)
    sizes = (*x.sizes[:dim], k, *x.sizes[dim + 1 :]) if x.ndim else ()
    return (x.dtype, sizes), ("i64", sizes)


extern("scatter.src scatter.value scatter.reduce scatter.value_reduce scatter_add", like)
extern("scatter_reduce.two index_put _unsafe_index_put index_add index_copy", like)
extern("index_fill.int_Scalar index_fill.int_Tensor put", like)
extern("masked_scatter", lambda x, mask, source: (x.dtype, broadcast(x.sizes, mask.sizes)))
extern("sort sort.stable cummax cummin", ordered)
extern("topk", topk)
extern("round.decimals logcumsumexp", like)
