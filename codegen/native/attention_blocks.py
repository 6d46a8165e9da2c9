"""A panel of query rows against a block of keys, for attention_panels.py."""

from __future__ import annotations

from tracejit.codegen.native.attention_exp import DEGREES, exp2
from tracejit.codegen.native.attention_frame import INFINITY
from tracejit.codegen.native.attention_masks import Masks
from tracejit.codegen.native.attention_tiles import accumulate, at, times
from tracejit.codegen.native.builder import I64, Builder, Slot, Value, const

CHAIN, SHORT = 256, 128  # columns: longer sums are made of short ones, which is more exact


class Blocks(Masks):
    """Scores, weights and sums."""

    def _block(
        self,
        b: Builder,
        keys: Value,
        values: Value,
        mask: Value,
        packed: Value,
        scores: Value,
        sums: Value,
        state: Value,
        count: Value,
        first: Value,
        key: Value,
        hidden: Value,
    ) -> None:
        cut = self.cut
        best = [b.slot(const(self.wide, -INFINITY), "best") for _ in range(cut.vectors)]
        b.comment("scores = K · Qᵀ")
        self._scores(b, keys, packed, scores, count, best)
        if self.nest.mask is not None:
            b.comment("scores += mask")
            self._add_mask(b, mask, scores, count, first, key)
            self._best(b, scores, count, best)
        if self.nest.causal:
            with b.when(hidden, "hidden"):
                b.comment("keys behind a row's own are hidden")
                self._hide(b, scores, count, first, key)
                self._best(b, scores, count, best)
        b.comment("weights = 2^((scores - maximum) · factor)")
        shrunk = self._weights(b, scores, state, count, best)
        b.comment("sums = sums · shrunk + Vᵀ · weights")
        self._sums(b, values, scores, sums, count, shrunk)

    def _scores(
        self, b: Builder, keys: Value, packed: Value, scores: Value, count: Value, best: list[Slot]
    ) -> None:
        """scores = K · Qᵀ and the greatest of each lane."""
        cut, key = self.cut, self.nest.key
        step, column = (self.width, 1) if self._staged(key) else key.strides[2:]

        def tile(first: Value, rows: int) -> None:
            ours = at(b, keys, times(b, first, step)), step, column
            to = at(b, scores, times(b, first, cut.panel))
            if self.width <= CHAIN:
                for i, row in enumerate(self._products(b, ours, packed, self.width, rows)):
                    for v, value in enumerate(row):
                        b.store(value, at(b, to, i * cut.panel + v * cut.lanes), align=64)
                        best[v].set(self._max(b, value, best[v].get()))
                return
            self._chunks(
                b, self.width, SHORT, lambda c, n: self._more(b, ours, packed, to, c, n, rows)
            )

        whole = b.sub(count, b.binary("urem", count, cut.tile))
        with b.loop(0, whole, cut.tile, "key") as first:
            tile(first, cut.tile)
        rest = self.keys % cut.tile
        if rest:
            with b.when(b.icmp("slt", whole, count), "rest"):
                tile(whole, rest)
        if self.width > CHAIN and self.nest.mask is None:
            self._best(b, scores, count, best)

    def _products(
        self, b: Builder, ours: tuple[Value, int, int], packed: Value, depth: int, rows: int
    ) -> list[list[Value]]:
        """Products of a tile's keys with the queries, over `depth` columns."""
        start = [[const(self.wide, 0.0)] * self.cut.vectors] * rows
        return accumulate(b, start, ours, packed, depth)

    def _more(
        self,
        b: Builder,
        ours: tuple[Value, int, int],
        packed: Value,
        to: Value,
        first: Value,
        depth: int,
        rows: int,
    ) -> None:
        """Add a tile's products over some columns to its scores, which begin with the first."""
        cut, (keys, step, column) = self.cut, ours
        ours = at(b, keys, times(b, first, column)), step, column
        found = self._products(b, ours, at(b, packed, times(b, first, cut.panel)), depth, rows)
        some, zero = b.icmp("ne", first, 0), const(self.wide, 0.0)
        for i, row in enumerate(found):
            for v, value in enumerate(row):
                place = at(b, to, i * cut.panel + v * cut.lanes)
                old = b.select(some, b.load(place, self.wide), zero)
                b.store(b.fadd(old, value), place)

    def _weights(
        self, b: Builder, scores: Value, state: Value, count: Value, best: list[Slot]
    ) -> list[Value]:
        """Scores become weights under the new maxima; by what older weights shrink."""
        cut = self.cut
        factor = const(self.wide, self.factor)
        maxima, shrunk, totals = [], [], []
        for v, slot in enumerate(best):
            place = at(b, state, v * cut.lanes)
            old = b.load(place, self.wide)
            new = self._max(b, slot.get(), old)
            b.store(new, place)
            if self.nest.mask is not None:  # no key seen yet: all weights are 0
                none = b.fcmp("oeq", new, -INFINITY)
                new = b.select(none, 0.0, new)
            maxima.append(new)
            shrunk.append(exp2(b, self.level, b.fmul(b.fsub(old, new), factor)))
            totals.append(b.slot(const(self.wide, 0.0), "total"))
        self._weigh(b, scores, count, maxima, totals)
        for v, total in enumerate(totals):
            place = at(b, state, cut.panel + v * cut.lanes)
            b.store(b.fma(b.load(place, self.wide), shrunk[v], total.get()), place)
        return shrunk

    def _weigh(
        self, b: Builder, scores: Value, count: Value, maxima: list[Value], totals: list[Slot]
    ) -> None:
        """Scores become weights, which are added to the totals."""
        with b.loop(0, count, 1, "k") as k:
            for v, total in enumerate(totals):
                place = self._place(b, scores, k, v)
                power = self._power(b, b.load(place, self.wide), maxima[v])
                weight = self._weight(b, power)
                b.store(weight, place)
                total.set(b.fadd(total.get(), weight))

    def _weight(self, b: Builder, power: Value) -> Value:
        hidden = self.nest.causal or self.nest.mask is not None
        return exp2(b, self.level, power, DEGREES[self.nest.query.dtype], hidden)

    def _power(self, b: Builder, score: Value, most: Value) -> Value:
        """The power of 2 that a score's weight is."""
        factor = const(self.wide, self.factor)
        if self.added:  # a mask's numbers may be as large as numbers are
            return b.fmul(b.fsub(score, most), factor)
        return b.fma(score, factor, b.fneg(b.fmul(most, factor)))

    def _sums(
        self,
        b: Builder,
        values: Value,
        weights: Value,
        sums: Value,
        count: Value,
        shrunk: list[Value],
    ) -> None:
        """sums = sums · shrunk + Vᵀ · weights."""
        cut, value = self.cut, self.nest.value
        step, column = (self.columns, 1) if self._staged(value) else value.strides[2:]

        def tile(first: Value, rows: int) -> None:
            ours = at(b, sums, times(b, first, cut.panel))
            places = [
                [at(b, ours, i * cut.panel + v * cut.lanes) for v in range(cut.vectors)]
                for i in range(rows)
            ]
            start = [[const(self.wide, 0.0)] * cut.vectors] * rows
            left = (at(b, values, times(b, first, column)), column, step)
            for row, found in zip(places, accumulate(b, start, left, weights, count, self.unit)):
                for v, total in enumerate(found):
                    b.store(b.fma(b.load(row[v], self.wide), shrunk[v], total), row[v])

        whole = self.columns - self.columns % cut.tile
        with b.loop(0, whole, cut.tile, "column") as first:
            tile(first, cut.tile)
        if self.columns % cut.tile:
            tile(const(I64, whole), self.columns % cut.tile)
