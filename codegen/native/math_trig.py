"""Trigonometric functions of f32 values, inlined: vectors of any number of lanes, or scalars.

Circular functions reduce their argument by multiples of π (sin, cos) or π/2 (tan), which fused
multiply-adds subtract in three parts (Cody and Waite, "Software Manual for the Elementary
Functions", 1980); the first difference is exact. Above LARGE, a loop over the lanes multiplies the
mantissa with the bits of 1/2π that matter (Payne and Hanek, "Radian Reduction for Trigonometric
Functions", 1983), in whole numbers: 96 bits of a fraction of a turn.

Inverse functions: asin(x) = π/2 − 2·asin(√((1−x)/2)), atan(x) = π/2 − atan(1/x).

Polynomials are in the square of the argument, fitted with the least largest relative error (by
weights iterated as in Lawson's algorithm, 1961), coefficients rounded to f32 one after another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.math_registers import Writer, absolute, copysign, polynomial
from tracejit.codegen.native.types import F32, F64, I1, I32, I64, PTR, Value, const

LARGE = 131072.0  # from here on the three parts of π are too few
_MAGIC = 12582912.0  # 1.5·2²³: a number added to it is rounded to whole, and stands in the low bits
_HALF_PI = (
    1.570796251296997,
    7.549789415861596e-08,
    5.390302529957765e-15,
)  # cut, not rounded: none is negative
# floor(2²¹⁶ / 2π)
_TURNS = 0x28BE60DB9391054A7F09D5F47D4D377036D8A5664F10E4107F9458
_FIRST = 15  # exponent of the numbers that the table of _TURNS begins with

# Lowest power first: f(r) = r + r³·P(r²), for _COS 1 + r²·P(r²), for _TAN 2·tan(r/2).
_SIN = (-0.16666653752326965, 0.008332104422152042, -0.00019507463730406016)
_COS = (-0.5, 0.04166664555668831, -0.001388729433529079, 2.4429418772342615e-05)
_TAN = (0.08333321660757065, 0.008335101418197155, 0.0008349930285476148, 0.00010036824096459895)
_LOST = 1.7  # (1 + t²/4) / t² at t = 2·tan(π/8)
_ASIN = (
    0.16666752099990845,
    0.074953094124794,
    0.04546914994716644,
    0.024184778332710266,
    0.042158305644989014,
)
_ATAN = (
    -0.33333152532577515,
    0.19993767142295837,
    -0.14211003482341766,
    0.10665786266326904,
    -0.07551728934049606,
    0.043205976486206055,
    -0.016364244744181633,
    0.0029197600670158863,
)


def _odd(b: Builder, r: Value, z: Value, factors: Sequence[float]) -> Value:
    """r + r·z·P(z)"""
    return b.fma(b.fmul(r, z), polynomial(b, z, factors), r)


# Circular functions


def _sin(b: Builder, x: Value) -> Value:
    rest, _, n = _reduced(b, x)
    return _sine(b, rest, n)


def _cos(b: Builder, x: Value) -> Value:
    """sin(x + π/2)"""
    rest, _, n = _reduced(b, x)
    return _sine(b, rest, b.add(n, 1))


def _sine(b: Builder, rest: Value, n: Value) -> Value:
    """sin(n·π/2 + rest): ±sin(rest) or ±cos(rest)."""
    top = const(n.type, 1 << 31)
    z = b.fmul(rest, rest)
    odd = b.fma(z, polynomial(b, z, _COS), 1.0)
    even = b.bitcast(_odd(b, rest, z, _SIN), "i32")
    even = b.binary("or", even, b.binary("and", b.bitcast(rest, "i32"), top))  # of zero
    found = b.select(_is_odd(b, n), b.bitcast(odd, "i32"), even)
    sign = b.binary("and", b.binary("shl", n, 30), top)
    return b.bitcast(b.binary("xor", found, sign), "float")


def _tan(b: Builder, x: Value) -> Value:
    """tan(rest) or −1/tan(rest), where x = n·π/2 + rest; tan(r) = t/(1 − t²/4), t = 2·tan(r/2).

    What t loses by its last rounding is made up for in 1 − t²/4, by the factor that is right at
    π/4, where it matters most."""
    rest, more, n = _reduced(b, x)
    z = b.fmul(rest, rest)
    small = b.fma(b.fmul(rest, z), polynomial(b, z, _TAN), more)
    twice = b.fadd(rest, small)
    lost = b.fsub(small, b.fsub(twice, rest))
    quarter = b.fma(lost, _LOST, b.fmul(twice, 0.25))
    other = b.fma(b.fneg(quarter), twice, 1.0)
    odd = _is_odd(b, n)
    found = b.fdiv(b.select(odd, b.fneg(other), twice), b.select(odd, twice, other))
    return b.select(b.fcmp("oeq", x, 0.0), x, found)  # of zero, with its sign


def _is_odd(b: Builder, n: Value) -> Value:
    return b.icmp("ne", b.binary("and", n, 1), 0)


def _reduced(b: Builder, x: Value) -> tuple[Value, Value, Value]:
    """rest, more, n: x = n·π/2 + rest + more, |rest| ≤ π/4 and a little, `more` what rest was
    rounded by. Of n only the lowest two bits count. NaN for inf."""
    magic = const(x.type, _MAGIC)
    moved = b.fma(x, 2 / math.pi, magic)
    minus = b.fneg(b.fsub(moved, magic))
    first, second, third = (const(x.type, part) for part in _HALF_PI)
    start = b.fma(minus, first, x)
    end = b.fma(minus, third, b.fma(minus, second, start))
    rest, more = b.slot(end, "rest"), b.slot(_lost(b, start, minus, second, third, end), "more")
    n = b.slot(b.bitcast(moved, "i32"), "n")
    large = b.fcmp("oge", absolute(b, x), LARGE)
    with b.when(_rarely(b, large), "large"):
        for variable, far in zip((rest, more, n), _far(b, x), strict=True):
            variable.set(b.select(large, far, variable.get()))
    return rest.get(), more.get(), n.get()


def _lost(b: Builder, start: Value, n: Value, second: Value, third: Value, end: Value) -> Value:
    """start + n·second + n·third − end, of which it is a small part."""
    product = b.fmul(n, second)
    low = b.fma(n, second, b.fneg(product))
    total = b.fadd(start, product)  # what it loses is exact: start is a multiple of product's ulp
    low = b.fadd(low, b.fsub(product, b.fsub(total, start)))
    return b.fma(n, third, b.fadd(b.fsub(total, end), low))


def _rarely(b: Builder, mask: Value) -> Value:
    """Whether any lane is set, which LLVM is told is improbable."""
    found = mask
    if mask.type.lanes:
        found = b.intrinsic("llvm.vector.reduce.or", I1, mask, suffix=mask.type.suffix)
    return b.intrinsic("llvm.expect", I1, found, const(I1, 0))


def _far(b: Builder, x: Value) -> list[Value]:
    """As _reduced, by 1/2π's bits. Right for |x| ≥ 2^_FIRST; NaN for inf."""
    if not x.type.lanes:
        return _far_lane(b, x)
    kinds = x.type, x.type, x.type.of("i32")
    source, *results = (b.alloca(kind) for kind in (x.type, *kinds))
    b.store(x, source, 64)
    with b.loop(0, x.type.lanes, name="lane") as lane:
        found = _far_lane(b, b.load(b.gep(source, F32, lane), F32))
        for value, result in zip(found, results, strict=True):
            b.store(value, b.gep(result, value.type, lane))
    return [b.load(r, kind, 64) for r, kind in zip(results, kinds, strict=True)]


def _far_lane(b: Builder, x: Value) -> list[Value]:
    bits = b.bitcast(x, "i32")
    mantissa = b.binary("or", b.binary("and", bits, 0x7FFFFF), 0x800000)
    exponent = b.binary("and", b.binary("lshr", bits, 23), 0xFF)
    shift = b.sub(exponent, 127 + _FIRST)
    shift = b.intrinsic("llvm.smax", I32, shift, const(I32, 0))  # lanes that nobody asks for
    shifted = b.binary("shl", mantissa, b.binary("and", shift, 7))
    factor = b.cast("zext", shifted, I64)
    row = b.cast("zext", b.binary("lshr", shift, 3), I64)
    high, low = (_turns(b, half, row) for half in (0, 1))
    below = b.binary("lshr", b.mul(factor, low), 32)
    turn = b.add(b.mul(factor, high), below)  # of 2⁶⁴
    turn = b.select(b.icmp("slt", bits, 0), b.sub(0, turn), turn)
    n = b.binary("lshr", b.add(turn, 1 << 61), 62)
    part = b.cast("sitofp", b.sub(turn, b.binary("shl", n, 62)), F64)
    scaled = b.fmul(part, const(F64, math.pi / (1 << 63)))
    # x − x is NaN for inf, 0 for all others.
    rest = b.fadd(b.cast("fptrunc", scaled, F32), b.fsub(x, x))
    more = b.cast("fptrunc", b.fsub(scaled, b.cast("fpext", rest, F64)), F32)
    return [rest, more, b.cast("trunc", n, I32)]


def _turns(b: Builder, half: int, row: Value) -> Value:
    """The first 64 bits (half 0), or the next 32, of the fraction of 2^(8·row − 8) / 2π."""
    rows = (127 - _FIRST) // 8 + 1
    name = f"turns.{half}"
    first, bits = (128, 32) if half else (160, 64)
    words = [(_TURNS >> (first - 8 * r)) & ((1 << bits) - 1) for r in range(rows)]
    inside = ", ".join(str(const(I64, word)) for word in words)
    b.module.declare_global(name, f"internal constant [{rows} x i64] [{inside}]")
    return b.load(b.gep(Value(f"@{name}", PTR), I64, row), I64)


# Inverse functions


def _asin(b: Builder, x: Value) -> Value:
    size = absolute(b, x)
    big, angle = _asin_folded(b, size, (math.pi / 2 - _HALF_PI[0]) / -2)
    folded = b.fma(const(x.type, -2.0), angle, _HALF_PI[0])
    return copysign(b, b.select(big, folded, angle), x)


def _acos(b: Builder, x: Value) -> Value:
    """π/2 − asin(x); of numbers near 1 and −1: 2·a and π − 2·a, where a = asin(√((1−|x|)/2))."""
    wide = x.type
    size = absolute(b, x)
    big, angle = _asin_folded(b, size, 0.0)
    negative = b.fcmp("olt", x, 0.0)
    end = b.select(negative, const(wide, math.pi), const(wide, 0.0))
    base = b.select(big, end, math.pi / 2)
    factor = b.select(big, const(wide, 2.0), const(wide, -1.0))
    return b.fma(factor, copysign(b, angle, x), base)


def _asin_folded(b: Builder, size: Value, more: float) -> tuple[Value, Value]:
    """Whether size > ½, and asin(size), or if so, asin(√((1−size)/2)) + more. NaN above 1."""
    wide, half = size.type, const(size.type, 0.5)
    big = b.fcmp("ogt", size, half)
    folded = b.fma(const(wide, -0.5), size, half)
    z = b.select(big, folded, b.fmul(size, size))
    argument = b.select(big, b.intrinsic("llvm.sqrt", wide, folded), size)
    added = b.select(big, const(wide, more), const(wide, 0.0))
    rest = b.fma(b.fmul(argument, z), polynomial(b, z, _ASIN), added)
    return big, b.fadd(argument, rest)


def _atan(b: Builder, x: Value) -> Value:
    wide, one = x.type, const(x.type, 1.0)
    size = absolute(b, x)
    big = b.fcmp("ogt", size, one)
    above, below = b.select(big, -1.0, size), b.select(big, size, one)
    ratio = b.fdiv(above, below)
    base = b.select(big, const(wide, math.pi / 2), const(wide, 0.0))
    return copysign(b, b.fadd(base, _odd(b, ratio, b.fmul(ratio, ratio), _ATAN)), x)


def _atan2(b: Builder, y: Value, x: Value) -> Value:
    """The angle of (x, y): that within the octant, from the half axis nearest to it; C99's values
    for zeros and infinities."""
    wide = x.type
    zero, one, infinite = (const(wide, n) for n in (0.0, 1.0, math.inf))
    across, up = absolute(b, x), absolute(b, y)
    steep = b.fcmp("ogt", up, across)
    less, more = b.select(steep, across, up), b.select(steep, up, across)
    safe = b.select(b.fcmp("oeq", more, zero), one, more)  # both are 0
    both = b.binary("and", b.fcmp("oeq", less, infinite), b.fcmp("oeq", more, infinite))
    ratio = b.select(both, one, b.fdiv(less, safe))
    bits = b.bitcast(x, "i32")
    left = b.icmp("slt", bits, 0)
    back = b.binary("xor", steep, left)
    signed = b.select(back, b.fneg(ratio), ratio)
    angle = _odd(b, signed, b.fmul(signed, signed), _ATAN)
    flat = b.select(left, math.pi, zero)
    base = b.select(steep, math.pi / 2, flat)
    return copysign(b, b.fadd(base, angle), y)


def _hypot(b: Builder, x: Value, y: Value) -> Value:
    """In f64, which squares of f32 neither leave nor round in; inf if one is, beside NaN too."""
    wide, infinite = x.type.of("double"), const(x.type, math.inf)
    a, c = b.cast("fpext", x, wide), b.cast("fpext", y, wide)
    length = b.intrinsic("llvm.sqrt", wide, b.fma(a, a, b.fmul(c, c)))
    first, second = (b.fcmp("oeq", absolute(b, v), infinite) for v in (x, y))
    return b.select(b.binary("or", first, second), infinite, b.cast("fptrunc", length, x.type))


TABLE: dict[str, Writer] = {
    "sin": _sin,
    "cos": _cos,
    "tan": _tan,
    "asin": _asin,
    "acos": _acos,
    "atan": _atan,
    "atan2": _atan2,
    "hypot": _hypot,
}
