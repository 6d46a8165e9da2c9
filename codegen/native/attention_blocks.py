"""A panel of query rows against a block of keys, for attention_panels.py: scores, what masks add to
them, weights and sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracejit.codegen.native.attention_exp import DEGREES, exp2
from tracejit.codegen.native.attention_frame import INFINITY, Frame
from tracejit.codegen.native.attention_tiles import accumulate, as_f32, greater, load_row, transpose
from tracejit.codegen.native.builder import Builder, Slot
from tracejit.codegen.native.lanes import iota
from tracejit.codegen.native.places import at, parts, plus, times
from tracejit.codegen.native.types import F32, I32, Type, Value, const
from tracejit.fuse.attention import Operand

CHAIN, SHORT = 256, 128  # columns: longer sums are made of short ones, which is more exact
ROWS = 4  # whose maxima are found side by side


@dataclass(frozen=True)
class Step:
    """Where a panel's and a block's parts lie; `count` keys from `key` on are seen by rows from
    `first` on, some of them `hidden` from some rows."""

    keys: Value
    values: Value
    mask: Value
    packed: Value
    scores: Value
    sums: Value
    state: Value
    count: Value
    first: Value
    key: Value
    hidden: Value


class Blocks(Frame):
    """Scores, weights and sums."""

    def _block(self, b: Builder, step: Step) -> None:
        best = [b.slot(const(self.wide, -INFINITY), "best") for _ in range(self.cut.vectors)]
        b.comment("scores = K · Qᵀ")
        self._scores(b, step, best)
        if self.nest.mask is not None:
            b.comment("scores += mask")
            self._add_mask(b, self.nest.mask, step)
            self._best(b, step, best)
        if self.nest.causal:
            with b.when(step.hidden, "hidden"):
                b.comment("keys behind a row's own are hidden")
                self._hide(b, step)
                self._best(b, step, best)
        b.comment("weights = 2^((scores - maximum) · factor)")
        shrunk = self._weights(b, step, best)
        b.comment("sums = sums · shrunk + Vᵀ · weights")
        self._sums(b, step, shrunk)

    # Scores

    def _scores(self, b: Builder, step: Step, best: list[Slot]) -> None:
        """scores = K · Qᵀ and the greatest of each lane."""
        cut, key = self.cut, self.nest.key
        apart, column = (self.width, 1) if self._staged(key) else key.strides[2:]
        for first, rows in parts(b, step.count, cut.tile, "key", self.keys % cut.tile):
            ours = at(b, step.keys, times(b, first, apart)), apart, column
            to = at(b, step.scores, times(b, first, cut.panel))
            if self.width > CHAIN:
                self._in_chains(b, ours, step.packed, to, rows)
                continue
            found = accumulate(b, rows, self._vectors, ours, step.packed, self.width)
            for place, v, value in self._each(b, to, found):
                b.store(value, place, align=64)
                best[v].set(greater(b, value, best[v].get()))
        if self.width > CHAIN and self.nest.mask is None:
            self._best(b, step, best)

    def _in_chains(
        self, b: Builder, left: tuple[Value, int, int], packed: Value, to: Value, rows: int
    ) -> None:
        """A tile's scores, products over some columns after the other."""
        keys, step, column = left
        for first, depth in parts(b, self.width, SHORT, "column"):
            ours = at(b, keys, times(b, first, column)), step, column
            panel = at(b, packed, times(b, first, self.cut.panel))
            found = accumulate(b, rows, self._vectors, ours, panel, depth)
            some = b.icmp("ne", first, 0)
            for place, _, value in self._each(b, to, found):
                old = b.select(some, b.load(place, self.wide), 0.0)
                b.store(b.fadd(old, value), place)

    @property
    def _vectors(self) -> list[Type]:
        """Those of a panel's row."""
        return [self.wide] * self.cut.vectors

    def _each(
        self, b: Builder, to: Value, tile: list[list[Value]]
    ) -> list[tuple[Value, int, Value]]:
        """The vectors of a tile: their places, which of their row, and themselves."""
        return [
            (at(b, to, i * self.cut.panel + v * self.lanes), v, value)
            for i, row in enumerate(tile)
            for v, value in enumerate(row)
        ]

    def _best(self, b: Builder, step: Step, best: list[Slot]) -> None:
        """The maxima of each lane; four rows at once, since each waits for the one before."""
        lowest = const(self.wide, -INFINITY)
        found = [[b.slot(lowest, "part") for _ in best] for _ in range(ROWS)]
        for k, many in parts(b, step.count, ROWS, "k", None if self.unit % ROWS else 0):
            for i, slots in enumerate(found[:many]):
                for v, slot in enumerate(slots):
                    place = at(b, self._place(b, step.scores, k, v), i * self.cut.panel)
                    slot.set(greater(b, b.load(place, self.wide), slot.get()))
        for v, slot in enumerate(best):
            slot.set(lowest)
            for slots in found:
                slot.set(greater(b, slots[v].get(), slot.get()))

    # Masks

    def _hide(self, b: Builder, step: Step) -> None:
        """-inf where a key comes after its row."""
        whole, rows = Type("i32", self.lanes), []
        for v in range(self.cut.vectors):
            start = b.cast("trunc", b.add(step.first, v * self.lanes), I32)
            row = b.add(b.splat(start, self.lanes), iota(whole))
            rows.append(b.binary("urem", row, self.rows) if self.stacked > 1 else row)
        with b.loop(0, step.count, 1, "k") as k:
            ours = b.splat(b.cast("trunc", b.add(step.key, k), I32), self.lanes)
            for v, row in enumerate(rows):
                place = self._place(b, step.scores, k, v)
                seen = b.icmp("sge", row, ours)
                b.store(b.select(seen, b.load(place, self.wide), -INFINITY), place)

    def _add_mask(self, b: Builder, mask: Operand, step: Step) -> None:
        """Add the mask to the scores, scaled if it is one of numbers."""
        cut, element = self.cut, self._element(mask)
        _, head, row, column = mask.strides
        ours = b.gep(step.mask, element, times(b, step.key, column))

        def add(place: Value, value: Value) -> None:
            score = self._scaled(b, b.load(place, self.wide))
            b.store(b.fadd(score, value), place)

        if row == 0 and (head == 0 or self.stacked == 1):  # the same for all rows
            with b.loop(0, step.count, 1, "k") as key:
                one = b.load(b.gep(ours, element, times(b, key, column)), element)
                value = b.splat(as_f32(b, one, mask.dtype), self.lanes)
                for v in range(cut.vectors):
                    add(self._place(b, step.scores, key, v), value)
            return
        with b.loop(0, cut.vectors, 1, "v") as vector:
            start = plus(b, (step.first, 1), (vector, self.lanes))
            to = at(b, step.scores, times(b, vector, self.lanes))
            rows = self._mask_rows if column == 1 else self._mask_gather
            for k, value in rows(b, mask, ours, step.count, start):
                add(at(b, to, times(b, k, cut.panel)), value)

    def _mask_rows(
        self, b: Builder, mask: Operand, base: Value, count: Value, start: Value
    ) -> Iterator[tuple[Value, Value]]:
        """Of each key what is added in all lanes: neighbours of each lane's row, transposed."""
        lanes, element = self.lanes, self._element(mask)
        square, turned = (b.alloca(F32, lanes * lanes, name=n) for n in ("square", "turned"))
        for first, many in parts(b, count, lanes, "key", self.keys % lanes):
            with b.loop(0, lanes, 1, "k") as k:
                row = self._row_address(b, mask, base, b.add(start, k))
                vector = load_row(b, b.gep(row, element, first), mask.dtype, lanes, many)
                b.store(vector, at(b, square, times(b, k, lanes)))
            transpose(b, lanes, square, lanes, turned, lanes)
            with b.loop(0, many, 1, "k") as k:
                yield b.add(first, k), b.load(at(b, turned, times(b, k, lanes)), self.wide)

    def _mask_gather(
        self, b: Builder, mask: Operand, base: Value, count: Value, start: Value
    ) -> Iterator[tuple[Value, Value]]:
        """The same: an element of each lane's row."""
        lanes, element = self.lanes, self._element(mask)
        pointers = Value("poison", Type("ptr", lanes))
        for k in range(lanes):
            pointers = b.insert(pointers, self._row_address(b, mask, base, b.add(start, k)), k)
        with b.loop(0, count, 1, "k") as key:
            offset = b.splat(times(b, key, mask.strides[3]), lanes)
            every, wide = const(Type("i1", lanes), 1), Type(element.kind, lanes)
            found = b.masked_load(b.gep(pointers, element, offset), wide, every)
            yield key, as_f32(b, found, mask.dtype)

    # Weights and sums

    def _weights(self, b: Builder, step: Step, best: list[Slot]) -> list[Value]:
        """Scores become weights under the new maxima; by what older weights shrink."""
        maxima, shrunk, totals = [], [], []
        for v, slot in enumerate(best):
            place = at(b, step.state, v * self.lanes)
            old = b.load(place, self.wide)
            new = greater(b, slot.get(), old)
            b.store(new, place)
            if self.nest.mask is not None:
                new = self._finite(b, new)
            maxima.append(new)
            shrunk.append(self._shrunk(b, old, new))
            totals.append(b.slot(const(self.wide, 0.0), "total"))
        self._weigh(b, step, maxima, totals)
        for v, total in enumerate(totals):
            place = at(b, step.state, self.cut.panel + v * self.lanes)
            b.store(b.fma(b.load(place, self.wide), shrunk[v], total.get()), place)
        return shrunk

    def _weigh(self, b: Builder, step: Step, maxima: list[Value], totals: list[Slot]) -> None:
        """Scores become weights, which are added to the totals."""
        with b.loop(0, step.count, 1, "k") as k:
            for v, total in enumerate(totals):
                place = self._place(b, step.scores, k, v)
                weight = self._weight(b, b.load(place, self.wide), maxima[v])
                b.store(weight, place)
                total.set(b.fadd(total.get(), weight))

    def _weight(self, b: Builder, score: Value, most: Value) -> Value:
        """The weight of a score under its row's maximum."""
        factor = const(self.wide, self.factor)
        if self.added:  # a mask's numbers may be as large as numbers are
            power = b.fmul(b.fsub(score, most), factor)
        else:
            power = b.fma(score, factor, b.fneg(b.fmul(most, factor)))
        hidden = self.nest.causal or self.nest.mask is not None
        return exp2(b, self.level, power, DEGREES[self.nest.query.dtype], hidden)

    def _sums(self, b: Builder, step: Step, shrunk: list[Value]) -> None:
        """sums = sums · shrunk + Vᵀ · weights."""
        cut, value = self.cut, self.nest.value
        apart, column = (self.columns, 1) if self._staged(value) else value.strides[2:]
        for first, rows in parts(b, self.columns, cut.tile, "column"):
            ours = at(b, step.sums, times(b, first, cut.panel))
            left = (at(b, step.values, times(b, first, column)), column, apart)
            found = accumulate(b, rows, self._vectors, left, step.scores, step.count, self.unit)
            for place, v, total in self._each(b, ours, found):
                b.store(b.fma(b.load(place, self.wide), shrunk[v], total), place)
