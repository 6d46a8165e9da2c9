"""Addresses and loops with strides and sizes that are known when the code is written: what is known
is not computed by it."""

from __future__ import annotations

from collections.abc import Iterator

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.types import F32, I64, Type, Value, const


def at(b: Builder, base: Value, index: int | Value, element: Type = F32) -> Value:
    """The address of an element."""
    return base if index == 0 else b.gep(base, element, index)


def times(b: Builder, a: Value, factor: int) -> Value:
    """An integer times a constant."""
    return a if factor == 1 else b.mul(a, factor)


def over(b: Builder, a: Value, by: int) -> Value:
    """An integer that is not negative, divided by a constant."""
    return a if by == 1 else b.binary("udiv", a, by)


def plus(b: Builder, *terms: tuple[Value | int, int]) -> Value:
    """The sum of integers times constants."""
    total: Value | None = None
    known = 0
    for value, factor in terms:
        if isinstance(value, int):
            known += value * factor
        elif factor:
            part = times(b, value, factor)
            total = part if total is None else b.add(total, part)
    if total is None:
        return const(I64, known)
    return b.add(total, known) if known else total


def parts(
    b: Builder, size: int | Value, unit: int, name: str, rest: int | None = 0
) -> Iterator[tuple[Value, int]]:
    """For `unit` at a time, then for what is left: the first one, and how many. `rest`: how many
    are left, if some are, of a size that is no constant; None: one by one, however many."""
    whole = const(I64, size - size % unit) if isinstance(size, int) else floor(b, size, unit)
    if not isinstance(size, int) or size >= unit:
        with b.loop(0, whole, unit, name) as first:
            yield first, unit
    if isinstance(size, int):
        if size % unit:
            yield whole, size % unit
    elif rest is None:
        with b.loop(whole, size, 1, name) as first:
            yield first, 1
    elif rest:
        with b.when(b.icmp("slt", whole, size), "rest"):
            yield whole, rest


def floor(b: Builder, size: Value, unit: int) -> Value:
    """Rounded down to a multiple."""
    if unit & (unit - 1):
        return b.sub(size, b.binary("urem", size, unit))
    return b.binary("and", size, -unit)
