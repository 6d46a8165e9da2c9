"""LLVM's types and operands as text: `Type`, `Value`, and constants, spelled exactly."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

BITS = {
    "half": 16,
    "bfloat": 16,
    "float": 32,
    "double": 64,
    "ptr": 64,
    "i1": 1,
    "i8": 8,
    "i16": 16,
    "i32": 32,
    "i64": 64,
}
_SHORT = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}
FLOAT_KINDS = frozenset({"half", "bfloat", "float", "double"})


@dataclass(frozen=True)
class Type:
    """A first-class LLVM type: `kind` is a key of BITS; lanes 0 means a scalar, not a vector."""

    kind: str
    lanes: int = 0

    def __str__(self) -> str:
        return f"<{self.lanes} x {self.kind}>" if self.lanes else self.kind

    @property
    def suffix(self) -> str:
        """How names of overloaded functions spell it: v16f32, i64, p0."""
        short = _SHORT.get(self.kind, self.kind)
        return f"v{self.lanes}{short}" if self.lanes else short

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return BITS[self.kind]

    @property
    def is_float(self) -> bool:
        return self.kind in FLOAT_KINDS

    def of(self, kind: str) -> Type:
        """Another element kind, as many lanes."""
        return Type(kind, self.lanes)

    @property
    def scalar(self) -> Type:
        """The type of one lane."""
        return Type(self.kind)

    @property
    def integer(self) -> Type:
        """The integer type as wide as this float type, as many lanes."""
        return Type(f"i{self.bits}", self.lanes)


I1, I8, I16, I32, I64 = (Type(f"i{bits}") for bits in (1, 8, 16, 32, 64))
F32, F64, PTR = Type("float"), Type("double"), Type("ptr")


@dataclass(frozen=True)
class Value:
    """An operand: its text (`%x.3` or a constant) and its type."""

    text: str
    type: Type

    def __str__(self) -> str:
        """As an argument: type and text."""
        return f"{self.type} {self.text}"


def const(type: Type, number: bool | int | float) -> Value:
    """A constant, in all lanes of a vector type. Floats are spelled exactly."""
    if type.is_float:
        scalar = float_text(type.kind, float(number))
    else:
        bits = BITS[type.kind]
        whole = int(number) & ((1 << bits) - 1)
        scalar = str(whole - (1 << bits) if bits > 1 and whole >> (bits - 1) else whole)
    return Value(f"splat ({type.kind} {scalar})" if type.lanes else scalar, type)


def float_text(kind: str, number: float) -> str:
    """LLVM's exact hexadecimal spelling of a number in a float kind, rounded to nearest even; what
    is too large is infinite."""
    if kind == "half":
        bits = struct.unpack("<H", struct.pack("<e", _fitting(number, 65520.0)))[0]
        return f"0xH{bits:04X}"
    if kind in ("float", "bfloat"):
        number = _fitting(number, 2.0**128 - 2.0**103)
        bits = struct.unpack("<I", struct.pack("<f", number))[0]
        if kind == "bfloat":  # a NaN's bits must not be carried into an infinity's
            odd = bits >> 16 & 1
            upper = bits >> 16 if number != number else (bits + 0x7FFF + odd) >> 16
            return f"0xR{upper:04X}"
        number = struct.unpack("<f", struct.pack("<f", number))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"


def _fitting(number: float, limit: float) -> float:
    """The number; infinity from the first one on that is rounded to it."""
    return math.copysign(math.inf, number) if abs(number) >= limit else number


def named(type: Type, names: str) -> list[Value]:
    """A function's parameters of one type, by their names."""
    return [Value(f"%{name}", type) for name in names.split()]
