"""Attention of bf16 with the matrix unit (matrix_unit.py)."""

from __future__ import annotations

from tracejit.codegen.native import matrix_unit as unit
from tracejit.codegen.native.attention_pairs import Pairs
from tracejit.codegen.native.attention_tiles import at, times
from tracejit.codegen.native.builder import I1, I16, I64, Builder, Type, Value, const
from tracejit.codegen.native.matrix_unit import BYTES, DEPTH, SIDE, TILE


class Matrix(Pairs):
    """What the unit computes. Tiles 0 … 3 are sums, two rows of two; 4 and 5 stand left of them, 6
    and 7 above."""

    prefix = "amx."

    def tasks(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """Tasks begin … end-1, with all tiles of 16 rows."""
        with unit.configured(b):
            super().tasks(b, pointers, begin, end)

    def _multiply(self, b: Builder, vectors: int, rows: int) -> None:
        """Tiles 0 … 3 (two rows of two) += tiles 4, 5 (left) · tiles 6, 7 (right)."""
        for i in range(rows):
            for v in range(vectors):
                unit.multiply(b, 2 * i + v, 4 + i, 6 + v)

    def _pair_products(
        self, b: Builder, keys: Value, packed: Value, scores: Value, whole: Value
    ) -> None:
        cut, step = self.cut, self.key_step
        with b.loop(0, whole, DEPTH, "chunk") as chunk:
            for i in range(2):
                for v in range(cut.vectors):
                    unit.zero(b, 2 * i + v)
            ours = at(b, keys, times(b, chunk, step), I16)
            with b.loop(0, self.padded_width, DEPTH, "column") as column:
                for i in range(2):
                    place = at(b, at(b, ours, i * SIDE * step, I16), column, I16)
                    unit.load(b, 4 + i, place, 2 * step)
                theirs = at(b, packed, times(b, column, cut.panel), I16)
                for v in range(cut.vectors):
                    unit.load(b, 6 + v, at(b, theirs, v * TILE, I16), BYTES)
                self._multiply(b, cut.vectors, 2)
            to = at(b, scores, times(b, chunk, cut.panel))
            for i in range(2):
                for v in range(cut.vectors):
                    place = at(b, to, i * SIDE * cut.panel + v * SIDE)
                    unit.store(b, 2 * i + v, place, 4 * cut.panel)

    def _sums(
        self,
        b: Builder,
        values: Value,
        weights: Value,
        sums: Value,
        count: Value,
        shrunk: list[Value],
    ) -> None:
        cut = self.cut
        self._shrink(b, sums, shrunk)
        pairs, whole = self._pairs(b, weights), self._whole(b, count)
        for first in range(0, self.padded_columns, 2 * SIDE):
            rows = 2 if first + SIDE < self.padded_columns else 1
            tiles = [(i, v) for i in range(rows) for v in range(cut.vectors)]
            places = [at(b, sums, (first + i * SIDE) * cut.panel + v * SIDE) for i, v in tiles]
            for (i, v), place in zip(tiles, places):
                unit.load(b, 2 * i + v, place, 4 * cut.panel)
            with b.loop(0, whole, DEPTH, "chunk") as chunk:
                ours = at(b, values, times(b, chunk, self.padded_columns), I16)
                for i in range(rows):
                    tile = at(b, ours, (first + i * SIDE) * DEPTH, I16)
                    unit.load(b, 4 + i, tile, BYTES)
                theirs = at(b, pairs, times(b, chunk, cut.panel // 2))
                for v in range(cut.vectors):
                    unit.load(b, 6 + v, at(b, theirs, v * SIDE), 4 * cut.panel)
                self._multiply(b, cut.vectors, rows)
            for (i, v), place in zip(tiles, places):
                unit.store(b, 2 * i + v, place, 4 * cut.panel)

    def _shrink(self, b: Builder, sums: Value, shrunk: list[Value]) -> None:
        """Sums under the new maxima; mostly these are the old ones."""
        cut = self.cut
        same = const(Type("i1", cut.lanes), 1)
        for factor in shrunk:
            same = b.binary("and", same, b.fcmp("oeq", factor, 1.0))
        every = b.intrinsic("llvm.vector.reduce.and", I1, same, suffix=same.type.suffix)
        some = b.binary("xor", every, 1)
        size = const(I64, self.padded_columns * cut.panel)
        with b.when(some, "shrink"), b.loop(0, size, cut.panel, "row") as row:
            for v, factor in enumerate(shrunk):
                place = at(b, at(b, sums, row), v * cut.lanes)
                b.store(b.fmul(b.load(place, self.wide), factor), place)
