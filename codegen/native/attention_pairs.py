"""Attention of bf16 in pairs, as the matrix unit (attention_amx.py) takes them.

It is the scheme of attention_panels.py. With scores transposed as there, keys are pairs of columns
as they lie in memory; queries are put in pairs of columns once a panel; weights come out of the
exponential function a pair of keys at a time. Values are transposed, and keys copied where they do
not fill whole tiles, once for all queries by a phase before the others.

Pairs lie in tiles of 16 rows of 16 pairs: of queries, a row for each pair of columns, a panel's
rows as its lanes; of values, a row for each column, and pairs of keys. Weights have a row for each
pair of keys, as long as a panel."""

from __future__ import annotations

from dataclasses import replace

from tracejit.codegen.native import matrix_unit as unit
from tracejit.codegen.native.attention_frame import INFINITY, SETS, up
from tracejit.codegen.native.attention_panels import Panels, Scratch
from tracejit.codegen.native.attention_tiles import at, plus, times, transpose
from tracejit.codegen.native.builder import (
    I16,
    I32,
    I64,
    Builder,
    Slot,
    Type,
    Value,
    const,
    first_lanes,
)
from tracejit.codegen.native.matrix_unit import BYTES, DEPTH, SIDE, TILE
from tracejit.fuse.attention import Attention, Operand
from tracejit.runtime.cpu import Level

KEYS = 128  # keys in a block at most
WORDS = Type("i32", SIDE)  # pairs


def suits(nest: Attention, level: Level) -> bool:
    """Whether there may be such kernels."""
    operands = (nest.query, nest.key, nest.value)
    return unit.may_have(level) and all(o.dtype == "bf16" and o.strides[3] == 1 for o in operands)


class Pairs(Panels):
    """Panels with pairs."""

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
        parts = self.keys % DEPTH or self.width % DEPTH
        return bool(parts) or 2 * self.nest.key.strides[2] % SETS == 0

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

    def places(self, b: Builder, pointers: list[Value], pair: Value) -> dict[str, Value]:
        """Keys and values are where they were put."""
        found = super().places(b, pointers[:-1], pair)
        group = const(I64, self.nest.group // self.cut.stacked)
        shared = b.binary("udiv", pair, group)
        kept = at(b, pointers[-1], times(b, shared, self.head_size), I16)
        found["value"] = kept
        if self.copied:
            found["key"] = at(b, kept, self.value_size, I16)
        return found

    def _blocks(
        self, b: Builder, places: dict[str, Value], memory: Scratch, key: Value, most: Value
    ) -> list[Value]:
        keys = at(b, places["key"], times(b, key, self.key_step), I16)
        return [keys, at(b, places["value"], times(b, key, self.padded_columns), I16)]

    def _queries(self, b: Builder, source: Value, packed: Value, first: Value) -> None:
        """Tiles of pairs of columns: for each 32 columns and vector of rows, a row of 16 lanes for
        each pair."""
        cut, query = self.cut, self.nest.query

        square = b.alloca(I32, TILE // 2, name="square")

        def chunk(column: Value, count: int) -> None:
            with b.loop(0, SIDE, 1, "k") as k:
                row = self._row_address(b, query, source, b.add(start, k))
                pairs = self._load(b, b.gep(row, I16, column), DEPTH, count)
                words = b.cast("bitcast", pairs, WORDS)
                if self.nest.scale < 0:
                    words = b.binary("xor", words, 0x80008000)
                b.store(words, at(b, square, times(b, k, SIDE)), align=BYTES)
            tile = at(b, packed, plus(b, (column, cut.panel), (v, TILE)), I16)
            transpose(b, SIDE, square, SIDE, tile, SIDE)

        with b.loop(0, cut.vectors, 1, "v") as v:
            start = plus(b, (first, 1), (v, SIDE))
            self._chunks(b, self.width, DEPTH, chunk)

    def _load(self, b: Builder, place: Value, lanes: int, count: int) -> Value:
        """`count` bf16, zeros behind them."""
        wide = Type("i16", lanes)
        if count == lanes:
            return b.load(place, wide)
        args = (place, const(I32, 2), first_lanes(lanes, count), const(wide, 0))
        return b.intrinsic("llvm.masked.load", wide, *args, suffix=f"{wide.suffix}.p0")

    def _whole(self, b: Builder, count: Value) -> Value:
        """A number of keys in whole chunks."""
        return b.binary("and", b.add(count, DEPTH - 1), -DEPTH)

    def _scores(
        self, b: Builder, keys: Value, packed: Value, scores: Value, count: Value, best: list[Slot]
    ) -> None:
        """As in Panels, of whole chunks of keys."""
        whole = self._whole(b, count)
        self._pair_products(b, keys, packed, scores, whole)
        with b.loop(count, whole, 1, "k") as k:
            for v in range(self.cut.vectors):
                b.store(const(self.wide, -INFINITY), self._place(b, scores, k, v))
        if self.nest.mask is None:
            self._best(b, scores, count, best)

    def _pair_products(
        self, b: Builder, keys: Value, packed: Value, scores: Value, whole: Value
    ) -> None:
        """scores = K · Qᵀ."""
        raise NotImplementedError

    def _pairs(self, b: Builder, scores: Value) -> Value:
        """Where weights are: pairs of keys, all lanes of a panel."""
        return at(b, scores, self.cut.keys * self.cut.panel)

    def _weigh(
        self, b: Builder, scores: Value, count: Value, maxima: list[Value], totals: list[Slot]
    ) -> None:
        """Weights, in pairs of bf16; zeros behind the last key."""
        cut, weights = self.cut, self._pairs(b, scores)
        seconds = [b.slot(const(self.wide, 0.0), "total") for _ in totals]
        with b.loop(0, count, 2, "k") as k:
            for v, both in enumerate(zip(totals, seconds)):
                pair = []
                for i, total in enumerate(both):
                    place = at(b, self._place(b, scores, k, v), i * cut.panel)
                    power = self._power(b, b.load(place, self.wide), maxima[v])
                    weight = self._weight(b, power)
                    total.set(b.fadd(total.get(), weight))
                    half = const(WORDS, 0x8000)
                    pair.append(b.add(b.bitcast(weight, "i32"), half))
                low = b.binary("lshr", pair[0], 16)
                high = b.binary("and", pair[1], 0xFFFF0000)
                place = plus(b, (k, cut.panel // 2), (const(I64, v), SIDE))
                b.store(b.binary("or", low, high), at(b, weights, place), align=BYTES)
        for total, second in zip(totals, seconds):
            total.set(b.fadd(total.get(), second.get()))
        odd = b.binary("and", b.add(count, 1), -2)
        with b.loop(odd, self._whole(b, count), 2, "k") as k:
            for v in range(cut.vectors):
                place = plus(b, (k, cut.panel // 2), (const(I64, v), SIDE))
                b.store(const(WORDS, 0), at(b, weights, place), align=BYTES)
