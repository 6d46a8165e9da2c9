"""Attention of bf16 with the matrix unit (matrix_unit.py), which takes pairs.

It is the scheme of attention_panels.py. With scores transposed as there, keys are pairs of columns
as they lie in memory; queries are put in pairs of columns once a panel; weights come out of the
exponential function a pair of keys at a time. Values are transposed, and keys copied where they do
not fill whole tiles, once for all queries by a phase before the others (attention_bf16.py).

Pairs lie in tiles of 16 rows of 16 pairs: of queries, a row for each pair of columns, a panel's
rows as its lanes; of values, a row for each column, and pairs of keys. Weights have a row for each
pair of keys, as long as a panel."""

from __future__ import annotations

from dataclasses import replace

from tracejit.codegen.native import matrix_unit as unit
from tracejit.codegen.native.attention_blocks import Step
from tracejit.codegen.native.attention_frame import INFINITY, SETS, up
from tracejit.codegen.native.attention_panels import Panels, Scratch
from tracejit.codegen.native.attention_tiles import transpose
from tracejit.codegen.native.builder import Builder, Slot
from tracejit.codegen.native.lanes import first_lanes
from tracejit.codegen.native.matrix_unit import BYTES, DEPTH, SIDE, TILE, WORDS
from tracejit.codegen.native.places import at, over, parts, plus, times
from tracejit.codegen.native.types import I1, I16, I32, Type, Value, const
from tracejit.fuse.attention import Operand

KEYS = 128  # keys in a block at most


class Matrix(Panels):
    """Panels with pairs."""

    prefix = "amx."

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks = -(-self.keys // KEYS)
        keys = up(-(-self.keys // blocks), DEPTH)
        self.cut = replace(self.cut, keys=keys, tile=DEPTH)
        self.attributes = unit.attributes(self.level)
        self.chunks = -(-self.keys // DEPTH)  # tiles of keys (in pairs) of a head
        self.padded_width, self.padded_columns = up(self.width, DEPTH), up(self.columns, SIDE)

    @property
    def packed_size(self) -> int:
        return self.padded_width // 2 * self.cut.panel

    @property
    def scores_size(self) -> int:
        """Scores, and weights of half their size."""
        return self.cut.keys * self.cut.panel * 3 // 2

    @property
    def sum_rows(self) -> int:
        return self.padded_columns

    def _staged(self, operand: Operand) -> bool:
        return False

    @property
    def copied(self) -> bool:
        """Whether keys are copied beforehand: to fill up tiles with zeros, or since rows of a tile
        would meet in a few sets of the first cache."""
        rest = self.keys % DEPTH or self.width % DEPTH
        return bool(rest) or 2 * self.nest.key.strides[2] % SETS == 0

    @property
    def key_step(self) -> int:
        """How far keys lie apart."""
        return self.padded_width if self.copied else self.nest.key.strides[2]

    @property
    def value_size(self) -> int:
        """Transposed values of a head, in bf16."""
        return self.chunks * DEPTH * self.padded_columns

    @property
    def head_size(self) -> int:
        """What is kept of a head, in bf16."""
        return self.value_size + self.copied * self.chunks * DEPTH * self.padded_width

    # Where keys, values and queries are

    def tasks(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """Tasks begin … end-1, with all tiles of 16 rows."""
        with unit.configured(b):
            super().tasks(b, pointers, begin, end)

    def places(self, b: Builder, pointers: list[Value], pair: Value) -> dict[str, Value]:
        """Keys and values are where they were put."""
        found = super().places(b, pointers[:-1], pair)
        shared = over(b, pair, self.nest.group // self.stacked)
        kept = at(b, pointers[-1], times(b, shared, self.head_size), I16)
        found["value"] = kept
        if self.copied:
            found["key"] = at(b, kept, self.value_size, I16)
        return found

    def _blocks(
        self, b: Builder, places: dict[str, Value], memory: Scratch, key: Value, most: Value
    ) -> list[Value]:
        steps = {"key": self.key_step, "value": self.padded_columns}
        return [at(b, places[name], times(b, key, step), I16) for name, step in steps.items()]

    def _queries(self, b: Builder, source: Value, packed: Value, first: Value) -> None:
        """Tiles of pairs of columns: for each 32 columns and vector of rows, a row of 16 lanes for
        each pair."""
        cut, query = self.cut, self.nest.query
        square = b.alloca(I32, TILE // 2, name="square")
        with b.loop(0, cut.vectors, 1, "v") as v:
            start = plus(b, (first, 1), (v, SIDE))
            for column, count in parts(b, self.width, DEPTH, "column"):
                with b.loop(0, SIDE, 1, "k") as k:
                    row = self._row_address(b, query, source, b.add(start, k))
                    words = b.cast("bitcast", load(b, b.gep(row, I16, column), DEPTH, count), WORDS)
                    if self.nest.scale < 0:
                        words = b.binary("xor", words, 0x80008000)
                    b.store(words, at(b, square, times(b, k, SIDE)), align=BYTES)
                tile = at(b, packed, plus(b, (column, cut.panel), (v, TILE)), I16)
                transpose(b, SIDE, square, SIDE, tile, SIDE)

    # Scores and weights

    def _scores(self, b: Builder, step: Step, best: list[Slot]) -> None:
        """As in Panels, of whole chunks of keys."""
        cut, apart, whole = self.cut, self.key_step, self._whole(b, step.count)
        tiles = [(i, v) for i in range(2) for v in range(cut.vectors)]
        with b.loop(0, whole, DEPTH, "chunk") as chunk:
            for i, v in tiles:
                unit.zero(b, 2 * i + v)
            ours = at(b, step.keys, times(b, chunk, apart), I16)
            with b.loop(0, self.padded_width, DEPTH, "column") as column:
                left = [at(b, at(b, ours, i * SIDE * apart, I16), column, I16) for i in range(2)]
                theirs = at(b, step.packed, times(b, column, cut.panel), I16)
                above = [at(b, theirs, v * TILE, I16) for v in range(cut.vectors)]
                unit.add_products(b, (left, 2 * apart), (above, BYTES))
            to = at(b, step.scores, times(b, chunk, cut.panel))
            for i, v in tiles:
                place = at(b, to, i * SIDE * cut.panel + v * SIDE)
                unit.store(b, 2 * i + v, place, 4 * cut.panel)
        with b.loop(step.count, whole, 1, "k") as k:
            for v in range(cut.vectors):
                b.store(const(self.wide, -INFINITY), self._place(b, step.scores, k, v))
        if self.nest.mask is None:
            self._best(b, step, best)

    def _whole(self, b: Builder, count: Value) -> Value:
        """A number of keys in whole chunks."""
        return b.binary("and", b.add(count, DEPTH - 1), -DEPTH)

    def _pair(self, b: Builder, step: Step, key: Value, v: int) -> Value:
        """Where a pair of keys' weights are: behind the scores."""
        weights = at(b, step.scores, self.cut.keys * self.cut.panel)
        return at(b, weights, b.add(times(b, key, self.cut.panel // 2), v * SIDE))

    def _weigh(self, b: Builder, step: Step, maxima: list[Value], totals: list[Slot]) -> None:
        """Weights, in pairs of bf16; zeros behind the last key."""
        seconds = [b.slot(const(self.wide, 0.0), "total") for _ in totals]
        with b.loop(0, step.count, 2, "k") as k:
            for v, both in enumerate(zip(totals, seconds)):
                pair = []
                for i, total in enumerate(both):
                    place = at(b, self._place(b, step.scores, k, v), i * self.cut.panel)
                    weight = self._weight(b, b.load(place, self.wide), maxima[v])
                    total.set(b.fadd(total.get(), weight))
                    pair.append(b.add(b.bitcast(weight, "i32"), 0x8000))
                low, high = b.binary("lshr", pair[0], 16), b.binary("and", pair[1], 0xFFFF0000)
                b.store(b.binary("or", low, high), self._pair(b, step, k, v), align=BYTES)
        for total, second in zip(totals, seconds):
            total.set(b.fadd(total.get(), second.get()))
        odd = b.binary("and", b.add(step.count, 1), -2)
        with b.loop(odd, self._whole(b, step.count), 2, "k") as k:
            for v in range(self.cut.vectors):
                b.store(const(WORDS, 0), self._pair(b, step, k, v), align=BYTES)

    # Sums

    def _sums(self, b: Builder, step: Step, shrunk: list[Value]) -> None:
        cut = self.cut
        self._shrink(b, step.sums, shrunk)
        whole = self._whole(b, step.count)
        for first in range(0, self.padded_columns, 2 * SIDE):
            rows = 2 if first + SIDE < self.padded_columns else 1
            tiles = [(i, v) for i in range(rows) for v in range(cut.vectors)]
            places = [at(b, step.sums, (first + i * SIDE) * cut.panel + v * SIDE) for i, v in tiles]
            for (i, v), place in zip(tiles, places):
                unit.load(b, 2 * i + v, place, 4 * cut.panel)
            with b.loop(0, whole, DEPTH, "chunk") as chunk:
                ours = at(b, step.values, times(b, chunk, self.padded_columns), I16)
                left = [at(b, ours, (first + i * SIDE) * DEPTH, I16) for i in range(rows)]
                above = [self._pair(b, step, chunk, v) for v in range(cut.vectors)]
                unit.add_products(b, (left, BYTES), (above, 4 * cut.panel))
            for (i, v), place in zip(tiles, places):
                unit.store(b, 2 * i + v, place, 4 * cut.panel)

    def _shrink(self, b: Builder, sums: Value, shrunk: list[Value]) -> None:
        """Sums under the new maxima; mostly these are the old ones."""
        same = const(Type("i1", self.lanes), 1)
        for factor in shrunk:
            same = b.binary("and", same, b.fcmp("oeq", factor, 1.0))
        every = b.intrinsic("llvm.vector.reduce.and", I1, same, suffix=same.type.suffix)
        some, panel = b.binary("xor", every, 1), self.cut.panel
        with b.when(some, "shrink"), b.loop(0, self.padded_columns * panel, panel, "row") as row:
            for v, factor in enumerate(shrunk):
                place = at(b, at(b, sums, row), v * self.lanes)
                b.store(b.fmul(b.load(place, self.wide), factor), place)


def load(b: Builder, place: Value, lanes: int, count: int) -> Value:
    """`count` bf16, zeros behind them."""
    wide = Type("i16", lanes)
    if count == lanes:
        return b.load(place, wide)
    return b.masked_load(place, wide, first_lanes(lanes, count))
