"""Pieces of attention kernels that know nothing of attention: register tiles with strides known
beforehand, transposition in registers, rows of any dtype as f32.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracejit.codegen.native import words
from tracejit.codegen.native.builder import Builder, define
from tracejit.codegen.native.lanes import first_lanes, iota, transposed
from tracejit.codegen.native.microkernel import CHAIN
from tracejit.codegen.native.places import at, parts, times
from tracejit.codegen.native.types import F32, I64, PTR, Type, Value, const

UNROLL = 4  # steps of a sum in a loop's body


def accumulate(
    b: Builder,
    rows: int,
    vectors: Sequence[Type],
    left: tuple[Value, int, int],
    panel: Value,
    depth: int | Value,
    unit: int = 1,
) -> list[list[Value]]:
    """[i][v]: Σ over p < depth of left[i, p] · panel[p, v], by fused multiply-adds in order.

    `left` is f32 anywhere in memory: its address, and how far rows and steps lie apart. `vectors`:
    those of a row of the panel. The scheme is that of Goto and van de Geijn, "Anatomy of
    High-Performance Matrix Multiplication" (2008): the sums stay in registers. `unit`: a depth that
    is no constant is a multiple of it; one that is one is summed in short chains."""
    address, row, step = left
    length = sum(wide.lanes for wide in vectors)
    if isinstance(depth, int) and depth > CHAIN:
        half = depth // 2 // UNROLL * UNROLL
        rest = (at(b, address, half * step), row, step), at(b, panel, half * length), depth - half
        halves = [accumulate(b, rows, vectors, *of) for of in ((left, panel, half), rest)]
        return [[b.fadd(x, y) for x, y in zip(*both)] for both in zip(*halves)]
    sums = [[b.slot(const(wide, 0.0), "sum") for wide in vectors] for _ in range(rows)]

    some = None if isinstance(depth, Value) and unit % UNROLL else 0
    for p, count in parts(b, depth, UNROLL, "p", some):
        held = [[s.get() for s in slots] for slots in sums]
        a, ours = at(b, address, times(b, p, step)), at(b, panel, times(b, p, length))
        for u in range(count):
            places = [at(b, ours, u * length + v * w.lanes) for v, w in enumerate(vectors)]
            loaded = [b.load(place, wide) for place, wide in zip(places, vectors)]
            for i, values in enumerate(held):
                one = b.splat(b.load(at(b, a, i * row + u * step), F32), vectors[0].lanes)
                values[:] = [b.fma(one, x, total) for x, total in zip(loaded, values)]
        for slots, values in zip(sums, held):
            for slot, value in zip(slots, values):
                slot.set(value)
    return [[s.get() for s in slots] for slots in sums]


def transpose(
    b: Builder, lanes: int, source: Value, source_step: int, to: Value, step: int
) -> None:
    """Transpose a square of as many 32-bit elements as lanes; elements between its rows. A call of
    a function of the module, since shuffles take long to compile."""
    name, wide = f"transpose.{lanes}", Type("float", lanes)

    def write(b: Builder, source: Value, step: Value, to: Value, apart: Value) -> None:
        rows = [b.load(p, wide) for p in [at(b, source, b.mul(step, k)) for k in range(lanes)]]
        for k, row in enumerate(transposed(b, rows)):
            b.store(row, at(b, to, b.mul(apart, k)))

    if not b.module.has(name):
        places = [Value("%from", PTR), Value("%step", I64), Value("%to", PTR), Value("%apart", I64)]
        define(b.module, name, places, write)
    b.call_void(name, source, source_step, to, step)


def greater(b: Builder, value: Value, other: Value) -> Value:
    """The greater; `other` if value is NaN, whose weight is NaN anyway."""
    return b.select(b.fcmp("ogt", value, other), value, other)


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
    return as_f32(b, b.masked_load(_each(b, address, wide, stride), wide, present), dtype)


def store_row(b: Builder, row: Value, address: Value, dtype: str, count: int, stride: int) -> None:
    """The first `count` lanes of an f32 vector as elements of a dtype."""
    value = words.cast(b, row, "f32", dtype)
    lanes = value.type.lanes
    if stride == 1 and count == lanes:
        b.store(value, address)
        return
    b.masked_store(value, _each(b, address, value.type, stride), first_lanes(lanes, count))


def _each(b: Builder, address: Value, wide: Type, stride: int) -> Value:
    """Where each lane's element is, if they are no neighbours; else where the first one is."""
    lanes = iota(Type("i64", wide.lanes), stride)
    return address if stride == 1 else b.gep(address, wide.scalar, lanes)


def as_f32(b: Builder, value: Value, dtype: str) -> Value:
    """Loaded elements as f32, a bool as what it adds to a score."""
    if dtype != "bool":
        return words.cast(b, value, dtype, "f32")
    wide = value.type.of("float")
    seen = b.icmp("ne", value, 0)
    return b.select(seen, const(wide, 0.0), const(wide, float("-inf")))
