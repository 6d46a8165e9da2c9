"""Pointwise rows: arithmetic, rounding and powers, with eager's order of operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tracejit.fuse.scalar import Scalar, make, where
from tracejit.ir.dtypes import FLOATS, INTS
from tracejit.ir.graph import Node, Value
from tracejit.ops.pointwise import always, floating, on_cpu, pointwise, same
from tracejit.ops.promote import real_of, result_type
from tracejit.ops.words import (
    Step,
    ceil,
    clamp,
    copysign,
    floor,
    fmod,
    is_float,
    maximum,
    minimum,
    multiply_add,
    number,
    operand,
    power,
    round_even,
    rsqrt,
    sqrt,
    trunc,
)

UNSIGNED = frozenset({"u8", "u16", "u32", "u64"})


def add(x: Scalar, y: Scalar, alpha: Any = 1, *, step: Step) -> Scalar:
    """`x + alpha * y`; `or` of bools."""
    if x.dtype == "bool":
        return x | y if alpha else x
    return x + y if alpha == 1 else multiply_add(step(operand(alpha, y.dtype)), y, x)


def subtract(x: Scalar, y: Scalar, alpha: Any = 1, *, step: Step) -> Scalar:
    return x - y if alpha == 1 else multiply_add(step(operand(-alpha, y.dtype)), y, x)


def reverse_subtract(x: Scalar, y: Scalar, alpha: Any = 1, *, step: Step) -> Scalar:
    return subtract(y, x, alpha, step=step)


def times(x: Scalar, y: Scalar) -> Scalar:
    return x & y if x.dtype == "bool" else x * y


def absolute(x: Scalar) -> Scalar:
    return x if x.dtype == "bool" or x.dtype in UNSIGNED else abs(x)


def sign(x: Scalar) -> Scalar:
    """-1, 0 or 1; 0 for NaN."""
    if x.dtype == "bool":
        return x
    positive = where(x > 0, number(1, x.dtype), 0)
    return positive if x.dtype in UNSIGNED else where(x < 0, number(-1, x.dtype), positive)


# Division. Integers divide by constants only: a zero in a tensor makes eager raise.
def integer_quotient(x: Scalar, y: Scalar, mode: str) -> Scalar:
    """`x / y` rounded by `mode`, y a constant that is not 0."""
    if abs(y.arg) == 1:
        return x if y.arg == 1 else -x
    quotient = make("idiv", x, y)
    if mode == "trunc" or x.dtype in UNSIGNED:
        return quotient
    return where(crosses(make("imod", x, y), y), quotient - 1, quotient)


def crosses(rest: Scalar, y: Scalar) -> Scalar:
    """Whether a remainder with the dividend's sign lies across 0 from the constant divisor."""
    return rest > 0 if y.arg < 0 else rest < 0


def floor_divide(x: Scalar, y: Scalar, *, step: Step) -> Scalar:
    """Python's `//`, on floats in ATen's steps."""
    if not is_float(x):
        return integer_quotient(x, y, "floor")
    rest = fmod(x, y)
    quotient = step(step(x - rest) / y)
    quotient = where(rest.ne(0) & ((y < 0) ^ (rest < 0)), step(quotient - 1), quotient)
    whole = floor(quotient)
    whole = where(step(quotient - whole) > 0.5, whole + 1, whole)
    signed_zero = copysign(number(0, x.dtype), x / y)
    return where(y.eq(0), x / y, where(quotient.ne(0), whole, signed_zero))


def divide_mode(x: Scalar, y: Scalar, *, rounding_mode: str | None = None, step: Step) -> Scalar:
    if rounding_mode is None:
        return x / y
    if not is_float(x):
        return integer_quotient(x, y, rounding_mode)
    return floor_divide(x, y, step=step) if rounding_mode == "floor" else trunc(step(x / y))


def remainder(x: Scalar, y: Scalar, *, step: Step) -> Scalar:
    """Python's `%`: the divisor's sign."""
    if is_float(x):
        rest = fmod(x, y)
        return where(rest.ne(0) & ((y < 0) ^ (rest < 0)), step(rest + y), rest)
    if abs(y.arg) == 1:
        return number(0, x.dtype)
    rest = make("imod", x, y)
    return rest if x.dtype in UNSIGNED else where(crosses(rest, y), rest + y, rest)


def c_remainder(x: Scalar, y: Scalar) -> Scalar:
    """C's `fmod` and `%`: the dividend's sign."""
    if is_float(x):
        return fmod(x, y)
    return number(0, x.dtype) if abs(y.arg) == 1 else make("imod", x, y)


def divides(node: Node) -> bool:
    """Floats, or integers by a Python number that is not 0 in the result's dtype."""
    x, y = node.args[:2]
    dtype = result_type(x, y)
    if dtype in INTS:
        return not isinstance(y, Value) and number(y, dtype).arg != 0
    return dtype in FLOATS


def divides_by_mode(node: Node) -> bool:
    return node.kwargs.get("rounding_mode") is None or divides(node)


def divided(dtype: str, kwargs: dict[str, Any]) -> str:
    """Without a rounding mode integers divide to floats."""
    return (same if kwargs.get("rounding_mode") else floating)(dtype, kwargs)


def tensor_divisor(node: Node, dtype: str) -> bool:
    """Numbers and 0-d CPU tensors divide in f32; two tensors are divided in the half type."""
    y = node.args[1]
    return isinstance(y, Value) and (y.ndim > 0 or y.device != "cpu")


# Powers.
def power_number(x: Scalar, exponent: Scalar, *, step: Step) -> Scalar:
    """`x ** exponent` for a constant, with the special cases of ATen's kernels."""
    if not is_float(x):
        return integer_power(x, exponent.arg)
    special: dict[float, Callable[[], Scalar]] = {
        0.0: lambda: number(1, x.dtype),
        1.0: lambda: x,
        0.5: lambda: sqrt(x),
        -0.5: lambda: rsqrt(x),
        2.0: lambda: x * x,
        3.0: lambda: step(x * x) * x,
        -1.0: lambda: 1 / x,
        -2.0: lambda: 1 / step(x * x),
    }
    found = special.get(exponent.arg)
    return found() if found else power(x, exponent)


def integer_power(x: Scalar, exponent: int) -> Scalar:
    """By squaring; wraps as eager's loop does."""
    result, base = number(1, x.dtype), x
    while exponent:
        if exponent & 1:
            result = base if result.op == "const" else result * base
        base, exponent = base * base, exponent >> 1
    return result


def has_power(node: Node) -> bool:
    """Floats, or integers to a small constant that is not negative."""
    x, y = node.args[:2]
    dtype = result_type(x, y)
    return dtype in FLOATS or (dtype in INTS and isinstance(y, int) and 0 <= y < 64)


def rounding(function: Callable[[Scalar], Scalar]) -> Callable[[Scalar], Scalar]:
    """For integers, which are whole already, the identity."""
    return lambda x: function(x) if is_float(x) else x


def lerp(start: Scalar, end: Scalar, weight: Any) -> Scalar:
    """ATen's two formulas, each exact at its own end."""
    if not isinstance(weight, Scalar):
        near, weight = abs(weight) < 0.5, number(weight, start.dtype)
        return multiply_add(weight, end - start, start) if near else from_end(start, end, weight)
    near_start = multiply_add(weight, end - start, start)
    return where(abs(weight) < 0.5, near_start, from_end(start, end, weight))


def from_end(start: Scalar, end: Scalar, weight: Scalar) -> Scalar:
    return multiply_add(weight - 1, end - start, end)


def addcmul(x: Scalar, a: Scalar, b: Scalar, *, value: Any = 1) -> Scalar:
    return multiply_add(a if value == 1 else number(value, a.dtype) * a, b, x)


def addcdiv(x: Scalar, a: Scalar, b: Scalar, *, value: Any = 1) -> Scalar:
    return x + (a if value == 1 else number(value, a.dtype) * a) / b


pointwise("add.Tensor add.Scalar", add, operands=2, rounds=on_cpu, stepwise=True)
pointwise("sub.Tensor sub.Scalar", subtract, operands=2, rounds=on_cpu, stepwise=True)
pointwise("rsub.Tensor rsub.Scalar", reverse_subtract, operands=2, rounds=on_cpu, stepwise=True)
pointwise("mul.Tensor mul.Scalar", times, operands=2)
pointwise("div.Tensor div.Scalar", lambda x, y: x / y, operands=2, rule=floating)
pointwise(
    "floor_divide floor_divide.Scalar",
    floor_divide,
    operands=2,
    rounds=tensor_divisor,
    stepwise=True,
    applies=divides,
)
pointwise(
    "remainder.Tensor remainder.Scalar remainder.Scalar_Tensor",
    remainder,
    operands=2,
    rounds=always,
    stepwise=True,
    applies=divides,
)
pointwise("fmod.Tensor fmod.Scalar", c_remainder, operands=2, rounds=always, applies=divides)
pointwise("neg", lambda x: -x)
pointwise("abs", absolute, rule=lambda dtype, kwargs: real_of(dtype))
pointwise("sign sgn", sign)
pointwise("reciprocal", lambda x: 1 / x, rule=floating)
pointwise("sqrt", sqrt, rule=floating)
pointwise("rsqrt", rsqrt, rule=floating)
pointwise(
    "pow.Tensor_Scalar", power_number, operands=2, rounds=always, stepwise=True, applies=has_power
)
pointwise("pow.Tensor_Tensor pow.Scalar", power, operands=2, rounds=always, applies=has_power)
pointwise("maximum", maximum, operands=2, rounds=always)
pointwise("minimum", minimum, operands=2, rounds=always)
pointwise("clamp clamp.Tensor", clamp, operands=3, rounds=always)
pointwise("clamp_min clamp_min.Tensor", clamp, operands=2, rounds=always)
pointwise(
    "clamp_max clamp_max.Tensor", lambda x, high: clamp(x, None, high), operands=2, rounds=always
)
pointwise("floor", rounding(floor))
pointwise("ceil", rounding(ceil))
pointwise("trunc", rounding(trunc))
pointwise("round", rounding(round_even))
pointwise("frac", lambda x: x - trunc(x))
pointwise(
    "div.Tensor_mode div.Scalar_mode",
    divide_mode,
    operands=2,
    rule=divided,
    rounds=tensor_divisor,
    stepwise=True,
    applies=divides_by_mode,
)
pointwise("deg2rad", lambda x: x * (math.pi / 180), rule=floating)
pointwise("rad2deg", lambda x: x * (180 / math.pi), rule=floating)
pointwise("lerp.Scalar", lerp, operands=2)
pointwise("lerp.Tensor", lerp, operands=3)
pointwise("addcmul", addcmul, operands=3)
pointwise("addcdiv", addcdiv, operands=3, rule=floating)
