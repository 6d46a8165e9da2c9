"""Attention of bf16 with AVX-512's products of pairs (VDPBF16PS), which AMD's processors do as fast
as products of f32, twice the work. The scheme is that of attention_pairs.py, in tiles of registers.
"""

from __future__ import annotations

from tracejit.codegen.native.attention_pairs import DEPTH, SIDE, Pairs
from tracejit.codegen.native.attention_tiles import at, times
from tracejit.codegen.native.builder import I16, I32, I64, Builder, Slot, Type, Value, const

ROWS = 8  # of a tile
STEPS = 4  # pairs in a loop's body
PRODUCT = "llvm.x86.avx512bf16.dpbf16ps.512"


class Dots(Pairs):
    """What vectors of products compute."""

    prefix = "dots."
    features = "+avx512bf16"

    def _tile(self, b: Builder) -> list[list[Slot]]:
        """Sums of a tile, begun at 0."""
        zero = const(self.wide, 0.0)
        return [[b.slot(zero, "sum") for _ in range(self.cut.vectors)] for _ in range(ROWS)]

    def _add(
        self,
        b: Builder,
        sums: list[list[Slot]],
        left: tuple[Value, int],
        right: tuple[Value, int, int],
    ) -> None:
        """Add products of 16 pairs: of `left`, whose rows lie so many pairs apart, with `right`,
        whose rows and vectors do."""
        (ours, row), (theirs, step, vector) = left, right
        halves = Type("bfloat", DEPTH)
        with b.loop(const(I64, 0), const(I64, SIDE), STEPS, "pair") as pair:
            held = [[s.get() for s in slots] for slots in sums]
            place, above = at(b, ours, pair, I32), at(b, theirs, times(b, pair, step), I32)
            for u in range(STEPS):
                vectors = []
                for v in range(self.cut.vectors):
                    words = b.load(at(b, above, u * step + v * vector, I32), Type("i32", SIDE))
                    vectors.append(b.cast("bitcast", words, halves))
                for i, values in enumerate(held):
                    word = b.load(at(b, place, i * row + u, I32), I32, align=2)
                    one = b.cast("bitcast", b.splat(word, SIDE), halves)
                    for v, words in enumerate(vectors):
                        values[v] = b.call(PRODUCT, self.wide, values[v], one, words)
            for slots, values in zip(sums, held):
                for slot, value in zip(slots, values):
                    slot.set(value)

    def _pair_products(
        self, b: Builder, keys: Value, packed: Value, scores: Value, whole: Value
    ) -> None:
        cut, step = self.cut, self.key_step
        with b.loop(const(I64, 0), whole, ROWS, "key") as key:
            sums, ours = self._tile(b), at(b, keys, times(b, key, step), I16)
            with b.loop(const(I64, 0), const(I64, self.padded_width), DEPTH, "column") as column:
                theirs = at(b, packed, times(b, column, cut.panel), I16)
                left = at(b, ours, column, I16), step // 2
                self._add(b, sums, left, (theirs, SIDE, SIDE * SIDE))
            to = at(b, scores, times(b, key, cut.panel))
            for i, slots in enumerate(sums):
                for v, slot in enumerate(slots):
                    b.store(slot.get(), at(b, to, i * cut.panel + v * SIDE))

    def _sums(
        self,
        b: Builder,
        values: Value,
        weights: Value,
        sums: Value,
        count: Value,
        shrunk: list[Value],
    ) -> None:
        cut, size = self.cut, const(I64, self.padded_columns)
        pairs, whole = self._pairs(b, weights), self._whole(b, count)
        with b.loop(const(I64, 0), size, ROWS, "column") as column:
            found = self._tile(b)
            with b.loop(const(I64, 0), whole, DEPTH, "chunk") as chunk:
                ours = at(b, values, times(b, chunk, self.padded_columns), I16)
                left = at(b, ours, times(b, column, DEPTH), I16), SIDE
                theirs = at(b, pairs, times(b, chunk, cut.panel // 2))
                self._add(b, found, left, (theirs, cut.panel, SIDE))
            to = at(b, sums, times(b, column, cut.panel))
            for i, slots in enumerate(found):
                for v, slot in enumerate(slots):
                    place = at(b, to, i * cut.panel + v * SIDE)
                    b.store(b.fma(b.load(place, self.wide), shrunk[v], slot.get()), place)
