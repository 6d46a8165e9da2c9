"""What each word of the scalar vocabulary is in Triton, as string rules; and the functions that
reductions combine with.

A rule has a template with a hole for each operand, how tightly its result binds, and how tightly
operands must bind to go in without parentheses. Numbers follow IEEE 754 where the word does: `/` on
fp32 and `tl.exp` are approximate in Triton, so division is `tl.div_rn`, and functions come from
libdevice, the library that eager's own kernels use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import triton

from tracejit.fuse.scalar import FUNCTIONS, NoRule, Number, Scalar
from tracejit.ir.dtypes import COMPUTED, FLOATS, HALVES, INTS, TORCH, itemsize
from tracejit.runtime.philox import INCREMENTS, MULTIPLIERS, ROUNDS

# A dtype as a kernel's parameter points to it, and as Triton's language has it.
TYPE = {**{d: d for d in COMPUTED}, "f64": "fp64", "f32": "fp32", "f16": "fp16", "bool": "i1"}
TL = {**{d: str(TORCH[d]).replace("torch", "tl") for d in COMPUTED}, "bool": "tl.int1"}

# Before 3.9, Triton takes -x for 0 - x and -0.0 for 0.0.
SIGNED_ZEROS = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)

# How tightly an expression binds, as in Python.
ATOM, UNARY, MUL, ADD, SHIFT, AND, XOR, OR, COMPARE, ANY = 100, 90, 80, 70, 60, 50, 40, 30, 20, 0


@dataclass(frozen=True)
class Rule:
    """`template` with {0}, {1} … for operands; the result's `level`; what operands need."""

    template: str
    level: int = ATOM
    needs: tuple[int, ...] = (ANY, ANY, ANY)

    @property
    def infix(self) -> bool:
        """Whether Triton gives a Python number among the operands the other operand's dtype."""
        return self.level < UNARY


def infix(symbol: str, level: int, right: str = "{1}") -> Rule:
    left = level + 1 if level == COMPARE else level
    return Rule(f"{{0}} {symbol} {right}", level, (left, level + 1))


def prefix(symbol: str) -> Rule:
    return Rule(f"{symbol}{{0}}", UNARY, (UNARY,))


def method(call: str) -> Rule:
    return Rule(f"{{0}}.{call}", ATOM, (ATOM,))


def library(name: str, arity: int = 1) -> Rule:
    holes = ", ".join(f"{{{k}}}" for k in range(arity))
    return Rule(f"libdevice.{name}({holes})")


_NAN_WINS = "propagate_nan=tl.PropagateNan.ALL"
_LIBRARY = (*FUNCTIONS, "rsqrt", "trunc")
_LIBRARY_2 = ("pow", "atan2", "hypot", "copysign", "nextafter", "fmod")

# (word, kind of the operands) -> rule. Kinds: "f32", "f64", "float" (both), "int", "bool"; "any"
# for all.
RULES: dict[tuple[str, str], Rule] = {
    ("add", "any"): infix("+", ADD),
    ("sub", "any"): infix("-", ADD),
    ("mul", "any"): infix("*", MUL),
    ("div", "f32"): Rule("tl.div_rn({0}, {1})"),
    ("div", "f64"): infix("/", MUL),
    ("idiv", "int"): infix("//", MUL),
    ("imod", "int"): infix("%", MUL),
    ("neg", "int"): prefix("-"),
    ("neg", "float"): prefix("-") if SIGNED_ZEROS else infix("*", MUL, "-1.0"),
    ("abs", "any"): Rule("tl.abs({0})"),
    ("minimum", "float"): Rule(f"tl.minimum({{0}}, {{1}}, {_NAN_WINS})"),
    ("maximum", "float"): Rule(f"tl.maximum({{0}}, {{1}}, {_NAN_WINS})"),
    ("minimum", "int"): Rule("tl.minimum({0}, {1})"),
    ("maximum", "int"): Rule("tl.maximum({0}, {1})"),
    ("fmin", "float"): Rule("tl.minimum({0}, {1})"),
    ("fmax", "float"): Rule("tl.maximum({0}, {1})"),
    ("eq", "any"): infix("==", COMPARE),
    ("ne", "any"): infix("!=", COMPARE),
    ("lt", "any"): infix("<", COMPARE),
    ("le", "any"): infix("<=", COMPARE),
    ("gt", "any"): infix(">", COMPARE),
    ("ge", "any"): infix(">=", COMPARE),
    ("and", "any"): infix("&", AND),
    ("or", "any"): infix("|", OR),
    ("xor", "any"): infix("^", XOR),
    ("not", "any"): prefix("~"),
    ("shl", "int"): infix("<<", SHIFT),
    ("shr", "int"): infix(">>", SHIFT),
    ("where", "any"): Rule("tl.where({0}, {1}, {2})"),
    ("sqrt", "f32"): Rule("tl.sqrt_rn({0})"),
    ("sqrt", "f64"): Rule("tl.sqrt({0})"),
    ("floor", "float"): Rule("tl.floor({0})"),
    ("ceil", "float"): Rule("tl.ceil({0})"),
    ("round", "float"): library("nearbyint"),
    ("isnan", "float"): Rule("{0} != {0}", COMPARE, (COMPARE + 1,)),
    ("signbit", "f32"): Rule("{0}.to(tl.int32, bitcast=True) < 0", COMPARE, (ATOM,)),
    ("signbit", "f64"): Rule("{0}.to(tl.int64, bitcast=True) < 0", COMPARE, (ATOM,)),
    **{(word, "float"): library(word) for word in _LIBRARY},
    **{(word, "float"): library(word, 2) for word in _LIBRARY_2},
}
# Written by the emitter itself: they have arguments, or depend on two dtypes.
SPECIAL = frozenset({"const", "index", "load", "reduce", "scan", "cast", "bitcast", "philox"})
# Words whose rule names an operand twice or that are worth a name of their own.
REPEATS = frozenset({"isnan"})


def rule_for(scalar: Scalar) -> Rule:
    """The rule of an expression by its word and its operands' dtype. Raises NoRule if there is
    none.
    """
    dtype = scalar.args[-1].dtype
    kind = "float" if dtype in FLOATS else "int" if dtype in INTS else "bool"
    for key in (dtype, kind, "any"):
        found = RULES.get((scalar.op, key))
        if found is not None:
            return found
    raise NoRule("Triton", scalar.op, dtype)


def cast_rule(source: str, target: str) -> Rule:
    """Conversion as eager does it: half types and long integers go through fp32, small integers
    from floats wrap.
    """
    steps = [target]
    if target == "bool":
        if source in HALVES:
            return Rule("{0}.to(tl.float32) != 0", COMPARE, (ATOM,))
        return Rule("{0} != 0", COMPARE, (COMPARE + 1,))
    if target in HALVES and source in ("f64", "i64", "u64", "i32", "u32"):
        steps = ["f32", target]
    elif source in FLOATS and target in ("i8", "u8", "i16", "u16"):
        steps = ["i32" if target in ("i8", "i16") else "i64", target]
    elif source in FLOATS and target in ("u32", "u64"):
        steps = ["i64", target]
    return method(".".join(f"to({TL[s]})" for s in steps))


def bitcast_rule(target: str) -> Rule:
    return method(f"to({TL[target]}, bitcast=True)")


def literal(value: Number, dtype: str) -> tuple[str, int]:
    """A Python literal for a constant of `dtype`, and its level."""
    if dtype == "bool":
        return str(bool(value)), ATOM
    if dtype in INTS:
        value = wrap(int(value), dtype)
        return str(value), UNARY if value < 0 else ATOM
    value = float(value)
    if math.isnan(value) or math.isinf(value):
        text = f'float("{value}")'.replace('"-inf"', '"inf"')
        return (f"-{text}", UNARY) if value < 0 else (text, ATOM)
    return repr(value), UNARY if math.copysign(1.0, value) < 0 else ATOM


def wrap(value: int, dtype: str) -> int:
    """An integer reduced to the range of an integer dtype."""
    bits = 8 * itemsize(dtype)
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype[0] == "i" and value >> (bits - 1) else value


def typed(value: Number, dtype: str) -> str:
    """A constant that carries its dtype, for where Triton would guess another from a literal."""
    if not SIGNED_ZEROS and _is_negative_zero(value, dtype):
        bits = 8 * itemsize(dtype)
        return f"tl.full([], {-(1 << bits - 1)}, tl.int{bits}).to({TL[dtype]}, bitcast=True)"
    return f"tl.full([], {literal(value, dtype)[0]}, {TL[dtype]})"


def _is_negative_zero(value: Number, dtype: str) -> bool:
    return dtype in FLOATS and value == 0 and math.copysign(1.0, value) < 0


def needs_type(value: Number, dtype: str) -> bool:
    """Whether a bare literal would be another number even where Triton knows the dtype."""
    return not SIGNED_ZEROS and _is_negative_zero(value, dtype)


def literal_has_type(value: Number, dtype: str) -> bool:
    """Whether Triton takes the bare literal for a constant of just this dtype."""
    if needs_type(value, dtype):
        return False
    if dtype == "f32":
        size = abs(float(value))
        return (
            size == 0
            or math.isnan(size)
            or math.isinf(size)
            or 2.0**-126 <= size < 2.0**128 * (1 - 2.0**-25)
        )
    return dtype in ("i32", "bool")


@dataclass(frozen=True)
class Combine:
    """A function beside the kernel (mostly one that combines two partial results): its name and its
    text, as it stands above the kernel.
    """

    name: str
    text: str

    def apart_from(self, kernel: str) -> Combine:
        """The same function under a name that is not the kernel's."""
        if self.name != kernel:
            return self
        other = f"{self.name}_of_two"
        return Combine(other, self.text.replace(f"def {self.name}(", f"def {other}("))


_ONE = """@triton.jit
def {name}(a, b):
    return {body}
"""
_FIRST = """@triton.jit
def {name}(a, i, b, j):  # {about}
{body}
    return tl.where(first, a, b), tl.where(first, i, j)
"""


def _one(name: str, body: str) -> Combine:
    return Combine(name, _ONE.format(name=name, body=body))


def _first(name: str, symbol: str, floating: bool) -> Combine:
    if floating:
        lines = (f"    better = (a {symbol} b) | ((a != a) & (b == b))\n"
                 "    tied = (a == b) | ((a != a) & (b != b))\n"
                 "    first = better | (tied & (i < j))")  # fmt: skip
        about = "NaN comes before everything; ties go to the first"
    else:
        lines, about = f"    first = (a {symbol} b) | ((a == b) & (i < j))", "ties go to the first"
    return Combine(name, _FIRST.format(name=name, body=lines, about=about))


_EXTREMES = ("minimum", "maximum")
_COMBINE = {
    "add": _one("add", "a + b"),
    "mul": _one("multiply", "a * b"),
    "or": _one("either", "a | b"),
    "and": _one("both", "a & b"),
    "xor": _one("exclusive_or", "a ^ b"),
    **{word: _one(word, f"tl.{word}(a, b)") for word in _EXTREMES},
}
_COMBINE_FLOAT = {word: _one(word, f"tl.{word}(a, b, {_NAN_WINS})") for word in _EXTREMES}
_FIRST_OF = {
    (name, floating): _first(called, symbol, floating)
    for name, called, symbol in (
        ("argmax", "first_largest", ">"),
        ("argmin", "first_smallest", "<"),
    )
    for floating in (True, False)
}


PHILOX = Combine(
    "philox",
    f"""@triton.jit
def philox(place, key):  # Philox-4x32-10: word `place % 4` of block `place // 4`
    block = place >> 2
    a, b = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c, d = a ^ a, a ^ a
    u, v = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    for _ in tl.static_range({ROUNDS}):
        p, q = a * {MULTIPLIERS[0]}, c * {MULTIPLIERS[1]}
        p_high, q_high = tl.umulhi(a, {MULTIPLIERS[0]}), tl.umulhi(c, {MULTIPLIERS[1]})
        a, b, c, d = q_high ^ b ^ u, q, p_high ^ d ^ v, p
        u, v = u + {INCREMENTS[0]}, v + {INCREMENTS[1]}
    number = place & 3
    word = tl.where(number < 2, tl.where(number == 0, a, b), tl.where(number == 2, c, d))
    return word.to(tl.int32, bitcast=True)
""",
)


def combine_names() -> set[str]:
    """Every name that a function beside the kernel can have in its text."""
    return {PHILOX.name, *(c.name for c in (*_FIRST_OF.values(), *_COMBINE.values()))}


def combine_for(name: str, word: str | None, dtype: str) -> Combine:
    """The function for a reduction or scan called `name` whose combining word is `word`, on
    elements of `dtype`.
    """
    if word is None:
        return _FIRST_OF[name, dtype in FLOATS]
    found = {**_COMBINE, **_COMBINE_FLOAT} if dtype in FLOATS else _COMBINE
    if word not in found:
        raise NoRule("Triton", name, dtype)
    return found[word]
