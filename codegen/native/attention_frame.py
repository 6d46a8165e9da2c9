"""What attention kernels over panels of query rows share: how the work is cut, where rows lie,
panels of queries on their way in and results on their way out, widening of half types."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tracejit.codegen.native.attention_tiles import at, load_row, plus, store_row, times, transpose
from tracejit.codegen.native.builder import F32, I64, Builder, Module, Type, Value, const
from tracejit.codegen.native.words import memory_kind
from tracejit.fuse.attention import Attention, Operand
from tracejit.runtime.cpu import Level

INFINITY = float("inf")
# By the bytes of a register: rows of a register tile (keys, or columns of V), and its vectors of
# query rows.
TILES = {64: (8, 2), 32: (6, 2), 16: (8, 3)}
KEYS = 128  # keys in a block at most
LONG = 192  # keys; with less, half as many in a block, since a sum over more is less exact
PANELS = 2  # panels of a task at most
PANELS_STAGED = 4  # if for each task keys or values are copied anew
SETS = 2048  # bytes: rows as far apart share the sets of a cache
STACK = 128 << 10  # bytes of the stack, about, for panels, and as much again for copies


def up(number: int, unit: int) -> int:
    """Rounded up to a multiple."""
    return -(-number // unit) * unit


@dataclass(frozen=True)
class Tiling:
    """How the work is cut. `stacked`: heads of one group whose rows stand below each other, so that
    few rows fill the lanes; then `rows` is their rows together."""

    lanes: int
    vectors: int
    tile: int
    keys: int
    panels: int
    stacked: int
    rows: int

    @property
    def panel(self) -> int:
        """Query rows in a panel."""
        return self.lanes * self.vectors

    @property
    def blocks(self) -> int:
        """Tasks of a head."""
        return -(-self.rows // (self.panel * self.panels))


def staged(operand: Operand) -> bool:
    """Whether blocks of keys or values are copied before they are used: to widen them, or since
    their rows would meet in a few sets of the first cache."""
    return operand.dtype != "f32" or 4 * operand.strides[2] % SETS == 0


def tiling(nest: Attention, level: Level) -> Tiling:
    """The cut for a level."""
    lanes = level.lanes()
    tile, vectors = TILES[level.bytes]
    rows, keys = nest.query.sizes[2], nest.key.sizes[2]
    stacked = nest.group if rows < lanes * vectors else 1
    rows *= stacked
    if rows <= lanes:
        tile, vectors = tile * vectors, 1
    unit = math.lcm(tile, lanes)
    columns = nest.query.sizes[3] + nest.value.sizes[3]
    most = min(KEYS if keys >= LONG else KEYS // 2, max(unit, STACK // (4 * columns)))
    block = -(-keys // -(-keys // most))  # all about as long
    copied = any(staged(o) for o in (nest.key, nest.value))
    most = PANELS_STAGED if copied else PANELS
    each = 4 * lanes * vectors * columns
    panels = max(1, min(most, -(-rows // (lanes * vectors)), STACK // each))
    return Tiling(lanes, vectors, tile, -(-block // unit) * unit, panels, stacked, rows)


@dataclass
class Frame:
    """One kernel being written. `factor`: what scores are multiplied with to be powers of 2;
    `added`: a mask of numbers is added to them, after they are scaled."""

    module: Module
    nest: Attention
    level: Level
    factor: float
    added: bool
    cut: Tiling = field(init=False)

    def __post_init__(self) -> None:
        self.cut = tiling(self.nest, self.level)
        self.wide = Type("float", self.cut.lanes)
        self.width, self.columns = self.nest.query.sizes[3], self.nest.value.sizes[3]
        self.rows, self.keys = self.nest.query.sizes[2], self.nest.key.sizes[2]

    @property
    def unit(self) -> int:
        """What the number of keys that a panel sees of a block is a multiple of."""
        return math.gcd(self.keys, self.cut.keys, self.cut.tile)

    @property
    def sum_rows(self) -> int:
        """Rows of a panel's sums: columns, in whole squares."""
        return up(self.columns, self.cut.lanes)

    def _staged(self, operand: Operand) -> bool:
        """Whether blocks of keys or values are copied before they are used."""
        return staged(operand)

    def _row_offset(self, b: Builder, operand: Operand, row: Value) -> Value:
        """Where a row of a head (of stacked heads) lies, in elements."""
        _, head, step, _ = operand.strides
        if self.cut.stacked == 1:
            return times(b, row, step)
        rows = const(I64, self.rows)
        return plus(b, (b.binary("udiv", row, rows), head), (b.binary("urem", row, rows), step))

    def _row_address(self, b: Builder, operand: Operand, base: Value, row: Value) -> Value:
        """The address of a row; behind the last one, that one again."""
        inside = b.smin(row, self.cut.rows - 1)
        return b.gep(base, self._element(operand), self._row_offset(b, operand, inside))

    def _element(self, operand: Operand) -> Type:
        """An element in memory."""
        return Type(memory_kind(operand.dtype))

    def _begin(self, b: Builder, sums: Value, state: Value) -> None:
        """Nothing seen: maxima -inf, totals and sums 0."""
        cut = self.cut
        for v in range(cut.vectors):
            b.store(const(self.wide, -INFINITY), at(b, state, v * cut.lanes))
            b.store(const(self.wide, 0.0), at(b, state, cut.panel + v * cut.lanes))
        with b.loop(0, self.sum_rows * cut.panel, cut.lanes, "k") as k:
            b.store(const(self.wide, 0.0), at(b, sums, k))

    def _limit(self, b: Builder, stop: Value) -> Value:
        """How many keys rows before `stop` may see."""
        keys = const(I64, self.keys)
        if not self.nest.causal:
            return keys
        if self.cut.stacked > 1:
            return const(I64, min(self.keys, self.rows))
        return b.smin(stop, keys)

    def _max(self, b: Builder, value: Value, other: Value) -> Value:
        """The greater; `other` if value is NaN, whose weight is NaN anyway."""
        return b.select(b.fcmp("ogt", value, other), value, other)

    def _place(self, b: Builder, scores: Value, key: Value, v: int) -> Value:
        return at(b, scores, plus(b, (key, self.cut.panel), (const(I64, v), self.cut.lanes)))

    # Queries in, results out

    def _chunks(
        self, b: Builder, size: int, unit: int, write: Callable[[Value, int], None]
    ) -> None:
        """Columns, `unit` at a time: the first one, and how many there are."""
        whole = size - size % unit
        with b.loop(0, whole, unit, "column") as column:
            write(column, unit)
        if size % unit:
            write(const(I64, whole), size % unit)

    def _queries(self, b: Builder, source: Value, packed: Value, first: Value) -> None:
        """packed[column, lane] = query[first + lane, column]."""
        query, cut = self.nest.query, self.cut
        square = b.alloca(F32, cut.lanes * cut.lanes, name="square")

        def chunk(column: Value, count: int) -> None:
            with b.loop(0, cut.lanes, 1, "k") as k:
                row = self._row_address(b, query, source, b.add(start, k))
                place = b.gep(row, self._element(query), times(b, column, query.strides[3]))
                vector = load_row(b, place, query.dtype, cut.lanes, count, query.strides[3])
                value = b.fneg(vector) if self.nest.scale < 0 else vector
                b.store(value, at(b, square, times(b, k, cut.lanes)), align=4 * cut.lanes)
            to = at(b, packed, plus(b, (column, cut.panel), (v, cut.lanes)))
            transpose(b, cut.lanes, square, cut.lanes, to, cut.panel)

        with b.loop(0, cut.vectors, 1, "v") as v:
            start = plus(b, (first, 1), (v, cut.lanes))
            self._chunks(b, self.width, cut.lanes, chunk)

    def _finish(self, b: Builder, sums: Value, state: Value, to: Value, first: Value) -> None:
        """out[first + lane, column] = sums[column, lane] / total[lane]."""
        out, cut = self.nest.out, self.cut
        square = b.alloca(F32, cut.lanes * cut.lanes, name="square")
        shares = b.alloca(F32, cut.lanes, name="shares")

        def chunk(column: Value, count: int) -> None:
            place = at(b, sums, plus(b, (column, cut.panel), (v, cut.lanes)))
            transpose(b, cut.lanes, place, cut.panel, square, cut.lanes)
            with b.loop(0, there, 1, "k") as k:
                share = b.splat(b.load(at(b, shares, k), F32), cut.lanes)
                row = b.load(at(b, square, times(b, k, cut.lanes)), self.wide)
                address = self._row_address(b, out, to, b.add(start, k))
                address = b.gep(address, self._element(out), times(b, column, out.strides[3]))
                store_row(b, b.fmul(row, share), address, out.dtype, count, out.strides[3])

        with b.loop(0, cut.vectors, 1, "v") as v:
            start = plus(b, (first, 1), (v, cut.lanes))
            left = b.sub(cut.rows, start)
            there = b.smin(left, cut.lanes)
            total = b.load(at(b, at(b, state, cut.panel), times(b, v, cut.lanes)), self.wide)
            share = b.fdiv(1.0, total)
            if self.nest.mask is not None:  # a row without keys: zeros
                zero = const(self.wide, 0.0)
                share = b.select(b.fcmp("oeq", total, zero), zero, share)
            b.store(share, shares)
            self._chunks(b, self.columns, cut.lanes, chunk)

    def _widening(self, operand: Operand) -> Callable[..., None]:
        """A function that copies `count` rows as f32 rows that lie next to each other."""
        lanes, width, (_, _, step, column) = self.cut.lanes, operand.sizes[3], operand.strides
        element = Type(memory_kind(operand.dtype))

        def write(b: Builder, source: Value, to: Value, count: Value) -> None:
            with b.loop(0, count, 1, "row") as row:
                ours, theirs = (
                    at(b, to, times(b, row, width)),
                    b.gep(source, element, times(b, row, step)),
                )
                for first in range(0, width, lanes):
                    many = min(lanes, width - first)
                    place = at(b, theirs, first * column, element)
                    value = load_row(b, place, operand.dtype, lanes, many, column)
                    store_row(b, value, at(b, ours, first), "f32", many, 1)

        return write
