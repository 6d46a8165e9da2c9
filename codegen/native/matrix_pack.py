"""Packs the factors of a bf16 product for tiles of the matrix unit (matrix_tiles.py): rows as they
are, padded with zeros, or panels of 32 in which pairs of k lie side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.lanes import lanes_before, some_lanes, transposed
from tracejit.codegen.native.matrix_tiles import WIDTH, columns_of
from tracejit.codegen.native.matrix_unit import DEPTH, SIDE, TILE, WORDS
from tracejit.codegen.native.places import parts, plus
from tracejit.codegen.native.product_frame import Axes, Frame, Side
from tracejit.codegen.native.rows import digits
from tracejit.codegen.native.types import I16, I64, PTR, Type, Value, const
from tracejit.fuse.index import Axis
from tracejit.fuse.product import plain_load, stride

HALVES = Type("i16", SIDE)
AHEAD = 128  # bytes by which rows of the factor in pairs are fetched ahead
DEST = Value("%dest", PTR)


@dataclass
class Packer:
    """`inner`: the summed axis, in `chunks` of 32. Factors are bf16."""

    frame: Frame
    inner: Axis
    chunks: int

    def row(self, b: Builder, side: Side, axes: Axes, dest: Value) -> None:
        """Pack a row: all of k, padded with zeros."""
        size = self.inner.size
        for k, count in parts(b, size, SIDE, str(self.inner)):
            given = {**axes, self.inner: k}
            value = self._vector(b, side, given, self.inner, some_lanes(SIDE, count))
            b.store(value, b.gep(dest, I16, k))
        if 0 < size % DEPTH <= SIDE:
            b.store(const(HALVES, 0), b.gep(dest, I16, self.chunks * DEPTH - SIDE))

    def _vector(
        self, b: Builder, side: Side, axes: Axes, along: Axis, mask: Value | None = None
    ) -> Value:
        """16 elements of a factor along an axis; zeros outside the mask."""
        value = self.frame.evaluator(b, axes, along, mask).wide(side.factor)
        return value if mask is None else b.select(mask, value, const(HALVES, 0))

    # Pairs: two tiles for each 32 steps of k

    def pairs(self, b: Builder, side: Side) -> None:
        """Pack the panel that the function's arguments name."""
        axes = digits(b, Value("%batch", I64), side.batch)
        outer, start = side.place(b, Value("%panel", I64))
        inner, own = stride(side.factor, self.inner), stride(side.factor, side.axis)
        pack = self._turned if inner == 1 and own != 1 else self._side_by_side
        pack(b, side, {**axes, **outer}, start)

    def _to(self, b: Builder, k: Value, half: Value | int, row: Value | int) -> Value:
        """The address of a row of the tile for 32 steps from k on."""
        return b.gep(DEST, I16, plus(b, (k, WIDTH), (half, TILE), (row, DEPTH)))

    def _turned(self, b: Builder, side: Side, axes: Axes, start: Value) -> None:
        """Elements are neighbours along k: pairs are, too, and are turned as words. Beyond the last
        row that one repeats."""
        plain = plain_load(side.factor) is not None
        with b.loop(0, 2, name="half") as half:
            for begin, many in parts(b, self.inner.size, DEPTH, "k"):
                first = b.add(start, b.mul(half, SIDE))
                rows = (b.smin(b.add(first, k), side.axis.size - 1) for k in range(SIDE))
                places = [{**axes, side.axis: row, self.inner: begin} for row in rows]
                if plain and many == DEPTH:
                    found = self._in_place(b, side, places)
                else:
                    found = transposed(b, [self._words(b, side, at, many) for at in places])
                for k, pairs in enumerate(found):
                    b.store(pairs, self._to(b, begin, half, k))

    def _in_place(self, b: Builder, side: Side, places: Sequence[Axes]) -> list[Value]:
        """The pairs of columns of rows that are read as they lie."""
        rows = [self.frame.address(b, side.factor, at) for at in places]
        for row in rows:
            b.prefetch(row, AHEAD)
        return columns_of(b, rows)

    def _words(self, b: Builder, side: Side, at: Axes, many: int) -> Value:
        """The first `many` elements along k of a row, as pairs; zeros behind them."""
        low = self._vector(b, side, at, self.inner, some_lanes(SIDE, many))
        high = const(HALVES, 0)
        if many > SIDE:
            after = {**at, self.inner: b.add(at[self.inner], SIDE)}
            high = self._vector(b, side, after, self.inner, some_lanes(SIDE, many - SIDE))
        return b.cast("bitcast", b.shuffle(low, high, range(DEPTH)), WORDS)

    def _side_by_side(self, b: Builder, side: Side, axes: Axes, start: Value) -> None:
        """Elements are neighbours along the columns, or nowhere: two rows are interleaved."""
        with (
            b.loop(0, self.chunks * DEPTH, DEPTH, str(self.inner)) as begin,
            b.loop(0, SIDE, name="pair") as pair,
        ):
            first = plus(b, (begin, 1), (pair, 2))
            for half in range(2):
                at = b.add(start, half * SIDE)
                part = side.axis.size % WIDTH
                mask = lanes_before(b, SIDE, side.axis.size, at) if part else None
                here = {**axes, side.axis: at}
                low, high = (self._step(b, side, here, b.add(first, k), mask) for k in range(2))
                order = [lane + k for k in range(SIDE) for lane in (0, SIDE)]
                b.store(b.shuffle(low, high, order), self._to(b, begin, half, pair))

    def _step(self, b: Builder, side: Side, axes: Axes, k: Value, mask: Value | None) -> Value:
        """Step k of 16 columns; zeros behind the last step."""
        size = self.inner.size
        here = {**axes, self.inner: b.smin(k, size - 1)}
        row = self._vector(b, side, here, side.axis, mask)
        if size % DEPTH == 0:
            return row
        return b.select(b.icmp("slt", k, size), row, const(HALVES, 0))
