"""A nest without reductions that reads along one axis and writes along another, in tiles.

What is read the other way round is brought into a tile of scratch memory first, a square of vectors
at a time, turned in registers; then the tile's rows are computed as those of any nest. So every
access to memory is to whole vectors, and a cache line is used up while it is in the nearest cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tracejit.codegen.native import words
from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.lanes import transposed
from tracejit.codegen.native.rows import Place, Rows, digits, maybe, pieces
from tracejit.codegen.native.strategy import TILE, Strategy
from tracejit.codegen.native.types import I64, Type, Value, const
from tracejit.fuse.index import Axis
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.scalar import Scalar
from tracejit.ir.graph import numel

Axes = dict[Axis, Value]
SQUARE = 16  # lanes of a square's vectors, at most


class Turned(Rows):
    """Writes the work of one task: a tile of the vector axis and of the one that is read along."""

    def __init__(self, nest: LoopNest, strategy: Strategy) -> None:
        super().__init__(nest, strategy)
        assert strategy.vector is not None and strategy.turn is not None
        self.along, self.across = strategy.vector, strategy.turn.across
        self.loads = strategy.turn.loads
        self.outer = [a for a in self.outer if a != self.across]

    @property
    def tasks(self) -> int:
        """How many tiles there are."""
        tiles = [-(-axis.size // TILE) for axis in (self.along, self.across)]
        return int(numel([*(a.size for a in self.outer), *tiles]))

    def write(self, b: Builder, pointers: Mapping[str, Value], task: Value) -> None:
        """One tile: what is turned, then its rows."""
        spans = []
        for axis in (self.across, self.along):
            count = const(I64, -(-axis.size // TILE))
            begin = b.mul(b.binary("urem", task, count), TILE)
            end = b.add(begin, TILE)
            spans.append((begin, b.intrinsic("llvm.smin", I64, end, const(I64, axis.size))))
            task = b.binary("udiv", task, count)
        (top, bottom), (left, right) = spans
        outer = digits(b, task, self.outer)
        tiles, side = {}, min(self.strategy.narrow, SQUARE)
        for load in self.loads:
            tiles[load] = b.alloca(Type(words.memory_kind(load.dtype)), TILE * TILE, name="tile")
            with b.loop(left, right, side, str(self.along)) as at:
                squares = {**outer, self.along: at}
                for place in self._along(b, self.across, top, bottom, side):
                    corner = (b.sub(place.axes[self.across], top), b.sub(at, left))
                    self._turn(b, pointers, load, tiles[load], squares, place, corner)
        with b.loop(top, bottom, name=str(self.across)) as row:
            for place in self._along(b, self.along, left, right, self.strategy.lanes):
                here = Place({**outer, self.across: row, **place.axes}, place.lanes, place.mask)
                corner = (b.sub(row, top), b.sub(place.axes[self.along], left))
                known = {
                    load.key: self._held(b, load, tile, here, corner)
                    for load, tile in tiles.items()
                }
                evaluator = self.evaluator(b, pointers, here, known)({})
                for store in self.last:
                    evaluator.store(store)

    def _along(
        self, b: Builder, axis: Axis, begin: Value, end: Value, lanes: int
    ) -> Iterator[Place]:
        """The vectors of an axis from begin to end: whole ones in a loop, then what is left of the
        axis."""
        whole = axis.size // lanes * lanes
        if whole:
            stop = b.intrinsic("llvm.smin", I64, end, const(I64, whole))
            with b.loop(begin, stop, lanes, str(axis)) as at:
                yield Place({axis: at}, lanes, None)
        if axis.size > whole:
            with maybe(b, b.icmp("eq", end, axis.size), axis.size > TILE):
                for at, count, mask in pieces(whole, axis.size - whole, lanes, lanes):
                    yield Place({axis: at}, count, mask)

    def _turn(
        self,
        b: Builder,
        pointers: Mapping[str, Value],
        load: Scalar,
        tile: Value,
        axes: Axes,
        place: Place,
        corner: tuple[Value, Value],
    ) -> None:
        """One square, into the tile; beyond the last row of memory that row repeats."""
        size, rows = self.along.size, []
        for k in range(place.lanes):
            at = b.add(axes[self.along], k)
            if size % place.lanes:
                at = b.intrinsic("llvm.smin", I64, at, const(I64, size - 1))
            here = Place({**axes, **place.axes, self.along: at}, place.lanes, place.mask)
            make = self.evaluator(b, pointers, here, {})
            rows.append(words.to_memory(b, make({}, vector=self.across).wide(load)))
        for k, column in enumerate(transposed(b, rows)):
            b.store(column, self._address(b, load, tile, b.add(corner[0], k), corner[1]))

    def _address(self, b: Builder, load: Scalar, tile: Value, row: Value, column: Value) -> Value:
        position = b.add(b.mul(row, TILE), column)
        return b.gep(tile, Type(words.memory_kind(load.dtype)), position)

    def _held(
        self, b: Builder, load: Scalar, tile: Value, place: Place, corner: tuple[Value, Value]
    ) -> Value:
        """What was turned, as a vector of a row."""
        type = Type(words.memory_kind(load.dtype), place.lanes)
        held = b.load(self._address(b, load, tile, *corner), type)
        return words.from_memory(b, held, load.dtype)
