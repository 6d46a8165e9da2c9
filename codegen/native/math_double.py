"""Transcendental functions of f64 values: calls of SLEEF (sleef.org), which libtorch exports and
eager's kernels call too, a register at a time.

Wider vectors are cut; narrower ones and scalars are filled up with their first lane. Largest errors
that SLEEF states: 1 ulp, erfc 1.5 ulp, hypot 0.5 ulp, lgamma 1 ulp or 1e-15. What it does not do:

- asinh and acosh of numbers above 2⁵⁰⁰, where they are ln(x) + ln(2);
- sinh and cosh of numbers above 709, where sinh(x) = sinh(x − 20)·e²⁰ (e²⁰ is nearly a double);
- erfinv: a guess (relative error below 4e-7) and one step of Halley's method on erf, or on erfc
  where that is the smaller one. The guesses are polynomials fitted with the least largest relative
  error (by weights iterated as in Lawson's algorithm, 1961); 2 ulp;
- fmod and nextafter of all numbers, which are exact here; they are right for f32 too.
"""

from __future__ import annotations

import math

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.math_registers import (
    Writer,
    absolute,
    by_registers,
    copysign,
    polynomial,
)
from tracejit.codegen.native.types import Value, const

# Words by the accuracy that SLEEF's name of the function tells, in tenths of an ulp.
_SLEEF = {
    "u10": (
        "exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh asinh "
        "acosh atanh erf lgamma pow"
    ),
    "u15": "erfc",
    "u05": "hypot",
}
# Lowest power first: erfinv(x) = x·P(x²) below ½; above, w·P(1/(w + ½)), where w = √−log(1−x).
_NEAR = (
    0.8862271150770318,
    0.23197693194686014,
    0.1286837318114731,
    0.07470238953557432,
    0.1129067532209424,
)
_FAR = (
    1.0012348270837421,
    -0.0531138156758198,
    -1.2855396281326896,
    1.427934665608435,
    -2.0910379858840025,
    2.8558096063001823,
    -2.0030084828481467,
    0.5462008366320124,
)


def _sleef(word: str, accuracy: str) -> Writer:
    def write(b: Builder, *args: Value) -> Value:
        level = b.module.level
        assert level is not None, "SLEEF's functions are named for an instruction set"
        lanes = level.lanes(64)
        name = f"Sleef_{word}d{lanes}_{accuracy}{level.sleef}"
        return by_registers(lanes, lambda *some: b.call(name, some[0].type, *some), b, *args)

    return write


_BY_SLEEF = {w: _sleef(w, tenths) for tenths, words in _SLEEF.items() for w in words.split()}


def _inverse_hyperbolic(word: str) -> Writer:
    def write(b: Builder, x: Value) -> Value:
        size = absolute(b, x) if word == "asinh" else x
        large = b.fcmp("ogt", size, 2.0**500)
        twice = b.fadd(_BY_SLEEF["log"](b, size), const(x.type, math.log(2)))
        return b.select(large, copysign(b, twice, x), _BY_SLEEF[word](b, x))

    return write


def _hyperbolic(word: str) -> Writer:
    def write(b: Builder, x: Value) -> Value:
        large = b.fcmp("ogt", absolute(b, x), 709.0)
        nearer = b.fsub(x, copysign(b, const(x.type, 20.0), x))
        found = _BY_SLEEF[word](b, b.select(large, nearer, x))
        return b.select(large, b.fmul(found, const(x.type, math.exp(20.0))), found)

    return write


def _erfinv(b: Builder, x: Value) -> Value:
    wide, one = x.type, const(x.type, 1.0)
    size = absolute(b, x)
    gap = b.fsub(one, size)  # exact where it is used
    near = b.fcmp("olt", size, 0.5)
    guess = b.select(near, _erfinv_near(b, size), _erfinv_far(b, gap))
    short = b.fsub(gap, _BY_SLEEF["erfc"](b, guess))
    wrong = b.select(near, b.fsub(_BY_SLEEF["erf"](b, guess), size), short)
    slope = _BY_SLEEF["exp"](b, b.fneg(b.fmul(guess, guess)))
    step = b.fdiv(wrong, b.fmul(slope, const(wide, 2 / math.sqrt(math.pi))))
    found = b.fsub(guess, b.fdiv(step, b.fma(guess, step, one)))
    ends = b.fcmp("oeq", size, one)
    return copysign(b, b.select(ends, math.inf, found), x)


def _erfinv_near(b: Builder, size: Value) -> Value:
    return b.fmul(size, polynomial(b, b.fmul(size, size), _NEAR))


def _erfinv_far(b: Builder, gap: Value) -> Value:
    root = b.intrinsic("llvm.sqrt", gap.type, b.fneg(_BY_SLEEF["log"](b, gap)))
    inverse = b.fdiv(1.0, b.fadd(root, 0.5))
    return b.fmul(root, polynomial(b, inverse, _FAR))


def _fmod(b: Builder, x: Value, y: Value) -> Value:
    """libm's, lane by lane."""
    name = "fmodf" if x.type.kind == "float" else "fmod"
    if not x.type.lanes:
        return b.call(name, x.type, x, y)
    result = const(x.type, 0.0)
    for k in range(x.type.lanes):
        result = b.insert(result, b.call(name, x.type.scalar, b.extract(x, k), b.extract(y, k)), k)
    return result


def _nextafter(b: Builder, x: Value, y: Value) -> Value:
    """The neighbour of x towards y: numbers of one sign are ordered as their bits are."""
    bits = b.bitcast(x, f"i{x.type.bits}")
    negative = b.icmp("slt", bits, 0)
    outward = b.binary("xor", b.fcmp("ogt", y, x), negative)
    step = b.select(outward, const(bits.type, 1), const(bits.type, -1))
    moved = b.bitcast(b.add(bits, step), x.type.kind)
    least = copysign(b, b.bitcast(const(bits.type, 1), x.type.kind), y)
    moved = b.select(b.fcmp("oeq", x, 0.0), least, moved)
    moved = b.select(b.fcmp("uno", x, y), b.fadd(x, y), moved)
    return b.select(b.fcmp("oeq", x, y), y, moved)


TABLE: dict[str, Writer] = {
    **_BY_SLEEF,
    **{word: _inverse_hyperbolic(word) for word in ("asinh", "acosh")},
    **{word: _hyperbolic(word) for word in ("sinh", "cosh")},
    "erfinv": _erfinv,
    "fmod": _fmod,
    "nextafter": _nextafter,
}
