"""Exponentials, logarithms and what is made of them, of f32 values, inlined: vectors of up to a
register's lanes, or scalars.

exp, exp2, expm1: x = n·ln 2 + r, |r| ≤ ½ ln 2, with ln 2 in two parts (Cody and Waite, "Software
Manual for the Elementary Functions", 1980), a polynomial in r, and n put into the exponent in two
steps, so that results are rounded once where they are denormal (AVX-512: one instruction).
log, log2, log10, log1p: x = 2ᵉ·m with m around 1, log(1 + f) = f − f²/2 + f³·P(f); log1p adds to f
what 1 + x was rounded by (Kahan's correction). tanh: x + x³·P(x²) below 0.65, above it
1 − 2/(e²ˣ + 1). erf: x + x·P(x²) below 0.96, above it 1 − 2^Q(x). pow: log2 and exp2 in f64.

Polynomials were fitted with the least largest relative error (by weights iterated as in Lawson's
algorithm, 1961), their coefficients rounded to f32 one after another. Largest errors in ulp, on
some millions of numbers: exp 1.0, exp2 0.9, expm1 1.5, log 0.9, log2 1.4, log10 1.1, log1p 1.4,
tanh 1.3, erf 1.4, pow 0.5.
"""

from __future__ import annotations

import math

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.math_registers import (
    Writer,
    absolute,
    at_least,
    at_most,
    copysign,
    in_halves,
    polynomial,
)
from tracejit.codegen.native.types import I32, Type, Value, const

# Lowest power first.
_EXP = (
    *(0.4999999403953552, 0.1666652113199234, 0.04166829213500023),
    *(0.008368715643882751, 0.0013818698935210705),
)
_EXP2 = (
    *(0.6931471824645996, 0.24022647738456726, 0.05550359562039375),
    *(0.009618505835533142, 0.0013391025131568313, 0.0001532678143121302),
)
_LOG = (  # m from √½ to √2
    *(0.3333333134651184, -0.2500081956386566, 0.2000124156475067, -0.166234090924263),
    *(0.14201579988002777, -0.13159610331058502, 0.12762217223644257, -0.07636439055204391),
)
_LOG_AVX512 = (  # m from ¾ to 1½
    *(0.3333345055580139, -0.25000110268592834, 0.19990848004817963, -0.1664687842130661),
    *(0.14477629959583282, -0.13163936138153076, 0.10472550988197327, -0.045152269303798676),
)
_TANH = (
    *(-0.3333325982093811, 0.1333082914352417, -0.05368791148066521),
    *(0.02046905644237995, -0.005514776799827814),
)
_ERF_NEAR = (
    *(0.12837916612625122, -0.3761262893676758, 0.11283624917268753, -0.02685566619038582),
    *(0.005192221142351627, -0.0008047744631767273, 7.989252480911091e-05),
)
_ERF_FAR = (
    *(-0.0003451794618740678, -1.6266323328018188, -0.9196968674659729, -0.14955797791481018),
    *(0.03188178688287735, -0.00434406753629446, 0.0002779526694212109),
)
_LOG2_DOUBLE = (  # log2(m) = s·P(s²), s = (m − 1)/(m + 1)
    *(2.8853900817778495, 0.9617966941136971, 0.5770779423209335),
    *(0.4122092542546204, 0.31990567081366217, 0.28290015871260255),
)
_EXP2_DOUBLE = (
    *(0.9999999999616819, 0.6931471807284474, 0.2402265119815762, 0.055504103534465506),
    *(0.009618027253669316, 0.0013333922564750687, 0.00015469291140823022, 1.5201921304015066e-05),
)
_TANH_SPLIT, _ERF_SPLIT = 0.65, 0.96  # from here on by the other form
_ERF_ONE = 4.0  # from here on 1
_LN2 = (0.693145751953125, 1.42860682030941723212e-6)
_MAGIC = 12582912.0  # 1.5·2²³: a number added to it is rounded to whole, and stands in the low bits
_MAGIC_BITS = 0x4B400000
_MAGIC_DOUBLE = 6755399441055744.0  # 1.5·2⁵²
_ROOT_HALF = 0x3F3504F3  # √½, as bits
# Of AVX-512: getmant's "from ¾ to 1½" and "NaN for negative numbers"; "round as everything does".
_MANTISSA, _CURRENT = 0b1011, 4


def _has_avx512(b: Builder, x: Value) -> bool:
    level = b.module.level
    return level is not None and level.bytes == 64 and x.type.lanes == 16


def _avx512(b: Builder, name: str, x: Value, *more: Value) -> Value:
    """An instruction of AVX-512 on a whole register."""
    rest = (const(x.type, 0.0), const(Type("i16"), -1), const(I32, _CURRENT))
    return b.call(f"llvm.x86.avx512.mask.{name}.ps.512", x.type, x, *more, *rest)


def _whole(b: Builder, x: Value, factor: float = 1.0) -> tuple[Value, Value]:
    """The whole number nearest to x·factor, as a float and as an integer; |x·factor| < 2²²."""
    magic = const(x.type, _MAGIC)
    moved = b.fma(x, factor, magic)
    integer = b.sub(b.bitcast(moved, "i32"), _MAGIC_BITS)
    return b.fsub(moved, magic), integer


def _power(b: Builder, n: Value) -> Value:
    """2ⁿ as a float, for -126 ≤ n ≤ 127."""
    moved = b.add(n, 127)
    return b.bitcast(b.binary("shl", moved, 23), "float")


def _scaled(b: Builder, x: Value, whole: tuple[Value, Value]) -> Value:
    """x·2ⁿ, rounded once; x from ½ to 2, -252 ≤ n ≤ 254."""
    as_float, n = whole
    if _has_avx512(b, x):
        return _avx512(b, "scalef", x, as_float)
    half = b.binary("ashr", n, 1)
    return b.fmul(b.fmul(x, _power(b, half)), _power(b, b.sub(n, half)))


def _reduced(b: Builder, x: Value) -> tuple[Value, tuple[Value, Value]]:
    """r and n of x = n·ln 2 + r."""
    whole = _whole(b, x, 1 / math.log(2))
    minus = b.fneg(whole[0])
    high, low = (const(x.type, part) for part in _LN2)
    return b.fma(minus, low, b.fma(minus, high, x)), whole


def exp(b: Builder, x: Value) -> Value:
    rest, whole = _reduced(b, at_most(b, at_least(b, x, -104.0), 89.0))
    squared = b.fmul(rest, rest)
    above = b.fma(squared, polynomial(b, rest, _EXP), rest)
    return _scaled(b, b.fadd(above, 1.0), whole)


def exp2(b: Builder, x: Value) -> Value:
    return _exp2(b, at_most(b, at_least(b, x, -151.0), 129.0))


def _exp2(b: Builder, x: Value) -> Value:
    whole = _whole(b, x)
    rest = b.fsub(x, whole[0])
    one = const(x.type, 1.0)
    return _scaled(b, b.fma(rest, polynomial(b, rest, _EXP2), one), whole)


def expm1(b: Builder, x: Value) -> Value:
    """2·(p·2ⁿ⁻¹ + (2ⁿ⁻¹ − ½)), p = expm1(r): 2ⁿ alone might be too large."""
    rest, (_, n) = _reduced(b, at_most(b, at_least(b, x, -18.0), 89.0))
    above = b.fma(b.fmul(rest, rest), polynomial(b, rest, _EXP), rest)
    half = _power(b, b.sub(n, 1))
    found = b.fma(above, half, b.fsub(half, 0.5))
    tiny = b.fcmp("olt", absolute(b, x), 2.0**-30)
    return b.select(tiny, x, b.fadd(found, found))


def tanh(b: Builder, x: Value) -> Value:
    one, size = const(x.type, 1.0), absolute(b, x)
    squared = b.fmul(x, x)
    near = b.fma(b.fmul(x, squared), polynomial(b, squared, _TANH), x)
    power = exp(b, b.fadd(size, size))
    far = b.fsub(one, b.fdiv(2.0, b.fadd(power, one)))
    found = b.select(b.fcmp("ogt", size, _TANH_SPLIT), far, near)
    return copysign(b, found, x)


def _split(b: Builder, x: Value) -> tuple[Value, Value]:
    """m and e (a float) of x = 2ᵉ·m, for x above 0, also denormal. AVX-512: m is 1 and e infinite
    for 0 and inf, m is NaN below 0."""
    if _has_avx512(b, x):
        mantissa = _avx512(b, "getmant", x, const(I32, _MANTISSA))
        exponent = _avx512(b, "getexp", x)
        return mantissa, b.fsub(exponent, _avx512(b, "getexp", mantissa))
    tiny = b.fcmp("olt", x, 2.0**-126)
    bits = b.bitcast(b.select(tiny, b.fmul(x, 2.0**23), x), "i32")
    moved = b.sub(bits, _ROOT_HALF)
    e = b.binary("ashr", moved, 23)
    mantissa = b.bitcast(b.sub(bits, b.binary("shl", e, 23)), "float")
    less = b.select(tiny, const(x.type, 23.0), const(x.type, 0.0))
    return mantissa, b.fsub(b.cast("sitofp", e, x.type), less)


def _log_ends(b: Builder, x: Value, found: Value) -> Value:
    """-inf for 0, NaN below it, inf for inf."""
    if _has_avx512(b, x):
        return found
    infinity = const(x.type, math.inf)
    found = b.select(b.fcmp("oeq", x, infinity), infinity, found)
    found = b.select(b.fcmp("oeq", x, 0.0), -math.inf, found)
    return b.select(b.fcmp("ult", x, 0.0), math.nan, found)


def _curve(b: Builder, f: Value) -> Value:
    """log(1 + f) − f"""
    factors = _LOG_AVX512 if _has_avx512(b, f) else _LOG
    squared = b.fmul(f, f)
    cubed = b.fmul(b.fmul(f, squared), polynomial(b, f, factors))
    return b.fma(squared, -0.5, cubed)


def log(b: Builder, x: Value) -> Value:
    mantissa, e = _split(b, x)
    f = b.fsub(mantissa, 1.0)
    return _log_ends(b, x, _natural(b, f, e))


def _natural(b: Builder, f: Value, e: Value) -> Value:
    """log(1 + f) + e·ln 2"""
    high, low = (const(f.type, part) for part in _LN2)
    return b.fma(e, high, b.fadd(f, b.fma(e, low, _curve(b, f))))


def _log_to(base: float) -> Writer:
    """log to another base: log(1 + f), in two parts, times its factor, in two parts."""
    factor = _in_two(1 / math.log(base))
    step = _in_two(math.log(2) / math.log(base))

    def write(b: Builder, x: Value) -> Value:
        wide = x.type
        mantissa, e = _split(b, x)
        f = b.fsub(mantissa, 1.0)
        curve = _curve(b, f)
        near = b.fadd(f, curve)
        lost = b.fsub(curve, b.fsub(near, f))
        tail = b.fma(near, factor[1], b.fmul(lost, const(wide, factor[0])))
        if step[1]:
            tail = b.fma(e, step[1], tail)
        total = b.fma(near, factor[0], tail)
        return _log_ends(b, x, b.fma(e, step[0], total))

    return write


def _in_two(number: float) -> tuple[float, float]:
    """A number as one of 12 bits, which times an exponent is exact, and the rest."""
    scale = 2.0 ** (11 - math.frexp(number)[1] + 1)
    high = round(number * scale) / scale
    return high, number - high


def log1p(b: Builder, x: Value) -> Value:
    wide = x.type
    one = const(wide, 1.0)
    total = b.fadd(x, one)
    part = b.fsub(total, one)
    lost = b.fadd(b.fsub(one, b.fsub(total, part)), b.fsub(x, part))
    mantissa, e = _split(b, total)
    n = b.cast("fptosi", at_most(b, at_least(b, e, -126.0), 126.0), wide.of("i32"))
    n = b.let(n.type, f"freeze {n}")
    f = b.fma(lost, _power(b, b.sub(0, n)), b.fsub(mantissa, one))
    f = b.select(b.fcmp("oeq", total, math.inf), 0.0, f)
    return copysign(b, _log_ends(b, total, _natural(b, f, e)), x)


def erf(b: Builder, x: Value) -> Value:
    size = absolute(b, x)
    squared = b.fmul(x, x)
    near = b.fma(x, polynomial(b, squared, _ERF_NEAR), x)
    far = _exp2(b, polynomial(b, at_most(b, size, _ERF_ONE), _ERF_FAR))
    far = copysign(b, b.fsub(1.0, far), x)
    return b.select(b.fcmp("ogt", size, _ERF_SPLIT), far, near)


# pow


def power(b: Builder, x: Value, y: Value) -> Value:
    """C99's cases: 1 for 1ʸ and x⁰; NaN for negative x and y that is not whole; signs by odd y."""
    wide = x.type
    zero, one, infinity = (const(wide, c) for c in (0.0, 1.0, math.inf))
    size = absolute(b, x)
    found = in_halves(lambda *half: _power_of(b, *half), b, size, y) if wide.lanes > 1 else None
    found = _power_of(b, size, y) if found is None else found
    found = b.select(b.fcmp("oeq", size, one), one, found)
    down = b.fcmp("olt", y, zero)
    at_zero = b.select(down, infinity, zero)
    at_end = b.select(down, zero, infinity)
    found = b.select(b.fcmp("oeq", size, zero), at_zero, found)
    found = b.select(b.fcmp("oeq", size, infinity), at_end, found)
    whole = b.fcmp("oeq", b.intrinsic("llvm.trunc", wide, y), y)
    half = b.fmul(y, 0.5)
    odd = b.binary("and", whole, b.fcmp("one", b.intrinsic("llvm.trunc", wide, half), half))
    found = b.select(odd, copysign(b, found, x), found)
    negative = b.binary("and", b.fcmp("olt", x, zero), b.fcmp("ogt", x, b.fneg(infinity)))
    broken = b.binary("and", negative, b.binary("xor", whole, 1))
    found = b.select(broken, math.nan, found)
    unordered = b.fcmp("uno", x, y)
    found = b.select(unordered, b.fadd(x, y), found)
    always = b.binary("or", b.fcmp("oeq", x, one), b.fcmp("oeq", y, zero))
    return b.select(always, one, found)


def _power_of(b: Builder, size: Value, y: Value) -> Value:
    """2^(y·log2(size)) in f64, for sizes that are neither 0 nor infinite."""
    x = b.cast("fpext", size, size.type.of("double"))
    wide = x.type
    bits = b.bitcast(x, "i64")
    moved = b.sub(bits, 0x3FE6A09E667F3BCD)  # √½
    e = b.binary("ashr", moved, 52)
    m = b.bitcast(b.sub(bits, b.binary("shl", e, 52)), "double")
    one = const(wide, 1.0)
    s = b.fdiv(b.fsub(m, one), b.fadd(m, one))
    e = b.cast("sitofp", b.cast("trunc", e, e.type.of("i32")), wide)
    logarithm = b.fma(s, polynomial(b, b.fmul(s, s), _LOG2_DOUBLE), e)
    exponent = b.fmul(logarithm, b.cast("fpext", y, wide))
    exponent = at_most(b, at_least(b, exponent, -200.0), 200.0)
    magic = const(wide, _MAGIC_DOUBLE)
    whole = b.fadd(exponent, magic)
    rest = b.fsub(exponent, b.fsub(whole, magic))
    found = b.bitcast(polynomial(b, rest, _EXP2_DOUBLE), "i64")
    shifted = b.binary("shl", b.bitcast(whole, "i64"), 52)
    return b.cast("fptrunc", b.bitcast(b.add(found, shifted), "double"), size.type)


TABLE: dict[str, Writer] = {
    "exp": exp,
    "exp2": exp2,
    "expm1": expm1,
    "tanh": tanh,
    "log": log,
    "log2": _log_to(2),
    "log10": _log_to(10),
    "log1p": log1p,
    "erf": erf,
    "pow": power,
}
