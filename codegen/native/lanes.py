"""Vectors lane by lane: constants, masks, squares transposed, lanes combined."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.types import Type, Value, const


def lanes_const(type: Type, numbers: Sequence[bool | int | float]) -> Value:
    """A vector constant, lane by lane."""
    inside = ", ".join(str(const(type.scalar, n)) for n in numbers)
    return Value(f"<{inside}>", type)


def first_lanes(lanes: int, count: int) -> Value:
    """True in the first `count` lanes."""
    return lanes_const(Type("i1", lanes), [k < count for k in range(lanes)])


def some_lanes(lanes: int, count: int) -> Value | None:
    """The mask of the first `count` lanes; None for all."""
    return first_lanes(lanes, count) if count < lanes else None


def lanes_before(b: Builder, lanes: int, size: int, first: Value) -> Value:
    """The lanes, from place `first` on, that come before `size`."""
    return b.icmp("slt", iota(Type("i64", lanes)), b.splat(b.sub(size, first), lanes))


def iota(type: Type, step: int = 1) -> Value:
    """<0, step, 2·step, …>; 0 for a scalar."""
    if not type.lanes:
        return const(type, 0)
    return lanes_const(type, [step * k for k in range(type.lanes)])


def transposed(b: Builder, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square of as many vectors as they have lanes. Squares that fit into 128 bits
    are turned by interleaving, one instruction for each row and halving (Stone, "Parallel
    Processing with the Perfect Shuffle", 1971); then blocks off the diagonal change places in log2
    steps (Eklundh, "A Fast Computer Method for Matrix Transposing", 1972)."""
    size = len(rows)
    step = min(size, 128 // rows[0].type.bits)
    half, lanes = step // 2, range(0, size, step)
    interleaved = [
        [
            at + k
            for lane in lanes
            for at in range(lane + part, lane + part + half)
            for k in (0, size)
        ]
        for part in (0, half)
    ]
    found = []
    for first in lanes:
        square = list(rows[first : first + step])
        for _ in range(step.bit_length() - 1):
            pairs = list(zip(square[:half], square[half:], strict=True))
            square = [b.shuffle(x, y, mask) for x, y in pairs for mask in interleaved]
        found += square
    while step < size:
        for i in range(size):
            if not i & step:
                found[i], found[i + step] = _exchanged(b, found[i], found[i + step], step)
        step *= 2
    return found


def added_up(b: Builder, vectors: Sequence[Value]) -> Value:
    """A vector whose lane l is the sum of all lanes of vectors[l]; as many vectors as lanes or
    fewer, a power of two (lanes then repeat)."""
    found, step = list(vectors), 1
    while len(found) > 1:
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [b.fadd(*_exchanged(b, x, y, step)) for x, y in pairs]
        step *= 2
    return across(b, b.fadd, found[0], step)


def across(
    b: Builder, combine: Callable[[Value, Value], Value], value: Value, step: int = 1
) -> Value:
    """Lanes that are a multiple of `step` apart combined, in each lane."""
    lanes = value.type.lanes
    while step < lanes:
        value = combine(value, b.shuffle(value, None, [k ^ step for k in range(lanes)]))
        step *= 2
    return value


def _exchanged(b: Builder, x: Value, y: Value, step: int) -> tuple[Value, Value]:
    """Of every two groups of `step` lanes the first ones of both vectors, and the last ones."""
    size = x.type.lanes
    low = [k if not k & step else k - step + size for k in range(size)]
    high = [k + step if not k & step else k + size for k in range(size)]
    return b.shuffle(x, y, low), b.shuffle(x, y, high)
