"""What each word of the scalar vocabulary is in LLVM, and what a dtype is in registers and memory.

bf16 is its bits (i16) and widened by a shift; bool is i1 in registers and a byte in memory. Minimum
and maximum are written as comparisons, which are x86's own instructions with their rule for zeros
(the second operand of two equal ones), as in eager's kernels.
"""

from __future__ import annotations

from collections.abc import Callable

from tracejit.codegen.native import math
from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.types import I1, Type, Value, const
from tracejit.fuse.scalar import NoRule
from tracejit.ir.dtypes import FLOATS, HALVES, INTS

KIND: dict[str, str] = {
    "f64": "double",
    "f32": "float",
    "f16": "half",
    "bf16": "i16",
    "bool": "i1",
    **{f"{sign}{bits}": f"i{bits}" for sign in "iu" for bits in (8, 16, 32, 64)},
}


def kind_of(dtype: str) -> str:
    """The element kind in registers. Raises NoRule."""
    if dtype not in KIND:
        raise NoRule("native", "load", dtype)
    return KIND[dtype]


def memory_kind(dtype: str) -> str:
    """The element kind in memory."""
    return "i8" if dtype == "bool" else kind_of(dtype)


def is_unsigned(dtype: str) -> bool:
    return dtype.startswith("u") or dtype == "bool"


def to_memory(b: Builder, value: Value) -> Value:
    """A register's value as it is stored."""
    return b.cast("zext", value, value.type.of("i8")) if value.type.kind == "i1" else value


def from_memory(b: Builder, value: Value, dtype: str) -> Value:
    """A loaded value as it is computed with."""
    return b.icmp("ne", value, 0) if dtype == "bool" else value


def number(dtype: str, value: bool | int | float) -> Value:
    """A constant of a dtype."""
    if dtype == "bf16":
        return const(Type("i16"), int(const(Type("bfloat"), value).text[3:], 16))
    return const(Type(kind_of(dtype)), value)


# Casts


def cast(b: Builder, x: Value, old: str, new: str) -> Value:
    """C's conversion; to bool, whether it is not 0. Halves go through f32, as eager's do."""
    if old == new:
        return x
    if old in HALVES:
        return cast(b, widen(b, x, old), "f32", new)
    if new in HALVES:
        return narrow(b, cast(b, x, old, "f32"), new)
    to = x.type.of(kind_of(new))
    if new == "bool":
        zero = const(x.type, 0)
        return b.fcmp("une", x, zero) if old in FLOATS else b.icmp("ne", x, zero)
    if old in FLOATS:
        return _float_to(b, x, new, to)
    if new in FLOATS:
        return b.cast("uitofp" if is_unsigned(old) else "sitofp", x, to)
    if to.bits <= x.type.bits:
        return b.cast("trunc", x, to)
    return b.cast("zext" if is_unsigned(old) else "sext", x, to)


def _float_to(b: Builder, x: Value, new: str, to: Type) -> Value:
    """From f32 or f64. Integers are made as the processor makes them: 32 or 64 bits wide, then cut;
    what does not fit is whatever that gives, so LLVM must not reason about it (freeze)."""
    if new in FLOATS:
        return b.cast("fpext" if to.bits > x.type.bits else "fptrunc", x, to)
    if new == "u64":
        made = b.cast("fptoui", x, to)
    else:
        made = b.cast("fptosi", x, x.type.of("i64" if new in ("i64", "u32") else "i32"))
    frozen = b.let(made.type, f"freeze {made}")
    return b.cast("trunc", frozen, to)


def widen(b: Builder, x: Value, dtype: str) -> Value:
    """A half as f32."""
    if dtype == "f16":
        return b.cast("fpext", x, x.type.of("float"))
    wide = b.cast("zext", x, x.type.of("i32"))
    return b.bitcast(b.binary("shl", wide, 16), "float")


def narrow(b: Builder, x: Value, dtype: str) -> Value:
    """An f32 as a half, rounded to nearest, ties to even."""
    if dtype == "f16":
        return b.cast("fptrunc", x, x.type.of("half"))
    result = x.type.of("i16")
    if b.rounds_halves and x.type.lanes == 16:
        rounded = b.call("llvm.x86.avx512bf16.cvtneps2bf16.512", x.type.of("bfloat"), x)
        return b.bitcast(rounded, "i16")
    name = f"to_bf16.{x.type.suffix}"
    b.module.inline(name, result, [x.type], _to_bf16)
    return b.call(name, result, x)


def _to_bf16(b: Builder, x: Value) -> Value:
    bits = b.bitcast(x, "i32")
    wide = bits.type
    odd = b.binary("and", b.binary("lshr", bits, 16), 1)
    up = b.add(bits, b.add(odd, 0x7FFF))
    kept = b.select(b.fcmp("uno", x, x), 0x7FC00000, up)
    return b.cast("trunc", b.binary("lshr", kept, 16), wide.of("i16"))


def bitcast(b: Builder, x: Value, new: str) -> Value:
    """The same bits as another dtype of the same size."""
    return b.bitcast(x, kind_of(new))


# Words: functions of the builder, the operands' dtype and the operands.

Rule = Callable[..., Value]


def _by_kind(floats: str, integers: str) -> Rule:
    return lambda b, dtype, x, y: b.binary(floats if dtype in FLOATS else integers, x, y)


def _by_sign(signed: str, unsigned: str) -> Rule:
    return lambda b, dtype, x, y: b.binary(unsigned if is_unsigned(dtype) else signed, x, y)


def _divided(op: str) -> Rule:
    """A quotient or remainder of integers. Of the smallest integer by -1 the processor would trap;
    the result wraps instead."""

    def rule(b: Builder, dtype: str, x: Value, y: Value) -> Value:
        if is_unsigned(dtype):
            return b.binary(f"u{op}", x, y)
        if not y.text.startswith("%"):
            return b.binary(f"s{op}", x, y)
        minus = b.icmp("eq", y, -1)
        safe = b.binary(f"s{op}", x, b.select(minus, 1, y))
        zero = const(x.type, 0)
        return b.select(minus, b.sub(zero, x) if op == "div" else zero, safe)

    return rule


def _compare(floats: str, integers: str) -> Rule:
    def rule(b: Builder, dtype: str, x: Value, y: Value) -> Value:
        if dtype in FLOATS:
            return b.fcmp(floats, x, y)
        sign = "" if integers in ("eq", "ne") else "u" if is_unsigned(dtype) else "s"
        return b.icmp(sign + integers, x, y)

    return rule


def _extreme(predicate: str, integer: str, nan_wins: bool) -> Rule:
    def rule(b: Builder, dtype: str, x: Value, y: Value) -> Value:
        if dtype in INTS:
            sign = "u" if is_unsigned(dtype) else "s"
            return b.intrinsic(f"llvm.{sign}{integer}", x.type, x, y)
        best = b.select(b.fcmp(predicate, x, y), x, y)  # y where one is NaN
        other = x if nan_wins else y
        return b.select(b.fcmp("uno", other, other), x, best)

    return rule


def _intrinsic(name: str) -> Rule:
    return lambda b, dtype, *args: b.intrinsic(f"llvm.{name}", args[0].type, *args)


def _negative(b: Builder, dtype: str, x: Value) -> Value:
    return b.fneg(x) if dtype in FLOATS else b.sub(0, x)


def _absolute(b: Builder, dtype: str, x: Value) -> Value:
    if dtype in FLOATS:
        return b.intrinsic("llvm.fabs", x.type, x)
    return x if is_unsigned(dtype) else b.intrinsic("llvm.abs", x.type, x, const(I1, 0))


def _reciprocal_root(b: Builder, dtype: str, x: Value) -> Value:
    return b.fdiv(1.0, b.intrinsic("llvm.sqrt", x.type, x))


def _sign(b: Builder, dtype: str, x: Value) -> Value:
    bits = b.bitcast(x, f"i{x.type.bits}")
    return b.icmp("slt", bits, 0)


RULES: dict[str, Rule] = {
    "add": _by_kind("fadd", "add"),
    "sub": _by_kind("fsub", "sub"),
    "mul": _by_kind("fmul", "mul"),
    "div": _by_kind("fdiv", "fdiv"),
    "idiv": _divided("div"),
    "imod": _divided("rem"),
    "neg": _negative,
    "abs": _absolute,
    "minimum": _extreme("olt", "min", nan_wins=True),
    "maximum": _extreme("ogt", "max", nan_wins=True),
    "fmin": _extreme("olt", "min", nan_wins=False),
    "fmax": _extreme("ogt", "max", nan_wins=False),
    "eq": _compare("oeq", "eq"),
    "ne": _compare("une", "ne"),
    "lt": _compare("olt", "lt"),
    "le": _compare("ole", "le"),
    "gt": _compare("ogt", "gt"),
    "ge": _compare("oge", "ge"),
    "and": _by_kind("and", "and"),
    "or": _by_kind("or", "or"),
    "xor": _by_kind("xor", "xor"),
    "not": lambda b, dtype, x: b.binary("xor", x, -1),
    "shl": _by_kind("shl", "shl"),
    "shr": _by_sign("ashr", "lshr"),
    "where": lambda b, dtype, c, x, y: b.select(c, x, y),
    "sqrt": _intrinsic("sqrt"),
    "rsqrt": _reciprocal_root,
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "trunc": _intrinsic("trunc"),
    "round": _intrinsic("roundeven"),
    "copysign": _intrinsic("copysign"),
    "isnan": lambda b, dtype, x: b.fcmp("uno", x, x),
    "signbit": _sign,
}
ON_BITS = frozenset({"where"})  # words that take halves as they are


def apply(b: Builder, word: str, dtype: str, *args: Value) -> Value:
    """A word of operands of one dtype and as many lanes. Halves are computed with in f32."""
    if dtype in HALVES and word not in ON_BITS:
        wide = [widen(b, x, dtype) for x in args]
        result = apply(b, word, "f32", *wide)
        return result if result.type.kind == "i1" else narrow(b, result, dtype)
    if word in RULES:
        return RULES[word](b, dtype, *args)
    if word not in math.WORDS:
        raise NoRule("native", word, dtype)
    return math.call(b, word, *args)
