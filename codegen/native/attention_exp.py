"""2ˣ for attention's weights: x is at most 0 but for rounding, or -inf, or NaN.

x is cut into a whole number and a rest, for which a polynomial is fitted with the least largest
relative error (by weights iterated as in Lawson's algorithm, "Contributions to the Theory of Linear
Least Maximum Approximation", 1961) under the condition that 2⁰ is 1. The whole number goes into the
exponent. AVX-512 has one instruction each for the rest (above the whole number below x: 0 … 1) and
for the exponent; elsewhere the whole number is the nearest one (rest -½ … ½).
"""

from __future__ import annotations

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.types import I32, Type, Value, const
from tracejit.runtime.cpu import Level

Factors = tuple[float, ...]
# Of the polynomials by their degree: the highest power's first; that of x⁰ is 1. Largest relative
# errors 8.6e-5, 2.9e-6, 8.3e-8.
_ABOVE: dict[int, Factors] = {
    3: (0.07706705118299628, 0.2276449811908995, 0.6951167886697057, 1.0),
    4: (0.013426685836902973, 0.05224247170833216, 0.24128020592890043, 0.6930448447540518, 1.0),
    5: (
        0.0018671304944450984,
        0.009017029417743141,
        0.05579991375677649,
        0.24016444997313305,
        0.6931513118200202,
        1.0,
    ),
}
# The same; 1.0e-4, 2.8e-6, 9.1e-8.
_AROUND: dict[int, Factors] = {
    3: (0.05500893146912133, 0.2422109629210763, 0.6932829274616978, 1.0),
    4: (0.00958285318370125, 0.05590642514458502, 0.24024098611653774, 0.6931241933554518, 1.0),
    5: (
        0.0013264727255916603,
        0.009671512700159467,
        0.055507337436629445,
        0.24022242084451093,
        0.6931469775986024,
        1.0,
    ),
}
# Enough for weights of results of this dtype: a small part of its rounding error.
DEGREES = {"f32": 5, "f16": 4, "bf16": 3}
_MAGIC = 12582912.0  # 1.5·2²³: a number added to it is rounded to whole, and stands in the low bits
_LEAST = -126.0  # below it results would be denormal: they are 0
_DOWN_QUIET = 9  # vreduce: against the number rounded down, no exceptions
_CURRENT = 4  # vscalef: round as everything does


def exp2(b: Builder, level: Level, x: Value, degree: int = 5, hidden: bool = True) -> Value:
    """2ˣ, in vectors of f32 as wide as the level's registers; NaN for NaN. 0 for -inf, which there
    may be with `hidden`."""
    name = f"weight{degree}{'.hidden' * hidden}.{x.type.suffix}"
    masked = level.bytes == 64 and x.type.lanes == 16

    def write(b: Builder, x: Value) -> Value:
        return _avx512(b, x, degree) if masked else _plain(b, x, degree, hidden)

    b.module.inline(name, x.type, [x.type], write)
    return b.call(name, x.type, x)


def _polynomial(b: Builder, rest: Value, factors: Factors) -> Value:
    total = const(rest.type, factors[0])
    for factor in factors[1:]:
        total = b.fma(total, rest, const(rest.type, factor))
    return total


def _avx512(b: Builder, x: Value, degree: int) -> Value:
    always = (const(x.type, 0.0), const(Type("i16"), -1), const(I32, _CURRENT))
    reduce, scale = (f"llvm.x86.avx512.mask.{n}.ps.512" for n in ("reduce", "scalef"))
    rest = b.call(reduce, x.type, x, const(I32, _DOWN_QUIET), *always)
    return b.call(scale, x.type, _polynomial(b, rest, _ABOVE[degree]), x, *always)


def _plain(b: Builder, x: Value, degree: int, hidden: bool) -> Value:
    wide = x.type
    least, magic = const(wide, _LEAST), const(wide, _MAGIC)
    big = b.select(b.fcmp("ogt", least, x), least, x)  # x where x is NaN
    moved = b.fadd(big, magic)
    rest = b.fsub(big, b.fsub(moved, magic))
    found = b.bitcast(_polynomial(b, rest, _AROUND[degree]), "i32")
    exponent = b.binary("shl", b.bitcast(moved, "i32"), 23)
    scaled = b.bitcast(b.add(found, exponent), "float")
    if not hidden:
        return scaled
    return b.select(b.fcmp("olt", x, least), 0.0, scaled)
