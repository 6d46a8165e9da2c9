"""What the modules of transcendental functions share: vectors cut into registers, polynomials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.types import Value, const

Writer = Callable[..., Value]


def by_registers(lanes: int, write: Writer, b: Builder, *args: Value) -> Value:
    """What `write` gives for vectors of exactly so many lanes, put together for args of any number
    (0: scalars)."""
    count = args[0].type.lanes
    if count == lanes:
        return write(*args)
    if count < lanes:
        found = write(*(_filled(b, a, lanes) for a in args))
        return b.shuffle(found, None, range(count)) if count else b.extract(found, 0)
    return in_halves(lambda *half: by_registers(lanes, write, b, *half), b, *args)


def in_halves(write: Writer, b: Builder, *args: Value) -> Value:
    """What `write` gives for the lower lanes and for the upper ones, put together."""
    count = args[0].type.lanes
    cut = range(count // 2), range(count // 2, count)
    low, high = (write(*(b.shuffle(a, None, half) for a in args)) for half in cut)
    return b.shuffle(low, high, range(count))


def _filled(b: Builder, a: Value, lanes: int) -> Value:
    """A value with its first lane repeated behind it."""
    count = a.type.lanes
    if not count:
        return b.splat(a, lanes)
    return b.shuffle(a, None, [k if k < count else 0 for k in range(lanes)])


def polynomial(b: Builder, z: Value, factors: Sequence[float]) -> Value:
    """factors[0] + z·(factors[1] + factors[2]·z + …), what is in brackets in pairs, then pairs of
    pairs (Estrin, "Organization of computer systems", 1960): a step waits for fewer before it than
    by Horner's rule."""
    first, *terms = (const(z.type, factor) for factor in factors)
    power = z
    while len(terms) > 1:
        pairs = zip_longest(terms[::2], terms[1::2])
        terms = [low if high is None else b.fma(high, power, low) for low, high in pairs]
        power = b.fmul(power, power) if len(terms) > 1 else power
    return b.fma(terms[0], z, first)


def absolute(b: Builder, x: Value) -> Value:
    return b.intrinsic("llvm.fabs", x.type, x)


def copysign(b: Builder, x: Value, sign: Value) -> Value:
    return b.intrinsic("llvm.copysign", x.type, x, sign)


def at_least(b: Builder, x: Value, low: float) -> Value:
    """x, or the bound below it; NaN stays."""
    bound = const(x.type, low)
    return b.select(b.fcmp("olt", x, bound), bound, x)


def at_most(b: Builder, x: Value, high: float) -> Value:
    """x, or the bound above it; NaN stays."""
    bound = const(x.type, high)
    return b.select(b.fcmp("ogt", x, bound), bound, x)
