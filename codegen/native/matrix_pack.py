"""Packs the factors of a bf16 product for tiles of the matrix unit (matrix_tiles.py): rows as they
are, padded with zeros, or panels of 32 in which pairs of k lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracejit.codegen.native.builder import (
    I16,
    I64,
    PTR,
    Builder,
    Type,
    Value,
    const,
    first_lanes,
    iota,
    some_lanes,
    transposed,
)
from tracejit.codegen.native.matrix_tiles import WIDTH, columns_of
from tracejit.codegen.native.matrix_unit import DEPTH, SIDE, TILE, WORDS
from tracejit.codegen.native.product_frame import Frame, Side
from tracejit.codegen.native.rows import digits
from tracejit.fuse.index import Axis
from tracejit.fuse.product import plain_load, stride
from tracejit.fuse.scalar import Load, Scalar

HALVES = Type("i16", SIDE)
AHEAD = 128  # bytes by which rows of the factor in pairs are fetched ahead
DEST = Value("%dest", PTR)
Axes = dict[Axis, Value]


@dataclass
class Packer:
    """`factors`: both sides' as bf16, by name. `inner`: the summed axis, in `chunks` of 32."""

    frame: Frame
    factors: dict[str, Scalar]
    inner: Axis
    chunks: int

    def row(self, b: Builder, side: Side, axes: Axes, dest: Value) -> None:
        """Pack a row: all of k, padded with zeros."""
        size = self.inner.size
        whole, rest = size // SIDE * SIDE, size % SIDE
        with b.loop(0, whole, SIDE, str(self.inner)) as k:
            value = self._vector(b, side, {**axes, self.inner: k}, self.inner)
            b.store(value, b.gep(dest, I16, k))
        if rest:
            at, mask = const(I64, whole), first_lanes(SIDE, rest)
            value = self._vector(b, side, {**axes, self.inner: at}, self.inner, mask)
            b.store(value, b.gep(dest, I16, at))
        if 0 < size % DEPTH <= SIDE:
            b.store(const(HALVES, 0), b.gep(dest, I16, self.chunks * DEPTH - SIDE))

    def _vector(
        self, b: Builder, side: Side, axes: Axes, along: Axis, mask: Value | None = None
    ) -> Value:
        """16 elements of a factor along an axis; zeros outside the mask."""
        value = self.frame.evaluator(b, axes, along, mask).wide(self.factors[side.name])
        return value if mask is None else b.select(mask, value, 0)

    def address(self, b: Builder, load: Load, axes: Axes) -> Value:
        """Where a factor's element lies."""
        pointer = self.frame.pointers(self.frame.arguments)[load.buffer]
        return b.gep(pointer, I16, self.frame.evaluator(b, axes).place(load.index).base)

    # Pairs: two tiles for each 32 steps of k

    def pairs(self, b: Builder, side: Side) -> None:
        """Pack the panel that the function's arguments name."""
        factor = self.factors[side.name]
        axes = digits(b, Value("%batch", I64), side.batch)
        outer, start = side.place(b, Value("%panel", I64))
        inner, own = stride(factor, self.inner), stride(factor, side.axis)
        pack = self._turned if inner == 1 and own != 1 else self._side_by_side
        pack(b, side, {**axes, **outer}, start)

    def _to(self, b: Builder, chunk: Value, half: Value | int, row: Value | int) -> Value:
        """The address of a row of a tile."""
        which = half if isinstance(half, Value) else const(I64, half)
        place = b.add(b.mul(chunk, 2 * TILE), b.mul(which, TILE))
        line = row if isinstance(row, Value) else const(I64, row)
        return b.gep(DEST, I16, b.add(place, b.mul(line, DEPTH)))

    def _turned(self, b: Builder, side: Side, axes: Axes, start: Value) -> None:
        """Elements are neighbours along k: pairs are, too, and are turned as words."""
        rest = self.inner.size % DEPTH
        load, last = plain_load(self.factors[side.name]), const(I64, side.axis.size - 1)

        def square(chunk: Value, half: Value, many: int) -> None:
            rows, first = [], b.add(start, b.mul(half, SIDE))
            if many == DEPTH and load is not None:
                given = {**axes, self.inner: b.mul(chunk, DEPTH)}
                for k in range(SIDE):
                    at = b.smin(b.add(first, k), last)
                    rows.append(self.address(b, load, {**given, side.axis: at}))
                for row in rows:
                    b.prefetch(row, AHEAD)
                for k, pairs in enumerate(columns_of(b, rows)):
                    b.store(pairs, self._to(b, chunk, half, k))
                return
            for k in range(SIDE):
                at = b.smin(b.add(first, k), last)
                here = {**axes, side.axis: at}
                parts = []
                for begin in (0, SIDE):
                    place = b.add(b.mul(chunk, DEPTH), begin)
                    count = min(many - begin, SIDE)
                    if count <= 0:
                        parts.append(const(HALVES, 0))
                        continue
                    mask = some_lanes(SIDE, count)
                    given = {**here, self.inner: place}
                    parts.append(self._vector(b, side, given, self.inner, mask))
                both = b.shuffle(parts[0], parts[1], range(DEPTH))
                rows.append(b.cast("bitcast", both, WORDS))
            for k, pairs in enumerate(transposed(b, rows)):
                b.store(pairs, self._to(b, chunk, half, k))

        whole = self.inner.size // DEPTH
        with b.loop(0, 2, name="half") as half:
            if whole:
                with b.loop(0, whole, name="chunk") as chunk:
                    square(chunk, half, DEPTH)
            if rest:
                square(const(I64, whole), half, rest)

    def _side_by_side(self, b: Builder, side: Side, axes: Axes, start: Value) -> None:
        """Elements are neighbours along the columns, or nowhere: two rows are interleaved."""
        size = self.inner.size
        with b.loop(0, self.chunks, name="chunk") as chunk, b.loop(0, SIDE, name="pair") as pair:
            first = b.add(b.mul(chunk, DEPTH), b.mul(pair, 2))
            for half in range(2):
                at = b.add(start, half * SIDE)
                mask = None
                if side.axis.size % WIDTH:
                    left = b.splat(b.sub(side.axis.size, at), SIDE)
                    mask = b.icmp("slt", iota(Type("i64", SIDE)), left)
                rows = []
                for step in range(2):
                    k = b.add(first, step)
                    place = b.smin(k, size - 1)
                    here = {**axes, side.axis: at, self.inner: place}
                    row = self._vector(b, side, here, side.axis, mask)
                    if size % DEPTH:
                        inside = b.icmp("slt", k, size)
                        row = b.select(inside, row, 0)
                    rows.append(row)
                order = [part + k for k in range(SIDE) for part in (0, SIDE)]
                b.store(b.shuffle(rows[0], rows[1], order), self._to(b, chunk, half, pair))
