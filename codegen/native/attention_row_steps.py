"""A few query rows against a block of keys, for attention_row.py: weights of one row, sums of a
batch of rows, and what is read soon asked for meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tracejit.codegen.native.attention_exp import DEGREES, exp2
from tracejit.codegen.native.attention_frame import INFINITY, up
from tracejit.codegen.native.attention_tiles import across, at, lane_sums, load_row, plus, times
from tracejit.codegen.native.builder import (
    F32,
    I32,
    Builder,
    Module,
    Type,
    Value,
    const,
    first_lanes,
)
from tracejit.codegen.native.words import memory_kind
from tracejit.fuse.attention import Attention, Operand
from tracejit.runtime.cpu import Level

MOST_SUMS = 16  # vectors of sums of all rows that are done together
KEYS = 128  # keys in a block
TASKS = 8  # tasks that there should be at least
LEAST_RUN = 2 * KEYS  # keys in a run at least
LINE = 64  # bytes of a cache line


@dataclass
class Steps:
    """One kernel being written. `factor`: what scores are multiplied with to be powers of 2;
    `added`: a mask of numbers is added to them, after they are scaled."""

    module: Module
    nest: Attention
    level: Level
    factor: float
    added: bool
    lanes: int = field(init=False)

    def __post_init__(self) -> None:
        self.lanes = self.level.lanes()
        self.wide = Type("float", self.lanes)
        batch, heads, rows, self.width = self.nest.query.sizes
        self.columns = self.nest.value.sizes[3]
        self.keys = min(self.nest.key.sizes[2], 1) if self.nest.causal else self.nest.key.sizes[2]
        self.rows = rows * self.nest.group
        self.pairs = batch * heads // self.nest.group
        runs = max(1, min(-(-TASKS // self.pairs), self.keys // LEAST_RUN))
        blocks = -(-self.keys // KEYS)
        self.run = -(-blocks // runs) * KEYS
        self.runs = -(-self.keys // self.run)
        # What a row of a run keeps: sums, their factor, a vector of the total's parts, the maximum.
        self.record = up(self.columns, self.lanes) + 3 * self.lanes
        vectors = -(-self.columns // self.lanes)
        self.batch = next(
            n for n in (4, 2, 1) if n <= self.rows and n * vectors <= MOST_SUMS or n == 1
        )
        self.padded = up(self.rows, self.batch)

    def _chunks(self, width: int) -> list[tuple[int, int]]:
        """Vectors of a row: the first column, and how many there are."""
        return [(k, min(self.lanes, width - k)) for k in range(0, width, self.lanes)]

    def _weigh(
        self,
        b: Builder,
        keys: Value,
        mask: Value,
        query: Value,
        scores: Value,
        record: Value,
        soon: Value,
        row: Value,
        count: Value,
    ) -> None:
        """The weights of a row, its new maximum and total, and by what its sums shrink."""
        state = at(b, record, self.record - 3 * self.lanes)  # the factor, total's parts, maximum
        total_place, best_place = (at(b, state, k * self.lanes) for k in (1, 2))
        best = b.slot(const(self.wide, -INFINITY), "best")
        ours = [b.load(at(b, query, first), self.wide) for first, _ in self._chunks(self.width)]

        def group(key: Value, many: int) -> None:
            share = b.binary("udiv", plus(b, (row, KEYS), (key, 1)), self.padded)
            self._ask(b, soon, self.nest.value, share, -(-many // self.padded))
            found = self._scores(b, keys, ours, key, many)
            found = self._masked(b, mask, found, key, many)
            b.store(found, at(b, scores, key))
            best.set(self._max(b, found, best.get()))

        b.comment("scores = K · q")
        self._groups(b, count, group)
        old = b.load(best_place, self.wide)
        new = self._max(b, across(b, self._max, best.get()), old)
        b.store(new, best_place)
        none = b.fcmp("oeq", new, -INFINITY)
        safe = b.select(none, 0.0, new)
        factor = const(self.wide, self.factor)
        shrunk = exp2(b, self.level, b.fmul(b.fsub(old, safe), factor))
        b.store(shrunk, state)
        total = b.slot(b.fmul(b.load(total_place, self.wide), shrunk), "total")

        def weigh(key: Value, many: int) -> None:
            place = at(b, scores, key)
            power = b.fmul(b.fsub(b.load(place, self.wide), safe), factor)
            weight = exp2(b, self.level, power, DEGREES[self.nest.query.dtype])
            b.store(weight, place)
            total.set(b.fadd(total.get(), weight))

        b.comment("weights = 2^((scores - maximum) · factor)")
        self._groups(b, count, weigh)
        b.store(total.get(), total_place)

    def _groups(self, b: Builder, count: Value, write: Callable[[Value, int], None]) -> None:
        """Keys in groups of as many as there are lanes; the last ones."""
        whole = b.binary("and", count, -self.lanes)
        with b.loop(0, whole, self.lanes, "key") as key:
            write(key, self.lanes)
        if self.keys % self.lanes:
            with b.when(b.icmp("slt", whole, count), "rest"):
                write(whole, self.keys % self.lanes)

    def _scores(self, b: Builder, keys: Value, query: list[Value], key: Value, many: int) -> Value:
        """The scores of `many` keys, -inf behind them."""
        operand = self.nest.key
        element, step = Type(memory_kind(operand.dtype)), operand.strides[2]
        place = b.gep(keys, element, times(b, key, step))
        products = []
        for k in range(self.lanes):
            total = const(self.wide, 0.0)
            if k < many:
                for vector, (first, width) in zip(query, self._chunks(self.width)):
                    row = load_row(
                        b, at(b, place, k * step + first, element), operand.dtype, self.lanes, width
                    )
                    total = b.fma(row, vector, total)
            products.append(total)
        found = lane_sums(b, products)
        if many == self.lanes:
            return found
        return b.select(first_lanes(self.lanes, many), found, -INFINITY)

    def _masked(self, b: Builder, mask: Value, scores: Value, key: Value, many: int) -> Value:
        operand = self.nest.mask
        if operand is None:
            return scores
        if self.added:
            scores = b.fmul(scores, abs(self.nest.scale))
        place = b.gep(mask, Type(memory_kind(operand.dtype)), times(b, key, operand.strides[3]))
        row = load_row(b, place, operand.dtype, self.lanes, many, operand.strides[3])
        return b.fadd(scores, row)

    def _max(self, b: Builder, value: Value, other: Value) -> Value:
        """The greater; `other` if value is NaN, whose weight is NaN anyway."""
        return b.select(b.fcmp("ogt", value, other), value, other)

    def _ask(self, b: Builder, base: Value, operand: Operand, key: Value, many: int) -> None:
        """Ask for the rows of `many` keys of an operand."""
        element = Type(memory_kind(operand.dtype))
        place = b.gep(base, element, times(b, key, operand.strides[2]))
        for k in range(many):
            row = at(b, place, k * operand.strides[2], element)
            for byte in range(0, operand.sizes[3] * max(element.bits // 8, 1), LINE):
                self._prefetch(b, at(b, row, byte, Type("i8")))

    def _prefetch(self, b: Builder, place: Value) -> None:
        """Into the second cache, to be read."""
        reading, locality, data = const(I32, 0), const(I32, 2), const(I32, 1)
        b.call_void("llvm.prefetch.p0", place, reading, locality, data)

    def _add(
        self,
        b: Builder,
        values: Value,
        weights: Value,
        records: Value,
        later: Value,
        row: Value,
        count: Value,
    ) -> None:
        """Weighted values are added to the sums of a batch of rows."""
        operand, chunks = self.nest.value, self._chunks(self.columns)
        element, step = Type(memory_kind(operand.dtype)), operand.strides[2]
        zero, batches = const(self.wide, 0.0), self.padded // self.batch
        sums = [[b.slot(zero, "sum") for _ in chunks] for _ in range(self.batch)]
        before = times(b, b.binary("udiv", row, self.batch), KEYS)
        with b.loop(0, count, 1, "k") as k:
            self._ask(b, later, self.nest.key, b.binary("udiv", b.add(before, k), batches), 1)
            place = b.gep(values, element, times(b, k, step))
            row_of = [
                load_row(b, at(b, place, first, element), operand.dtype, self.lanes, width)
                for first, width in chunks
            ]
            for i, slots in enumerate(sums):
                weight = b.splat(b.load(at(b, at(b, weights, i * KEYS), k), F32), self.lanes)
                for slot, vector in zip(slots, row_of):
                    slot.set(b.fma(weight, vector, slot.get()))
        for i, slots in enumerate(sums):
            record = at(b, records, i * self.record)
            shrunk = b.load(at(b, record, self.record - 3 * self.lanes), self.wide)
            for slot, (first, _) in zip(slots, chunks):
                place = at(b, record, first)
                b.store(b.fma(b.load(place, self.wide), shrunk, slot.get()), place)
