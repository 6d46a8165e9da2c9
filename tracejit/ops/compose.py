"""Making rows of ops that are composed of simpler ones (Kind.DECOMPOSE), and the pieces they share.

A decomposition computes halves in f32 and rounds once at the end, as eager's kernels do. Its
results have the dtype and sizes that its shape rule gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracejit.ir.dtypes import COMPLEX, COMPUTED, FLOATS, TORCH, opmath
from tracejit.ir.graph import Node, Value, numel
from tracejit.ops.table import Builder, Kind, ShapeRule, row


def composed(
    names: str, shape: ShapeRule, decompose: Callable[..., Any], applies: Callable[..., bool]
) -> None:
    """Add a row for each op in `names`.

    `applies` is asked with the node's arguments; where it says no, the node is an extern call.
    """

    def checked(b: Builder, *args: Any, **kwargs: Any) -> Any:
        return decompose(b, *args, **kwargs) if applies(*args, **kwargs) else None

    def asked(node: Node) -> bool:
        return applies(*node.args, **node.kwargs)

    for name in names.split():
        row(f"aten.{name}", Kind.DECOMPOSE, shape, decompose=checked, applies=asked)


def floats(x: Value, *_: Any, **__: Any) -> bool:
    """A real floating tensor with at least one element."""
    return x.dtype in FLOATS & COMPUTED and 0 not in x.sizes


def reals(x: Value, *_: Any, **__: Any) -> bool:
    """A tensor of numbers that are not complex, with at least one element."""
    return x.dtype not in COMPLEX and 0 not in x.sizes


def apply(b: Builder, op: str, *args: Any, **kwargs: Any) -> Value:
    """The result of an op that has one."""
    found: Value = b(f"aten.{op}", *args, **kwargs)
    return found


def convert(b: Builder, x: Value, dtype: str) -> Value:
    return x if x.dtype == dtype else apply(b, "_to_copy", x, dtype=TORCH[dtype])


def wide(b: Builder, x: Value) -> Value:
    """`x` in the dtype to compute in."""
    return convert(b, x, opmath(x.dtype))


def count(x: Value, dims: tuple[int, ...]) -> Any:
    """How many elements are combined."""
    return numel(x.sizes[d] for d in dims)


def total(b: Builder, x: Value, dims: tuple[int, ...], keepdim: bool = True) -> Value:
    return apply(b, "sum.dim_IntList", x, dims, keepdim)


def average(b: Builder, x: Value, dims: tuple[int, ...], keepdim: bool = True) -> Value:
    return apply(b, "div.Tensor", total(b, x, dims, keepdim), count(x, dims))


def add(b: Builder, x: Value, y: Any) -> Value:
    return apply(b, "add.Tensor", x, y)


def subtract(b: Builder, x: Value, y: Any) -> Value:
    return apply(b, "sub.Tensor", x, y)


def multiply(b: Builder, x: Value, y: Any) -> Value:
    return apply(b, "mul.Tensor", x, y)


def divide(b: Builder, x: Value, y: Any) -> Value:
    return apply(b, "div.Tensor", x, y)


def drop(b: Builder, x: Value, dims: tuple[int, ...]) -> Value:
    """`x` without its dims of one element."""
    return apply(b, "squeeze.dims", x, dims) if dims else x


def nothing(b: Builder, dtype: str) -> Value:
    """The tensor of no elements that eager returns for a result that it did not compute."""
    return apply(b, "zeros", (0,), dtype=TORCH[dtype])
