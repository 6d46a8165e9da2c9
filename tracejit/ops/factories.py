"""Rows of ops that make tensors from numbers and positions, or overwrite all of one (Kind.PULL)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tracejit.fuse.index import unbroadcast
from tracejit.fuse.scalar import Scalar, cast, index_value, where
from tracejit.ir.dtypes import FLOATS, INTS, opmath
from tracejit.ir.graph import Size, Value
from tracejit.ops.indexing import Indices, like, pulled
from tracejit.ops.promote import default_float, dtype_name, number_dtype
from tracejit.ops.table import Meta, Puller
from tracejit.ops.words import narrow, operand, rounded

Sizes = Sequence[Size]


# Constants.
def sized(sizes: Sizes, *_: Any, dtype: Any = None, **__: Any) -> Meta:
    return dtype_name(dtype, default_float()), tuple(sizes)


def full_shape(sizes: Sizes, value: Any, *, dtype: Any = None, **_: Any) -> Meta:
    return dtype_name(dtype, number_dtype(value)), tuple(sizes)


def like_shape(x: Value, *_: Any, dtype: Any = None, **__: Any) -> Meta:
    return dtype_name(dtype, x.dtype), x.sizes


def new_shape(x: Value, sizes: Sizes, *_: Any, dtype: Any = None, **__: Any) -> Meta:
    return dtype_name(dtype, x.dtype), tuple(sizes)


def scalar_shape(value: Any, *, dtype: Any = None, **_: Any) -> Meta:
    return dtype_name(dtype, default_float()), ()


def zero(*_: Any, **__: Any) -> int:
    return 0


def one(*_: Any, **__: Any) -> int:
    return 1


def given(p: Puller, index: Indices, first: Any, value: Any, *_: Any, **__: Any) -> Any:
    return value


pulled("zeros empty.memory_format", sized, zero)
pulled("ones", sized, one)
pulled("full", full_shape, given)
pulled("zeros_like empty_like", like_shape, zero)
pulled("ones_like", like_shape, one)
pulled("full_like", like_shape, given)
pulled("new_zeros new_empty", new_shape, zero)
pulled("new_ones", new_shape, one)
pulled("new_full", new_shape, lambda p, index, x, sizes, value, **_: value)
pulled("scalar_tensor", scalar_shape, lambda p, index, value, **_: value)


# Overwriting: the functional forms of `fill_`, `zero_` and `copy_`.
def fill_tensor(p: Puller, index: Indices, x: Value, value: Value) -> Scalar:
    return p.value(value, ())


def copy(p: Puller, index: Indices, x: Value, source: Value, non_blocking: bool = False) -> Scalar:
    return p.value(source, unbroadcast(index, source.sizes))


pulled("zero", like, zero)
pulled("fill.Scalar", like, given)
pulled("fill.Tensor", like, fill_tensor)
pulled("copy", like, copy)


# Positions.
def steps(*numbers: Any) -> tuple[Any, Any, Any]:
    """Start, end and step from `(end)`, `(start, end)` or `(start, end, step)`."""
    if len(numbers) == 1:
        return 0, numbers[0], 1
    return (*numbers, 1)[:3]


def arange_shape(*numbers: Any, dtype: Any = None, **_: Any) -> Meta:
    whole = not any(isinstance(n, float) for n in numbers)
    kind = dtype_name(dtype) if dtype is not None else "i64" if whole else default_float()
    start, end, step = steps(*numbers)
    if kind == "i64":
        start, end, step = (int(n) if isinstance(n, float) else n for n in (start, end, step))
    elif not whole:
        return kind, (math.ceil((end - start) / step),)
    return kind, (-((start - end) // step),)


def arange(p: Puller, index: Indices, *numbers: Any, device: Any = None, **kwargs: Any) -> Scalar:
    """Whole steps are integer positions; others are counted in f64 on the CPU, as in eager."""
    start, _, step = steps(*numbers)
    dtype = arange_shape(*numbers, **kwargs)[0]
    if dtype in INTS or (start == int(start) and step == int(step)):
        return index_value(index[0] * int(step) + int(start))
    kind = "f64" if str(device or "cpu") == "cpu" else opmath(dtype)
    found: Scalar = cast(index_value(index[0]), kind) * step + start
    return found


def linspace_shape(start: Any, end: Any, count: Size, *, dtype: Any = None, **_: Any) -> Meta:
    return dtype_name(dtype, default_float()), (count,)


def linspace(p: Puller, index: Indices, start: Any, end: Any, count: int, **kwargs: Any) -> Scalar:
    """Counted from the nearer end, each step rounded to the result's dtype."""
    dtype = linspace_shape(start, end, count, **kwargs)[0]
    start, end = rounded(start, dtype), rounded(end, dtype)
    if count == 1:
        return operand(start, dtype)
    step, middle = operand((end - start) / (count - 1), dtype), count // 2
    front = narrow(cast(index_value(index[0]), step.dtype) * step, dtype) + start
    back = end - narrow(cast(index_value(count - 1 - index[0]), step.dtype) * step, dtype)
    return where(index_value(index[0]) < middle, front, back)


def floats_only(*_: Any, dtype: Any = None, **__: Any) -> bool:
    return dtype is None or dtype_name(dtype) in FLOATS


def eye_shape(rows: Size, columns: Size | None = None, *, dtype: Any = None, **_: Any) -> Meta:
    kind = dtype_name(dtype, default_float())
    return kind, (rows, rows if columns is None else columns)


def eye(p: Puller, index: Indices, *_: Any, **__: Any) -> Scalar:
    return index_value(index[0] - index[1]).eq(0)


pulled("arange arange.start arange.start_step", arange_shape, arange)
pulled("linspace", linspace_shape, linspace, floats_only)
pulled("eye eye.m", eye_shape, eye)
