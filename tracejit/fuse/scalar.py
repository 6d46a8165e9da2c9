"""The scalar vocabulary: what the body of a loop nest can compute, as immutable, hash-consed
expressions.

Two equal expressions are one object, so common subexpressions vanish by construction and rewrites
compare with `is`. Arithmetic works through Python's operators, so that rows of the op table read as
algebra: `x / (1 + exp(-x))`.
"""

from __future__ import annotations

import itertools
import math
import operator
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Union

from tracejit.fuse.index import Axis, Index
from tracejit.ir.dtypes import FLOATS, INTS

Number = Union[bool, int, float]


@dataclass(frozen=True)
class Word:
    """One word of the vocabulary: its arity, the dtype of its result and the operand dtypes it
    takes.

    result: "same" (the operands' dtype), "bool", or "arg" (given by the expression). takes: subset
    of "fib".
    """

    arity: int
    result: str = "same"
    takes: str = "fi"


# Functions of one float that take a series of steps to compute.
FUNCTIONS = (
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan"),
    *("asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    *("erf", "erfc", "erfinv", "lgamma"),
)
# f: float (f32, f64), i: integer, b: bool. Half types are widened before they are computed with.
VOCABULARY: dict[str, Word] = {
    "const": Word(0, "arg"),  # arg: Python number
    "index": Word(0, "arg"),  # arg: Index; its value as i64
    "load": Word(-1, "arg"),  # arg: Load; args: () or (mask,). 0 where the mask is false
    "reduce": Word(1, "arg", "fib"),  # arg: a key of REDUCTIONS; over all the nest's reduction axes
    "scan": Word(1, "same", "fib"),  # arg: a key of SCANS; along the nest's one reduction axis
    "cast": Word(1, "arg", "fib"),  # C semantics; float to int truncates; anything to bool is != 0
    "bitcast": Word(1, "arg", "fi"),
    "add": Word(2),  # integers wrap
    "sub": Word(2),
    "mul": Word(2),
    "div": Word(2, takes="f"),  # IEEE division
    "idiv": Word(2, takes="i"),  # rounds toward zero; the divisor is never 0
    "imod": Word(2, takes="i"),  # sign of the dividend, C's %
    "fmod": Word(2, takes="f"),  # sign of the dividend, C's fmod
    "neg": Word(1),
    "abs": Word(1),
    "minimum": Word(2),  # NaN wins
    "maximum": Word(2),
    "fmin": Word(2, takes="f"),  # NaN loses
    "fmax": Word(2, takes="f"),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), Word(2, "bool", "fib")),
    **dict.fromkeys(("and", "or", "xor"), Word(2, takes="ib")),
    "not": Word(1, takes="ib"),
    "shl": Word(2, takes="i"),
    "shr": Word(2, takes="i"),  # arithmetic for signed, logical for unsigned
    "where": Word(3, takes="fib"),  # args: bool, then two of one dtype
    **dict.fromkeys(FUNCTIONS, Word(1, takes="f")),
    **dict.fromkeys(("sqrt", "rsqrt", "floor", "ceil", "trunc"), Word(1, takes="f")),
    "round": Word(1, takes="f"),  # half to even
    **dict.fromkeys(("pow", "atan2", "hypot", "copysign", "nextafter"), Word(2, takes="f")),
    "isnan": Word(1, "bool", "f"),
    "signbit": Word(1, "bool", "f"),
    "philox": Word(2, "arg", "i"),  # of i64: word `place` of the stream under `key`, bits as i32
}

# Name of a reduction: the word that combines two partial results (None: an index-carrying pair).
REDUCTIONS: dict[str, str | None] = {
    "sum": "add",
    "prod": "mul",
    "min": "minimum",
    "max": "maximum",
    "any": "or",
    "all": "and",
    "xor": "xor",
    # i64 position of the first extreme in the row-major reduction space; NaN counts as extreme
    "argmin": None,
    "argmax": None,
}
SCANS: dict[str, str] = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}


class NoRule(NotImplementedError):
    """A generator has no rule for a word of the vocabulary on this dtype."""

    def __init__(self, generator: str, word: str, dtype: str) -> None:
        super().__init__(f"the {generator} generator has no rule for {word!r} on {dtype}")


@dataclass(frozen=True)
class Load:
    """The argument of a load: a buffer of the nest by name and the element position in it."""

    buffer: str
    index: Index

    def __str__(self) -> str:
        return f"{self.buffer}[{self.index}]"


def _operator(word: str) -> Callable[[Scalar, Scalar | Number], Scalar]:
    """`self word other` as a method of Scalar."""
    return lambda self, other: binary(word, self, other)


def _operators(
    word: str,
) -> tuple[Callable[[Scalar, Scalar | Number], Scalar], Callable[[Scalar, Number], Scalar]]:
    """The method, and the one that is asked when a number stands first."""
    return _operator(word), lambda self, other: binary(word, other, self)


class Scalar:
    """One expression: op, dtype (short name), operands, argument. Make them with `make`; never
    mutate.
    """

    __slots__ = ("_axes", "_deps", "arg", "args", "dtype", "key", "op")
    op: str
    dtype: str
    args: tuple[Scalar, ...]
    arg: Any
    key: int
    _axes: frozenset[Axis] | None
    _deps: tuple[Scalar, ...] | None

    def __repr__(self) -> str:
        inside = ", ".join(
            [*map(repr, self.args), *([str(self.arg)] if self.arg is not None else [])]
        )
        return f"{self.op}.{self.dtype}({inside})"

    def deps(self) -> tuple[Scalar, ...]:
        """Operands and the scalars that its index needs."""
        if self._deps is None:
            extra: list[Scalar] = []
            if isinstance(self.arg, Load):
                extra = self.arg.index.indirects()
            elif isinstance(self.arg, Index):
                extra = self.arg.indirects()
            self._deps = (*self.args, *extra)
        return self._deps

    def axes(self) -> frozenset[Axis]:
        """Axes that the value varies over. A reduction binds its axes, a scan does not."""
        if self._axes is None:
            found: set[Axis] = set()
            for dep in self.deps():
                found |= dep.axes()
            if isinstance(self.arg, Load):
                found |= self.arg.index.axes()
            elif isinstance(self.arg, Index):
                found |= self.arg.axes()
            if self.op == "reduce":
                found = {a for a in found if not a.reduce}
            self._axes = frozenset(found)
        return self._axes

    # Operators, for rows of the op table. Numbers become constants of the other's dtype.
    __add__, __radd__ = _operators("add")
    __sub__, __rsub__ = _operators("sub")
    __mul__, __rmul__ = _operators("mul")
    __truediv__, __rtruediv__ = _operators("div")
    __lt__, __gt__ = _operator("lt"), _operator("gt")
    __le__, __ge__ = _operator("le"), _operator("ge")
    __and__, __or__, __xor__ = _operator("and"), _operator("or"), _operator("xor")
    eq, ne = _operator("eq"), _operator("ne")  # as values; `==` stays Python identity

    def __neg__(self) -> Scalar:
        return make("neg", self)

    def __abs__(self) -> Scalar:
        return make("abs", self)

    def __invert__(self) -> Scalar:
        return make("not", self)


_TABLE: dict[tuple[Any, ...], Scalar] = {}
_KEYS = itertools.count()  # never reused, also after clear()


def clear() -> None:
    """Forget every expression. Called between compilations, when nothing holds one."""
    _TABLE.clear()


def _number_key(value: Any) -> Any:
    """Tell -0.0 from 0.0 and 1 from True and 1.0, and make NaN equal to itself."""
    if isinstance(value, float):
        return ("f", value.hex() if math.isfinite(value) else str(value))
    return (type(value), value)


def make(op: str, *args: Scalar, arg: Any = None, dtype: str | None = None) -> Scalar:
    """The expression `op(args)`. dtype is needed where the vocabulary says "arg", and derived
    elsewhere.

    Raises KeyError for an op outside the vocabulary and TypeError for operands that do not agree.
    """
    word = VOCABULARY[op]
    if dtype is None:
        if word.result == "arg":
            raise TypeError(f"{op} needs an explicit dtype")
        dtype = "bool" if word.result == "bool" else args[-1].dtype if args else ""
    if word.arity >= 0 and len(args) != word.arity:
        raise TypeError(f"{op} takes {word.arity} operands, not {len(args)}")
    operands = args[1:] if op == "where" else args
    if len(operands) > 1 and op != "load" and any(a.dtype != operands[0].dtype for a in operands):
        raise TypeError(f"{op} of different dtypes: {', '.join(a.dtype for a in operands)}")
    folded = _FOLD[op](op, *args) if op in _FOLD else None
    if folded is not None:
        return folded
    key = (op, dtype, tuple(a.key for a in args), _number_key(arg) if op == "const" else arg)
    found = _TABLE.get(key)
    if found is None:
        found = Scalar.__new__(Scalar)
        found.op, found.dtype, found.args, found.arg = op, dtype, args, arg
        found._axes = found._deps = None
        found.key = next(_KEYS)
        found = _TABLE.setdefault(key, found)
    return found


def _compare(op: str, left: Scalar, right: Scalar) -> Scalar | None:
    """A comparison of two constants is decided now."""
    if left.op != "const" or right.op != "const":
        return None
    return const(_COMPARE[op](_rounded(left), _rounded(right)), "bool")


def _logic(op: str, left: Scalar, right: Scalar) -> Scalar | None:
    """`and`, `or` and `xor` of bools with a constant."""
    if left.dtype != "bool" or "const" not in (left.op, right.op):
        return None
    known, other = (left, right) if left.op == "const" else (right, left)
    if op == "xor":
        return make("not", other) if known.arg else other
    absorbs = bool(known.arg) == (op == "or")
    return known if absorbs else other


def _rounded(scalar: Scalar) -> Number:
    """The constant's value in its own dtype."""
    value: Number = scalar.arg
    if scalar.dtype == "f32" and math.isfinite(value) and abs(value) < 3.4e38:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    return value


def _chosen(op: str, condition: Scalar, yes: Scalar, no: Scalar) -> Scalar | None:
    """`where` of a constant condition."""
    if condition.op != "const":
        return None
    return yes if condition.arg else no


def _negated(op: str, value: Scalar) -> Scalar | None:
    """`not` of a constant bool."""
    known = value.op == "const" and value.dtype == "bool"
    return const(not value.arg, "bool") if known else None


_COMPARE: dict[str, Callable[[Number, Number], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_FOLD: dict[str, Callable[..., Scalar | None]] = {
    **dict.fromkeys(_COMPARE, _compare),
    **dict.fromkeys(("and", "or", "xor"), _logic),
    "not": _negated,
    "where": _chosen,
}


def const(value: Number, dtype: str) -> Scalar:
    """A constant, converted to the kind of `dtype` (float, int or bool)."""
    if dtype == "bool":
        return make("const", arg=bool(value), dtype=dtype)
    return make("const", arg=float(value) if dtype in FLOATS else int(value), dtype=dtype)


def cast(value: Scalar, dtype: str) -> Scalar:
    """`value` converted to `dtype`; constants are converted now where that is exact."""
    if value.dtype == dtype:
        return value
    if (
        value.op == "const"
        and dtype in ("f32", "f64", "bool", "i64")
        and value.dtype in INTS | {"bool"}
    ):
        return (
            const(value.arg, dtype)
            if abs(value.arg) < 1 << 24
            else make("cast", value, dtype=dtype)
        )
    return make("cast", value, dtype=dtype)


def binary(op: str, left: Scalar | Number, right: Scalar | Number) -> Scalar:
    """A two-operand expression where one may be a Python number."""
    if not isinstance(left, Scalar):
        assert isinstance(right, Scalar)
        left = const(left, right.dtype)
    if not isinstance(right, Scalar):
        right = const(right, left.dtype)
    return make(op, left, right)


def index_value(index: Index) -> Scalar:
    """The value of an index expression as an i64."""
    if index.is_const:
        return const(index.const, "i64")
    return make("index", arg=index, dtype="i64")


def where(condition: Scalar, yes: Scalar | Number, no: Scalar | Number) -> Scalar:
    """`yes` where the condition holds, else `no`; constant conditions are decided now."""
    if not isinstance(yes, Scalar):
        assert isinstance(no, Scalar)
        yes = const(yes, no.dtype)
    if not isinstance(no, Scalar):
        no = const(no, yes.dtype)
    return yes if yes is no else make("where", condition, yes, no)


def in_order(roots: tuple[Scalar, ...]) -> Iterator[Scalar]:
    """Every expression that the roots need, operands first, each once."""
    seen: set[int] = set()
    stack: list[tuple[Scalar, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if node.key in seen:
            continue
        if ready:
            seen.add(node.key)
            yield node
        else:
            stack.append((node, True))
            stack.extend((d, False) for d in reversed(node.deps()) if d.key not in seen)


_LIMITS = {
    "i8": (-128, 127),
    "u8": (0, 255),
    "i16": (-(1 << 15), (1 << 15) - 1),
    "i32": (-(1 << 31), (1 << 31) - 1),
}
_ALL = (-(1 << 63), (1 << 63) - 1)


def value_range(scalar: Scalar) -> tuple[int, int]:
    """Bounds of an integer expression, inclusive; the dtype's whole range when nothing is known."""
    whole = _LIMITS.get(scalar.dtype, _ALL)
    if scalar.op == "const":
        return int(scalar.arg), int(scalar.arg)
    if scalar.op == "index":
        low, high = scalar.arg.bounds()
    elif scalar.op == "cast" and scalar.args[0].dtype in INTS:
        low, high = value_range(scalar.args[0])
    elif scalar.op == "where":
        (a, b), (c, d) = value_range(scalar.args[1]), value_range(scalar.args[2])
        low, high = min(a, c), max(b, d)
    elif scalar.op in ("add", "sub", "minimum", "maximum") and scalar.dtype in INTS:
        (a, b), (c, d) = value_range(scalar.args[0]), value_range(scalar.args[1])
        low, high = {
            "add": (a + c, b + d),
            "sub": (a - d, b - c),
            "minimum": (min(a, c), min(b, d)),
            "maximum": (max(a, c), max(b, d)),
        }[scalar.op]
    else:
        return whole
    return (low, high) if whole[0] <= low and high <= whole[1] else whole
