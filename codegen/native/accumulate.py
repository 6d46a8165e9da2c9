"""Reductions and scans on vectors: running totals in registers, folded in a fixed order.

A long sum of floats is cut into blocks whose totals are added up (a cascade of two levels), so that
its error grows with the square root of its length at most, as that of eager's cascade sum does
(N. Higham, "The accuracy of floating point summation", 1993). Where there are many blocks, those of
f32 are added up in f64: their number is no longer seen in the error.
"""

from __future__ import annotations

from tracejit.codegen.native import words
from tracejit.codegen.native.builder import Builder, Slot
from tracejit.codegen.native.types import I32, I64, Type, Value, const
from tracejit.codegen.native.values import Evaluator
from tracejit.fuse.index import Index, reach
from tracejit.fuse.reductions import identity, reduced_as
from tracejit.fuse.scalar import REDUCTIONS, SCANS, Scalar
from tracejit.ir.dtypes import FLOATS

INSIDE = {32: (1 << 31) - 1, 64: (1 << 63) - 1}  # positions after all others


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


class Accumulator:
    """What a reduction has seen so far, one part for each lane: `parts` are one value, or a value
    and its position. `total`: of blocks that are done, if it goes by blocks."""

    total: Slot | None = None

    def __init__(self, b: Builder, scalar: Scalar, lanes: int, name: str) -> None:
        self.b, self.scalar, self.lanes = b, scalar, lanes
        self.dtype = reduced_as(scalar.arg, scalar.args[0].dtype)
        self.unit = b.splat(words.number(self.dtype, identity(scalar.arg, self.dtype)), lanes)
        self.partial = b.slot(self.unit, name)

    def add(self, at: Evaluator) -> None:
        """Take in the element at this place."""
        raise NotImplementedError

    def fold(self) -> None:
        """A block is done."""

    def parts(self) -> list[Value]:
        """What it holds."""
        raise NotImplementedError

    def take(self, parts: list[Value]) -> None:
        """Take in what `parts` of another gave."""
        raise NotImplementedError

    def combine(self, left: list[Value], right: list[Value]) -> list[Value]:
        """The parts of two as those of one."""
        raise NotImplementedError

    def merge(self, other: Accumulator) -> None:
        """Take in what another of half as many lanes, or as many, has seen after this one."""
        other.take(self._narrowed(other.lanes))

    def across(self) -> list[Value]:
        """The parts of all lanes combined: scalars."""
        return [self.b.extract(p, 0) if p.type.lanes else p for p in self._narrowed(1)]

    def _narrowed(self, lanes: int) -> list[Value]:
        """The parts in that many lanes, or fewer: halves combined, again and again."""
        parts = self.parts()
        while parts[0].type.lanes > lanes:
            pairs = [halves(self.b, p) for p in parts]
            parts = self.combine([low for low, _ in pairs], [high for _, high in pairs])
        return parts


class Total(Accumulator):
    """A reduction whose result is a combined element."""

    def __init__(self, b: Builder, scalar: Scalar, lanes: int, wide: bool) -> None:
        super().__init__(b, scalar, lanes, f"partial_{scalar.arg}")
        self.whole = _part_dtype(scalar, wide)
        self.word = REDUCTIONS[scalar.arg] or ""
        if scalar.arg == "sum" and self.dtype in FLOATS:
            self.total = b.slot(b.splat(words.number(self.whole, 0.0), lanes), "total")

    def combine(self, left: list[Value], right: list[Value]) -> list[Value]:
        return [words.apply(self.b, self.word, self.whole, left[0], right[0])]

    def add(self, at: Evaluator) -> None:
        element = _element(self.b, self.scalar, self.dtype, at, self.lanes)
        partial = self.partial.get()
        self.partial.set(words.apply(self.b, self.word, self.dtype, partial, element))

    def fold(self) -> None:
        if self.total is not None:
            self.take([words.cast(self.b, self.partial.get(), self.dtype, self.whole)])
            self.partial.set(self.unit)

    def parts(self) -> list[Value]:
        self.fold()
        return [(self.total or self.partial).get()]

    def take(self, parts: list[Value]) -> None:
        into = self.total or self.partial
        into.set(*self.combine([into.get()], parts))


def halves(b: Builder, value: Value) -> tuple[Value, Value]:
    """The lower and the upper half of a vector's lanes."""
    half = value.type.lanes // 2
    return b.shuffle(value, None, range(half)), b.shuffle(value, None, range(half, 2 * half))


class First(Accumulator):
    """argmax and argmin: the first extreme and its position; NaN counts as extreme. Positions are
    as wide as elements where they fit, and 64 bits outside of this accumulator. They tell which was
    first, in whatever order parts are combined."""

    def __init__(self, b: Builder, scalar: Scalar, lanes: int, column: Index) -> None:
        super().__init__(b, scalar, lanes, "best")
        self.column = column
        fits = self.partial.type.bits <= 32 and reach(column) < INSIDE[32]
        self.position = I32 if fits else I64
        self.inside = b.splat(const(self.position, INSIDE[self.position.bits]), lanes)
        self.where = b.slot(self.inside, "where")

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

    def combine(self, left: list[Value], right: list[Value]) -> list[Value]:
        first = self.better(*right, *left)
        return [self.b.select(first, r, p) for p, r in zip(left, right, strict=True)]

    def take(self, parts: list[Value]) -> None:
        value, where = parts
        if self.position != I64:
            where = self.b.cast("trunc", where, self.where.type)
        self._take(value, where)

    def _take(self, value: Value, where: Value) -> None:
        best, place = self.partial.get(), self.where.get()
        first = self.better(value, where, best, place)
        self.partial.set(self.b.select(first, value, best))
        self.where.set(self.b.select(first, where, place))

    def add(self, at: Evaluator) -> None:
        b = self.b
        element = at.value(self.scalar.args[0])
        value = words.cast(b, element, self.scalar.args[0].dtype, self.dtype)
        where = b.splat(at.integer(self.column, self.position), self.lanes)
        if at.mask is not None:
            where = b.select(at.mask, where, self.inside)
            value = _element(b, self.scalar, self.dtype, at, self.lanes)
        self._take(b.splat(value, self.lanes), where)

    def parts(self) -> list[Value]:
        where = self.where.get()
        wide = where if self.position == I64 else self.b.cast("sext", where, where.type.of("i64"))
        return [self.partial.get(), wide]


def _not(b: Builder, x: Value) -> Value:
    return b.binary("xor", x, 1)


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
