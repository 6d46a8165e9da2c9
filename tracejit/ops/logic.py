"""Pointwise rows: comparisons, logic, bits, selection and copies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from tracejit.fuse.scalar import Scalar, cast, make, where
from tracejit.ir.dtypes import INTS, TORCH
from tracejit.ir.graph import Node, Value
from tracejit.ops.pointwise import always, boolean, choosing, pointwise
from tracejit.ops.promote import dtype_name, result_type
from tracejit.ops.table import Kind, Meta, row
from tracejit.ops.words import (
    choose,
    is_float,
    isnan,
    operand,
    signbit,
    truth,
    widen,
)

COMPARISONS = {
    "eq": lambda x, y: x.eq(y),
    "ne": lambda x, y: x.ne(y),
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}
BITS = {"and": lambda x, y: x & y, "or": lambda x, y: x | y, "xor": lambda x, y: x ^ y}


def shift_left(x: Scalar, y: Scalar) -> Scalar:
    """`x << y`; 0 for shifts that are negative or as wide as the type."""
    return shifted("shl", x, y, (y < 0) | (y >= bits(x)))


def shift_right(x: Scalar, y: Scalar) -> Scalar:
    """`x >> y`, with the sign carried in; wide and negative shifts move by all bits but one."""
    widest = bits(x) - (0 if x.dtype == "u8" else 1)
    outside = (y < 0) | (y >= widest)
    if x.dtype == "u8":
        return shifted("shr", x, y, outside)
    return make("shr", x, where(outside, operand(widest, x.dtype), y))


def shifted(word: str, x: Scalar, y: Scalar, outside: Scalar) -> Scalar:
    """`x` moved by `y` bits; 0 where that is outside of the type."""
    zero = operand(0, x.dtype)
    return where(outside, zero, make(word, x, where(outside, zero, y)))


def bits(x: Scalar) -> int:
    return torch.iinfo(TORCH[x.dtype]).bits


def is_this(number: float) -> Callable[[Scalar], Scalar]:
    """Whether a float is that infinity; integers never are."""
    return lambda x: x.eq(number) if is_float(x) else operand(False, "bool")


def is_infinite(x: Scalar) -> Scalar:
    return abs(x).eq(math.inf) if is_float(x) else operand(False, "bool")


def is_nan(x: Scalar) -> Scalar:
    return isnan(x) if is_float(x) else operand(False, "bool")


def negative_sign(x: Scalar) -> Scalar:
    if is_float(x):
        return signbit(x)
    return operand(False, "bool") if x.dtype in ("bool", "u8") else x < 0


def heaviside(x: Scalar, at_zero: Scalar) -> Scalar:
    return where(x.eq(0), at_zero, cast(x > 0, x.dtype))


def nan_to_num(x: Scalar, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Scalar:
    """Numbers for NaN and the infinities; None means 0, the dtype's largest and its smallest."""
    if not is_float(x):
        return x
    limit, wide = torch.finfo(TORCH[x.dtype]).max, widen(x)
    x = choose(isnan(wide), 0 if nan is None else nan, x)
    x = choose(wide.eq(math.inf), limit if posinf is None else posinf, x)
    return choose(wide.eq(-math.inf), -limit if neginf is None else neginf, x)


def select(condition: Scalar, yes: Any, no: Any) -> Scalar:
    return choose(truth(condition), yes, no)


def masked_fill(x: Scalar, mask: Scalar, value: Any) -> Scalar:
    return choose(truth(mask), value, x)


def converted(x: Value, *, dtype: Any = None, **_: Any) -> Meta:
    return dtype_name(dtype, x.dtype), x.sizes


def ints_or_bool(node: Node) -> bool:
    return result_type(*node.args[:2]) in INTS | {"bool"}


def ints(node: Node) -> bool:
    return result_type(*node.args[:2]) in INTS


def copied(name: str) -> None:
    """A row for an op that returns its first argument's elements, in another dtype if asked."""
    row(
        f"aten.{name}",
        Kind.POINTWISE,
        converted,
        expr=lambda x, *_, **__: x,
        compute=lambda node: node.inputs[0].dtype,
    )


for name, compare in COMPARISONS.items():
    pointwise(f"{name}.Tensor {name}.Scalar", compare, operands=2, rule=boolean, rounds=always)
for name, bitwise in BITS.items():
    names = " ".join(f"bitwise_{name}.{kind}" for kind in ("Tensor", "Scalar", "Scalar_Tensor"))
    pointwise(
        f"{names} __{name}__.Tensor __{name}__.Scalar", bitwise, operands=2, applies=ints_or_bool
    )
pointwise("bitwise_not", lambda x: ~x)
pointwise(
    "bitwise_left_shift.Tensor bitwise_left_shift.Tensor_Scalar "
    "bitwise_left_shift.Scalar_Tensor __lshift__.Tensor __lshift__.Scalar",
    shift_left,
    operands=2,
    applies=ints,
)
pointwise(
    "bitwise_right_shift.Tensor bitwise_right_shift.Tensor_Scalar "
    "bitwise_right_shift.Scalar_Tensor __rshift__.Tensor __rshift__.Scalar",
    shift_right,
    operands=2,
    applies=ints,
)
pointwise("logical_not", lambda x: ~truth(x), rule=boolean)
pointwise("logical_and", lambda x, y: truth(x) & truth(y), operands=2, rule=boolean)
pointwise("logical_or", lambda x, y: truth(x) | truth(y), operands=2, rule=boolean)
pointwise("logical_xor", lambda x, y: truth(x) ^ truth(y), operands=2, rule=boolean)
pointwise("isnan", is_nan, rule=boolean)
pointwise("isinf", is_infinite, rule=boolean)
pointwise("isposinf", is_this(math.inf), rule=boolean)
pointwise("isneginf", is_this(-math.inf), rule=boolean)
pointwise("signbit", negative_sign, rule=boolean)
pointwise("heaviside", heaviside, operands=2, rounds=always)
choosing("nan_to_num", nan_to_num, slice(0, 1))
choosing("where.self", select, slice(1, 3))
choosing("masked_fill.Scalar masked_fill.Tensor", masked_fill, slice(0, 1))
copied("_to_copy")
copied("clone")
