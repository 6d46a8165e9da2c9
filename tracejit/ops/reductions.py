"""Rows that combine along dimensions: reductions and scans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracejit.ir.dtypes import FLOATS, HALVES, INTS, opmath
from tracejit.ir.graph import Node, Value
from tracejit.ops.promote import dim_of, dims_of, dtype_name, reduced
from tracejit.ops.table import Kind, Meta, row

Dims = Any  # int, tuple of ints or None


def summed(x: Value, dtype: Any = None) -> str:
    """Sums and products of integers and bool are i64 unless asked otherwise."""
    return dtype_name(dtype, "i64" if x.dtype in INTS or x.dtype == "bool" else x.dtype)


def accumulator(node: Node) -> str:
    """Halves accumulate in f32 and are rounded once; integers and bool in their result's dtype."""
    return opmath(node.out.dtype)


def ordered(node: Node) -> str:
    """What elements are compared in: bool as u8, halves in f32."""
    dtype = node.inputs[0].dtype
    return "u8" if dtype == "bool" else opmath(dtype)


def double_on_cpu(node: Node) -> str:
    """Eager's scans on the CPU keep f32 sums in f64."""
    dtype = node.out.dtype
    if node.out.device == "cpu" and dtype == "f32":
        return "f64"
    return opmath(dtype)


def widens(node: Node) -> bool:
    """False where eager first rounds the elements to a narrower dtype."""
    x, out = node.inputs[0].dtype, node.out.dtype
    return x == out or x not in FLOATS or out not in HALVES


def over(
    name: str,
    reduction: str,
    dtype: Callable[..., str],
    accumulate: Callable[[Node], str],
    **more: Any,
) -> None:
    """A row of signature (x, dims=None, keepdim=False, *, dtype=None)."""

    def shape(x: Value, dims: Dims = None, keepdim: bool = False, **kwargs: Any) -> Meta:
        return dtype(x, **kwargs), reduced(x.sizes, dims_of(dims, x.ndim), keepdim)

    def over_dims(
        x: Value, dims: Dims = None, keepdim: bool = False, **kwargs: Any
    ) -> tuple[int, ...]:
        return dims_of(dims, x.ndim)

    row(
        name,
        Kind.REDUCTION,
        shape,
        reduction=reduction,
        dims=over_dims,
        accumulate=accumulate,
        **more,
    )


def own(x: Value) -> str:
    return x.dtype


def truth_dtype(x: Value) -> str:
    return "u8" if x.dtype == "u8" else "bool"


def position(x: Value) -> str:
    return "i64"


def dims_given(node: Node) -> bool:
    """`any(x, dim=())` reduces nothing, unlike `sum(x, dim=())`."""
    return len(node.args) < 2 or node.args[1] is None or node.args[1] not in ((), [])


for name in ("sum", "sum.dim_IntList"):
    over(f"aten.{name}", "sum", summed, accumulator, applies=widens)
for name in ("prod", "prod.dim_int"):
    over(f"aten.{name}", "prod", summed, accumulator, applies=widens)
for name in ("amax", "max"):
    over(f"aten.{name}", "max", own, ordered)
for name in ("amin", "min"):
    over(f"aten.{name}", "min", own, ordered)
for name in ("any", "any.dim", "any.dims"):
    over(f"aten.{name}", "any", truth_dtype, lambda node: "bool", applies=dims_given)
for name in ("all", "all.dim", "all.dims"):
    over(f"aten.{name}", "all", truth_dtype, lambda node: "bool", applies=dims_given)
over("aten.argmax", "argmax", position, ordered)
over("aten.argmin", "argmin", position, ordered)


# Scans.
def scanned(x: Value, dim: int, *, dtype: Any = None) -> Meta:
    dim_of(dim, x.ndim)
    return summed(x, dtype), x.sizes


def scan_dim(x: Value, dim: int, *, dtype: Any = None) -> tuple[int, ...]:
    return dims_of(dim, x.ndim)


for name, word in (("cumsum", "sum"), ("cumprod", "prod")):
    row(
        f"aten.{name}",
        Kind.SCAN,
        scanned,
        reduction=word,
        dims=scan_dim,
        accumulate=double_on_cpu,
        applies=widens,
    )
