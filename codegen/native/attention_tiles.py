"""Pieces of attention kernels that know nothing of attention: register tiles with strides known
beforehand, transposition in registers, rows of any dtype as f32, functions of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracejit.codegen.native import words
from tracejit.codegen.native.builder import (
    F32,
    I32,
    I64,
    PTR,
    Builder,
    Type,
    Value,
    const,
    define,
    first_lanes,
    iota,
    transposed,
)
from tracejit.codegen.native.microkernel import CHAIN

UNROLL = 4  # steps of a sum in a loop's body


def at(b: Builder, base: Value, index: int | Value, element: Type = F32) -> Value:
    """The address of an element."""
    if index == 0:
        return base
    return b.gep(base, element, const(I64, index) if isinstance(index, int) else index)


def times(b: Builder, a: Value, factor: int) -> Value:
    """An integer times a constant."""
    return a if factor == 1 else b.mul(a, factor)


def plus(b: Builder, *terms: tuple[Value, int]) -> Value:
    """The sum of integers times constants."""
    total: Value | None = None
    for value, factor in terms:
        if factor:
            part = times(b, value, factor)
            total = part if total is None else b.add(total, part)
    return const(I64, 0) if total is None else total


def accumulate(
    b: Builder,
    start: Sequence[Sequence[Value]],
    left: tuple[Value, int, int],
    panel: Value,
    depth: int | Value,
    unit: int = 1,
) -> list[list[Value]]:
    """start[i][v] + Σ over p < depth of left[i, p] · panel[p, v], by fused multiply-adds in order.

    `left` is f32 anywhere in memory: its address, and how far rows and steps lie apart. A row of
    the panel is as many vectors as a row of `start`. The scheme is that of Goto and van de Geijn,
    "Anatomy of High-Performance Matrix Multiplication" (2008): the sums stay in registers. `unit`:
    a depth that is no constant is a multiple of it; one that is one is summed in short chains."""
    address, row, step = left
    wide = start[0][0].type
    length = len(start[0]) * wide.lanes
    if isinstance(depth, int) and depth > CHAIN:
        half = depth // 2 // UNROLL * UNROLL
        begun = accumulate(b, start, left, panel, half)
        rest = (at(b, address, half * step), row, step)
        zeros = [[const(wide, 0)] * len(values) for values in start]
        added = accumulate(b, zeros, rest, at(b, panel, half * length), depth - half)
        return [[b.fadd(x, y) for x, y in zip(*rows)] for rows in zip(begun, added)]
    sums = [[b.slot(value, "sum") for value in values] for values in start]

    def steps(p: Value, count: int) -> None:
        held = [[s.get() for s in slots] for slots in sums]
        a, ours = at(b, address, times(b, p, step)), at(b, panel, times(b, p, length))
        for u in range(count):
            vectors = [
                b.load(at(b, ours, u * length + v * wide.lanes), wide) for v in range(len(start[0]))
            ]
            for i, values in enumerate(held):
                one = b.splat(b.load(at(b, a, i * row + u * step), F32), wide.lanes)
                for v, vector in enumerate(vectors):
                    values[v] = b.fma(one, vector, values[v])
        for slots, values in zip(sums, held):
            for slot, value in zip(slots, values):
                slot.set(value)

    count = const(I64, depth) if isinstance(depth, int) else depth
    whole = b.binary("and", count, -UNROLL)
    with b.loop(0, whole, UNROLL, "p") as p:
        steps(p, UNROLL)
    if not isinstance(depth, int):
        if unit % UNROLL:
            with b.loop(whole, count, 1, "p") as p:
                steps(p, 1)
    elif depth % UNROLL:
        steps(const(I64, depth - depth % UNROLL), depth % UNROLL)
    return [[s.get() for s in slots] for slots in sums]


def transpose(
    b: Builder, lanes: int, source: Value, source_step: int, to: Value, step: int
) -> None:
    """Transpose a square of as many 32-bit elements as lanes; elements between its rows. A call of
    a function of the module, since shuffles take long to compile."""
    name, wide = f"transpose.{lanes}", Type("float", lanes)
    if not b.module.has(name):
        parameters = [
            Value("%from", PTR),
            Value("%step", I64),
            Value("%to", PTR),
            Value("%apart", I64),
        ]

        def write(b: Builder, source: Value, step: Value, to: Value, apart: Value) -> None:
            places = [at(b, source, b.mul(step, k)) for k in range(lanes)]
            for k, row in enumerate(transposed(b, [b.load(p, wide) for p in places])):
                b.store(row, at(b, to, b.mul(apart, k)))

        define(b.module, name, parameters, write)
    b.call_void(name, source, const(I64, source_step), to, const(I64, step))


def across(b: Builder, combine: Callable[[Builder, Value, Value], Value], value: Value) -> Value:
    """All lanes combined, in each lane."""
    lanes, half = value.type.lanes, value.type.lanes // 2
    while half:
        value = combine(b, value, b.shuffle(value, None, [k ^ half for k in range(lanes)]))
        half //= 2
    return value


def lane_sums(b: Builder, rows: Sequence[Value]) -> Value:
    """In lane k the sum of the lanes of row k, for as many rows as there are lanes: in each step
    two rows become one that has the halves' sums of both."""
    found, lanes = list(rows), len(rows)
    half = lanes // 2
    while half:
        low = [k if not k & half else lanes + (k ^ half) for k in range(lanes)]
        high = [k | half if not k & half else lanes + k for k in range(lanes)]
        pairs = zip(found[:half], found[half:])
        found = [b.fadd(b.shuffle(x, y, low), b.shuffle(x, y, high)) for x, y in pairs]
        half //= 2
    return found[0]


def load_row(
    b: Builder, address: Value, dtype: str, lanes: int, count: int, stride: int = 1
) -> Value:
    """`count` elements as f32 in a vector of `lanes`, zeros behind them. A bool becomes 0 where it
    is true and -inf where it is not."""
    element = Type(words.memory_kind(dtype))
    wide = Type(element.kind, lanes)
    if stride == 1 and count == lanes:
        return as_f32(b, b.load(address, wide), dtype)
    present = first_lanes(lanes, count)
    align, zeros = const(I32, max(element.bits // 8, 1)), const(wide, 0)
    if stride == 1:
        name = f"{wide.suffix}.p0"
        args = (address, align, present, zeros)
        found = b.intrinsic("llvm.masked.load", wide, *args, suffix=name)
    else:
        places = b.gep(address, element, iota(Type("i64", lanes), stride))
        found = gather(b, places, element, present)
    return as_f32(b, found, dtype)


def gather(b: Builder, places: Value, element: Type, present: Value) -> Value:
    """The elements at the addresses in a vector, zero where they are not there."""
    wide = Type(element.kind, places.type.lanes)
    align, name = const(I32, max(element.bits // 8, 1)), f"{wide.suffix}.{places.type.suffix}"
    args = (places, align, present, const(wide, 0))
    return b.intrinsic("llvm.masked.gather", wide, *args, suffix=name)


def store_row(b: Builder, row: Value, address: Value, dtype: str, count: int, stride: int) -> None:
    """The first `count` lanes of an f32 vector as elements of a dtype."""
    value = words.cast(b, row, "f32", dtype)
    lanes, element = value.type.lanes, value.type.scalar
    if stride == 1 and count == lanes:
        b.store(value, address)
        return
    align, present = const(I32, element.bits // 8), first_lanes(lanes, count)
    if stride == 1:
        b.call_void(f"llvm.masked.store.{value.type.suffix}.p0", value, address, align, present)
        return
    places = b.gep(address, element, iota(Type("i64", lanes), stride))
    name = f"llvm.masked.scatter.{value.type.suffix}.{places.type.suffix}"
    b.call_void(name, value, places, align, present)


def as_f32(b: Builder, value: Value, dtype: str) -> Value:
    """Loaded elements as f32, a bool as what it adds to a score."""
    if dtype != "bool":
        return words.cast(b, value, dtype, "f32")
    wide = value.type.of("float")
    seen = b.icmp("ne", value, 0)
    return b.select(seen, const(wide, 0.0), const(wide, float("-inf")))
