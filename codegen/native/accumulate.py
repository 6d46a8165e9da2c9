"""Reductions and scans on vectors: running totals in registers, folded in a fixed order.

A long sum of floats is cut into blocks whose totals are added up (a cascade of two levels), so that
its error grows with the square root of its length at most, as that of eager's cascade sum does
(N. Higham, "The accuracy of floating point summation", 1993). Where there are many blocks, those of
f32 are added up in f64: their number is no longer seen in the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tracejit.codegen.native import words
from tracejit.codegen.native.builder import I1, I32, I64, Builder, Slot, Type, Value, const
from tracejit.codegen.native.values import Evaluator
from tracejit.fuse.index import Index, reach
from tracejit.fuse.reductions import identity, reduced_as
from tracejit.fuse.scalar import REDUCTIONS, SCANS, Scalar
from tracejit.ir.dtypes import FLOATS

INSIDE = {32: (1 << 31) - 1, 64: (1 << 63) - 1}  # positions after all others


class Accumulator(Protocol):
    """What a reduction has seen so far, one part for each lane."""

    def add(self, at: Evaluator) -> None:
        """Take in the element at this place."""
        ...

    def fold(self) -> None:
        """A block is done."""
        ...

    def merge(self, other: Accumulator) -> None:
        """Take in what another of half as many lanes, or as many, has seen after this one."""
        ...

    def parts(self) -> list[Value]:
        """What it holds: one value, or value and position."""
        ...

    def take(self, parts: list[Value]) -> None:
        """Take in what `parts` of another gave."""
        ...

    def across(self) -> list[Value]:
        """The parts of all lanes combined: scalars."""
        ...


def accumulator(b: Builder, scalar: Scalar, lanes: int, column: Index, wide: bool) -> Accumulator:
    """A fresh one for a `reduce` expression. `column`: position among the elements of a row.
    `wide`: sums of f32 are put together in f64."""
    if REDUCTIONS[scalar.arg] is None:
        return First(b, scalar, lanes, column)
    return Total(b, scalar, lanes, wide)


def part_types(scalar: Scalar, wide: bool) -> list[Type]:
    """The types of an accumulator's parts, lane by lane."""
    kinds = [Type(words.memory_kind(_part_dtype(scalar, wide)))]
    return [*kinds, I64] if REDUCTIONS[scalar.arg] is None else kinds


def _part_dtype(scalar: Scalar, wide: bool) -> str:
    dtype = reduced_as(scalar.arg, scalar.args[0].dtype)
    return "f64" if wide and (scalar.arg, dtype) == ("sum", "f32") else dtype


def finished(b: Builder, scalar: Scalar, parts: list[Value], wide: bool) -> Value:
    """The reduction's value from its parts."""
    if REDUCTIONS[scalar.arg] is None:
        return parts[1]
    return words.cast(b, parts[0], _part_dtype(scalar, wide), scalar.dtype)


def _element(b: Builder, scalar: Scalar, dtype: str, at: Evaluator, lanes: int) -> Value:
    """What is combined, in the dtype for that; the identity in lanes that are not there."""
    value = words.cast(b, at.value(scalar.args[0]), scalar.args[0].dtype, dtype)
    wide = b.splat(value, lanes)
    if at.mask is None:
        return wide
    unit = b.splat(words.number(dtype, identity(scalar.arg, dtype)), lanes)
    return b.select(at.mask, wide, unit)


@dataclass
class Total:
    """A reduction whose result is a combined element."""

    b: Builder
    scalar: Scalar
    lanes: int
    wide: bool

    def __post_init__(self) -> None:
        self.dtype = reduced_as(self.scalar.arg, self.scalar.args[0].dtype)
        self.whole = _part_dtype(self.scalar, self.wide)
        self.word = REDUCTIONS[self.scalar.arg] or ""
        unit = words.number(self.dtype, identity(self.scalar.arg, self.dtype))
        self.unit = self.b.splat(unit, self.lanes)
        self.partial = self.b.slot(self.unit, f"partial_{self.scalar.arg}")
        self.total: Slot | None = None
        if self.scalar.arg == "sum" and self.dtype in FLOATS:
            zero = self.b.splat(words.number(self.whole, 0.0), self.lanes)
            self.total = self.b.slot(zero, "total")

    def combine(self, left: Value, right: Value) -> Value:
        """Two parts as one."""
        return words.apply(self.b, self.word, self.whole, left, right)

    def add(self, at: Evaluator) -> None:
        element = _element(self.b, self.scalar, self.dtype, at, self.lanes)
        partial = self.partial.get()
        self.partial.set(words.apply(self.b, self.word, self.dtype, partial, element))

    def fold(self) -> None:
        if self.total is not None:
            partial = words.cast(self.b, self.partial.get(), self.dtype, self.whole)
            self.total.set(self.combine(self.total.get(), partial))
            self.partial.set(self.unit)

    def parts(self) -> list[Value]:
        self.fold()
        return [(self.total or self.partial).get()]

    def take(self, parts: list[Value]) -> None:
        into = self.total or self.partial
        into.set(self.combine(into.get(), parts[0]))

    def merge(self, other: Accumulator) -> None:
        assert isinstance(other, Total)
        (part,) = self.parts()
        while part.type.lanes > other.lanes:
            part = self.combine(*halves(self.b, part))
        other.take([part])

    def across(self) -> list[Value]:
        (part,) = self.parts()
        while part.type.lanes > 1:
            part = self.combine(*halves(self.b, part))
        return [self.b.extract(part, 0) if part.type.lanes else part]


def halves(b: Builder, value: Value) -> tuple[Value, Value]:
    """The lower and the upper half of a vector's lanes."""
    half = value.type.lanes // 2
    lower, upper = list(range(half)), list(range(half, 2 * half))
    return b.shuffle(value, None, lower), b.shuffle(value, None, upper)


@dataclass
class First:
    """argmax and argmin: the first extreme and its position; NaN counts as extreme. Positions are
    as wide as elements where they fit, and 64 bits outside of this accumulator."""

    b: Builder
    scalar: Scalar
    lanes: int
    column: Index

    def __post_init__(self) -> None:
        self.dtype = reduced_as(self.scalar.arg, self.scalar.args[0].dtype)
        unit = words.number(self.dtype, identity(self.scalar.arg, self.dtype))
        self.best = self.b.slot(self.b.splat(unit, self.lanes), "best")
        fits = self.best.type.bits <= 32 and reach(self.column) < INSIDE[32]
        self.position = I32 if fits else I64
        self.inside = self.b.splat(const(self.position, INSIDE[self.position.bits]), self.lanes)
        self.where = self.b.slot(self.inside, "where")

    def better(self, value: Value, where: Value, best: Value, place: Value) -> Value:
        """Whether (value, where) goes before (best, place)."""
        b = self.b
        word = "gt" if self.scalar.arg == "argmax" else "lt"
        beats = words.apply(b, word, self.dtype, value, best)
        ties = words.apply(b, "eq", self.dtype, value, best)
        if self.dtype in FLOATS:
            new, old = b.fcmp("uno", value, value), b.fcmp("uno", best, best)
            beats = b.binary("or", beats, b.binary("and", new, _not(b, old)))
            ties = b.binary("or", ties, b.binary("and", new, old))
        earlier = b.icmp("slt", where, place)
        return b.binary("or", beats, b.binary("and", ties, earlier))

    def take(self, parts: list[Value]) -> None:
        value, where = parts
        if self.position != I64:
            where = self.b.cast("trunc", where, self.where.type)
        self._take(value, where)

    def _take(self, value: Value, where: Value) -> None:
        best, place = self.best.get(), self.where.get()
        first = self.better(value, where, best, place)
        self.best.set(self.b.select(first, value, best))
        self.where.set(self.b.select(first, where, place))

    def add(self, at: Evaluator) -> None:
        b = self.b
        element = at.value(self.scalar.args[0])
        value = words.cast(b, element, self.scalar.args[0].dtype, self.dtype)
        where = b.splat(at.integer(self.column, self.position), self.lanes)
        if at.mask is not None:
            where = b.select(at.mask, where, self.inside)
        value = _element(b, self.scalar, self.dtype, at, self.lanes) if at.mask else value
        self._take(b.splat(value, self.lanes), where)

    def fold(self) -> None:
        """Positions tell which was first, in whatever order they are combined."""

    def parts(self) -> list[Value]:
        where = self.where.get()
        wide = where if self.position == I64 else self.b.cast("sext", where, where.type.of("i64"))
        return [self.best.get(), wide]

    def pick(self, left: list[Value], right: list[Value]) -> list[Value]:
        first = self.better(*right, *left)
        return [self.b.select(first, r, p) for p, r in zip(left, right, strict=True)]

    def merge(self, other: Accumulator) -> None:
        assert isinstance(other, First)
        parts = self.parts()
        while parts[0].type.lanes > other.lanes:
            parts = self._halved(parts)
        other.take(parts)

    def _halved(self, parts: list[Value]) -> list[Value]:
        pairs = [halves(self.b, p) for p in parts]
        return self.pick([p[0] for p in pairs], [p[1] for p in pairs])

    def across(self) -> list[Value]:
        parts = self.parts()
        while parts[0].type.lanes > 1:
            parts = self._halved(parts)
        return [self.b.extract(p, 0) if p.type.lanes else p for p in parts]


def _not(b: Builder, x: Value) -> Value:
    return b.binary("xor", x, const(x.type, 1))


class Scanner:
    """A scan along the columns. `across`: the lanes are neighbouring columns; else each lane is a
    row of its own."""

    def __init__(self, b: Builder, scalar: Scalar, lanes: int, across: bool) -> None:
        self.b, self.scalar, self.lanes, self.across = b, scalar, lanes, across
        self.dtype = reduced_as(scalar.arg, scalar.args[0].dtype)
        self.word = SCANS[scalar.arg]
        self.unit = words.number(self.dtype, identity(scalar.arg, self.dtype))
        self.carry = b.slot(self.unit if across else b.splat(self.unit, lanes), "carry")

    def combine(self, left: Value, right: Value) -> Value:
        return words.apply(self.b, self.word, self.dtype, left, right)

    def step(self, element: Value, mask: Value | None) -> Value:
        """The running result at this place, from the element there."""
        b, kind = self.b, self.scalar.args[0].dtype
        value = b.splat(words.cast(b, element, kind, self.dtype), self.lanes)
        if not self.across or not self.lanes:
            result = self.combine(self.carry.get(), value)
            self.carry.set(result)
            return words.cast(b, result, self.dtype, self.scalar.dtype)
        unit = b.splat(self.unit, self.lanes)
        if mask is not None:
            value = b.select(mask, value, unit)
        shift = 1
        while shift < self.lanes:  # Hillis and Steele's prefix sum, 1986
            before = b.shuffle(unit, value, _shifted(self.lanes, shift))
            value = self.combine(before, value)
            shift *= 2
        result = self.combine(b.splat(self.carry.get(), self.lanes), value)
        self.carry.set(b.extract(result, self.lanes - 1))
        return words.cast(b, result, self.dtype, self.scalar.dtype)


def _shifted(lanes: int, by: int) -> list[int]:
    """A shuffle that moves lanes up; the lowest come from the first operand."""
    return [k if k < by else lanes + k - by for k in range(lanes)]


__all__ = ["I1", "Accumulator", "Scanner", "accumulator", "finished", "part_types"]
