"""Masks of attention kernels: added to the scores of a panel of query rows and a block of keys."""

from __future__ import annotations

from collections.abc import Callable

from tracejit.codegen.native.attention_frame import INFINITY, Frame
from tracejit.codegen.native.attention_tiles import (
    as_f32,
    at,
    gather,
    load_row,
    plus,
    times,
    transpose,
)
from tracejit.codegen.native.builder import F32, Builder, Slot, Type, Value, const, iota

ROWS = 4  # whose maxima are found side by side


class Masks(Frame):
    """Frame with masks."""

    def _best(self, b: Builder, scores: Value, count: Value, best: list[Slot]) -> None:
        """The maxima of each lane; four rows at once, since each waits for the one before."""
        lowest = const(self.wide, -INFINITY)
        parts = [[b.slot(lowest, "part") for _ in best] for _ in range(ROWS)]

        def rows(k: Value, many: int) -> None:
            for i, slots in enumerate(parts[:many]):
                for v, slot in enumerate(slots):
                    place = at(b, self._place(b, scores, k, v), i * self.cut.panel)
                    slot.set(self._max(b, b.load(place, self.wide), slot.get()))

        whole = b.binary("and", count, -ROWS)
        with b.loop(0, whole, ROWS, "k") as k:
            rows(k, ROWS)
        if self.unit % ROWS:
            with b.loop(whole, count, 1, "k") as k:
                rows(k, 1)
        for v, slot in enumerate(best):
            slot.set(lowest)
            for slots in parts:
                slot.set(self._max(b, slots[v].get(), slot.get()))

    def _hide(self, b: Builder, scores: Value, count: Value, first: Value, key: Value) -> None:
        """-inf where a key comes after its row."""
        cut = self.cut
        whole = Type("i32", cut.lanes)
        rows = []
        for v in range(cut.vectors):
            start = b.cast("trunc", b.add(first, v * cut.lanes), Type("i32"))
            row = b.add(b.splat(start, cut.lanes), iota(whole))
            rows.append(b.binary("urem", row, self.rows) if cut.stacked > 1 else row)
        with b.loop(0, count, 1, "k") as k:
            ours = b.splat(b.cast("trunc", b.add(key, k), Type("i32")), cut.lanes)
            for v, row in enumerate(rows):
                place = self._place(b, scores, k, v)
                seen = b.icmp("sge", row, ours)
                value = b.select(seen, b.load(place, self.wide), -INFINITY)
                b.store(value, place)

    def _add_mask(
        self, b: Builder, mask: Value, scores: Value, count: Value, first: Value, key: Value
    ) -> None:
        """Add the mask to the scores, scaled if it is one of numbers."""
        operand, cut = self.nest.mask, self.cut
        assert operand is not None
        _, head, row, column = operand.strides

        def add(place: Value, value: Value) -> None:
            score = b.load(place, self.wide)
            if self.added:
                score = b.fmul(score, abs(self.nest.scale))
            b.store(b.fadd(score, value), place)

        element = self._element(operand)
        ours = b.gep(mask, element, times(b, key, column))
        if row == 0 and (head == 0 or cut.stacked == 1):  # the same for all rows
            with b.loop(0, count, 1, "k") as key:
                one = b.load(b.gep(ours, element, times(b, key, column)), element)
                value = b.splat(as_f32(b, one, operand.dtype), cut.lanes)
                for v in range(cut.vectors):
                    add(self._place(b, scores, key, v), value)
            return
        with b.loop(0, cut.vectors, 1, "v") as vector:
            start = plus(b, (first, 1), (vector, cut.lanes))
            to = at(b, scores, times(b, vector, cut.lanes))
            rows = self._mask_rows if column == 1 else self._mask_gather
            rows(b, ours, count, start, lambda k, x: add(at(b, to, times(b, k, cut.panel)), x))

    def _mask_rows(
        self,
        b: Builder,
        mask: Value,
        count: Value,
        start: Value,
        add: Callable[[Value, Value], None],
    ) -> None:
        """Neighbours of each lane's row, transposed."""
        operand = self.nest.mask
        assert operand is not None
        lanes, element = self.cut.lanes, self._element(operand)
        square, turned = (b.alloca(F32, lanes * lanes, name=n) for n in ("square", "turned"))

        def chunk(first: Value, many: int) -> None:
            with b.loop(0, lanes, 1, "k") as k:
                row = self._row_address(b, operand, mask, b.add(start, k))
                vector = load_row(b, b.gep(row, element, first), operand.dtype, lanes, many)
                b.store(vector, at(b, square, times(b, k, lanes)))
            transpose(b, lanes, square, lanes, turned, lanes)
            with b.loop(0, many, 1, "k") as k:
                add(b.add(first, k), b.load(at(b, turned, times(b, k, lanes)), self.wide))

        whole = b.binary("and", count, -lanes)
        with b.loop(0, whole, lanes, "key") as first:
            chunk(first, lanes)
        if self.keys % lanes:
            with b.when(b.icmp("slt", whole, count), "rest"):
                chunk(whole, self.keys % lanes)

    def _mask_gather(
        self,
        b: Builder,
        mask: Value,
        count: Value,
        start: Value,
        add: Callable[[Value, Value], None],
    ) -> None:
        """An element of each lane's row."""
        operand = self.nest.mask
        assert operand is not None
        lanes, element = self.cut.lanes, self._element(operand)
        pointers = Value("poison", Type("ptr", lanes))
        for k in range(lanes):
            row = self._row_address(b, operand, mask, b.add(start, k))
            pointers = b.insert(pointers, row, k)
        with b.loop(0, count, 1, "k") as key:
            offset = b.splat(times(b, key, operand.strides[3]), lanes)
            present = const(Type("i1", lanes), 1)
            found = gather(b, b.gep(pointers, element, offset), element, present)
            add(key, as_f32(b, found, operand.dtype))
