"""What all attention kernels share: where operands and their rows lie, what scores become. And what
those over panels of query rows do: how the work is cut, panels of queries on their way in and
results on their way out, widening of half types."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tracejit.codegen.native.attention_exp import exp2
from tracejit.codegen.native.attention_tiles import load_row, store_row, transpose
from tracejit.codegen.native.builder import Builder, Module
from tracejit.codegen.native.places import at, over, parts, plus, times
from tracejit.codegen.native.types import F32, Type, Value, const
from tracejit.codegen.native.words import memory_kind
from tracejit.fuse.attention import Attention, Operand
from tracejit.runtime.cpu import Level

INFINITY = float("inf")
LOG2_E = 1 / math.log(2)
GRAIN_NS = 30_000.0  # work that is worth a thread
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


def grain(tasks: int, work_ns: float) -> int:
    """Tasks that are worth a thread, of so many that take so long together."""
    return max(1, min(tasks, round(tasks * GRAIN_NS / max(work_ns, 1.0))))


@dataclass
class Kernel:
    """One kernel being written. `stacked`: heads of one group whose rows are done together."""

    module: Module
    nest: Attention
    level: Level
    stacked: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self.lanes = self.level.lanes()
        self.wide = Type("float", self.lanes)
        self.rows, self.width = self.nest.query.sizes[2:]
        self.keys, self.columns = self.nest.value.sizes[2:]

    @property
    def added(self) -> bool:
        """Whether a mask of numbers is added to the scores, after they are scaled."""
        return self.nest.mask is not None and self.nest.mask.dtype != "bool"

    @property
    def factor(self) -> float:
        """What scores are multiplied with to be powers of 2."""
        return LOG2_E * (1.0 if self.added else abs(self.nest.scale))

    # Where operands are

    def _element(self, operand: Operand) -> Type:
        """An element in memory."""
        return Type(memory_kind(operand.dtype))

    def places(self, b: Builder, pointers: list[Value], pair: Value) -> dict[str, Value]:
        """Where each operand of a batch element and head (the first of stacked ones) begins."""
        nest = self.nest
        batch, head = b.divmod(pair, nest.query.sizes[1] // self.stacked)
        shared = over(b, head, nest.group // self.stacked)
        found = {}
        for pointer, (name, operand) in zip(pointers, nest.operands.items()):
            ours = shared if name in ("key", "value") else times(b, head, self.stacked)
            offset = plus(b, (batch, operand.strides[0]), (ours, operand.strides[1]))
            found[name] = b.gep(pointer, self._element(operand), offset)
        return found

    def _row_address(self, b: Builder, operand: Operand, base: Value, row: Value) -> Value:
        """The address of a row of a head (of stacked heads); behind the last one, that one
        again."""
        _, head, step, _ = operand.strides
        row = b.smin(row, self.rows * self.stacked - 1)
        if self.stacked == 1:
            return b.gep(base, self._element(operand), times(b, row, step))
        which, inside = b.divmod(row, self.rows)
        return b.gep(base, self._element(operand), plus(b, (which, head), (inside, step)))

    def _key_address(self, b: Builder, name: str, base: Value, key: Value) -> Value:
        """The address of a key's row, or its value's."""
        operand = self.nest.operands[name]
        return b.gep(base, self._element(operand), times(b, key, operand.strides[2]))

    # What scores become

    def _scaled(self, b: Builder, score: Value) -> Value:
        """Scores, ready for what a mask adds."""
        return b.fmul(score, abs(self.nest.scale)) if self.added else score

    def _signed(self, b: Builder, query: Value) -> Value:
        """A query, whose products with keys are greatest where weights are."""
        return b.fneg(query) if self.nest.scale < 0 else query

    def _finite(self, b: Builder, best: Value) -> Value:
        """A maximum; 0 where no key was seen yet, so that all weights are 0."""
        return b.select(b.fcmp("oeq", best, -INFINITY), 0.0, best)

    def _shrunk(self, b: Builder, old: Value, new: Value) -> Value:
        """By what sums shrink under a new maximum."""
        return exp2(b, self.level, b.fmul(b.fsub(old, new), self.factor))

    def _share(self, b: Builder, total: Value) -> Value:
        """What sums are multiplied with in the end; 0 for a row without keys."""
        return b.select(b.fcmp("oeq", total, 0.0), 0.0, b.fdiv(1.0, total))


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
    return Tiling(lanes, vectors, tile, up(block, unit), panels, stacked, rows)


@dataclass
class Frame(Kernel):
    """A kernel over panels of query rows."""

    cut: Tiling = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cut = tiling(self.nest, self.level)
        self.stacked = self.cut.stacked

    @property
    def unit(self) -> int:
        """What the number of keys that a panel sees of a block is a multiple of."""
        return math.gcd(self.keys, self.cut.keys, self.cut.tile)

    @property
    def sum_rows(self) -> int:
        """Rows of a panel's sums: columns, in whole squares."""
        return up(self.columns, self.lanes)

    def _staged(self, operand: Operand) -> bool:
        """Whether blocks of keys or values are copied before they are used."""
        return staged(operand)

    def _begin(self, b: Builder, sums: Value, state: Value) -> None:
        """Nothing seen: maxima -inf, totals and sums 0."""
        zero = const(self.wide, 0.0)
        for v in range(self.cut.vectors):
            b.store(const(self.wide, -INFINITY), at(b, state, v * self.lanes))
            b.store(zero, at(b, state, self.cut.panel + v * self.lanes))
        with b.loop(0, self.sum_rows * self.cut.panel, self.lanes, "k") as k:
            b.store(zero, at(b, sums, k))

    def _place(self, b: Builder, scores: Value, key: Value, v: int) -> Value:
        return at(b, scores, b.add(times(b, key, self.cut.panel), v * self.lanes))

    # Queries in, results out

    def _queries(self, b: Builder, source: Value, packed: Value, first: Value) -> None:
        """packed[column, lane] = query[first + lane, column]."""
        query, cut, lanes = self.nest.query, self.cut, self.lanes
        square = b.alloca(F32, lanes * lanes, name="square")
        with b.loop(0, cut.vectors, 1, "v") as v:
            start = plus(b, (first, 1), (v, lanes))
            for column, count in parts(b, self.width, lanes, "column"):
                with b.loop(0, lanes, 1, "k") as k:
                    row = self._row_address(b, query, source, b.add(start, k))
                    place = b.gep(row, self._element(query), times(b, column, query.strides[3]))
                    vector = load_row(b, place, query.dtype, lanes, count, query.strides[3])
                    b.store(self._signed(b, vector), at(b, square, times(b, k, lanes)), 4 * lanes)
                to = at(b, packed, plus(b, (column, cut.panel), (v, lanes)))
                transpose(b, lanes, square, lanes, to, cut.panel)

    def _finish(self, b: Builder, sums: Value, state: Value, to: Value, first: Value) -> None:
        """out[first + lane, column] = sums[column, lane] / total[lane]."""
        out, cut, lanes = self.nest.out, self.cut, self.lanes
        square = b.alloca(F32, lanes * lanes, name="square")
        shares = b.alloca(F32, lanes, name="shares")
        with b.loop(0, cut.vectors, 1, "v") as v:
            start = plus(b, (first, 1), (v, lanes))
            there = b.smin(b.sub(cut.rows, start), lanes)
            total = b.load(at(b, at(b, state, cut.panel), times(b, v, lanes)), self.wide)
            b.store(self._share(b, total), shares)
            for column, count in parts(b, self.columns, lanes, "column"):
                place = at(b, sums, plus(b, (column, cut.panel), (v, lanes)))
                transpose(b, lanes, place, cut.panel, square, lanes)
                with b.loop(0, there, 1, "k") as k:
                    share = b.splat(b.load(at(b, shares, k), F32), lanes)
                    row = b.load(at(b, square, times(b, k, lanes)), self.wide)
                    address = self._row_address(b, out, to, b.add(start, k))
                    address = b.gep(address, self._element(out), times(b, column, out.strides[3]))
                    store_row(b, b.fmul(row, share), address, out.dtype, count, out.strides[3])

    def _widening(self, operand: Operand) -> Callable[..., None]:
        """A function that copies `count` rows as f32 rows that lie next to each other."""
        width, (_, _, step, column) = operand.sizes[3], operand.strides
        element = self._element(operand)

        def write(b: Builder, source: Value, to: Value, count: Value) -> None:
            with b.loop(0, count, 1, "row") as row:
                ours = at(b, to, times(b, row, width))
                theirs = b.gep(source, element, times(b, row, step))
                for first in range(0, width, self.lanes):
                    many = min(self.lanes, width - first)
                    place = at(b, theirs, first * column, element)
                    value = load_row(b, place, operand.dtype, self.lanes, many, column)
                    store_row(b, value, at(b, ours, first), "f32", many, 1)

        return write
