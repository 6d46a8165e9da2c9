"""Packs a factor of a matrix product into panels: element q of step p of k lies at p·width + q.

The factor may be any expression; it is evaluated here, once for an element. Vectors run along the
axis in which its loads are neighbours. If that is k, squares of lanes × lanes are transposed in
registers (builder.transposed).
"""

from __future__ import annotations

from collections.abc import Callable

from tracejit.codegen.native.builder import (
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
from tracejit.codegen.native.product_frame import Frame, Side
from tracejit.codegen.native.rows import digits
from tracejit.fuse.index import Axis
from tracejit.fuse.product import stride

_DEST = Value("%dest", PTR)
_BATCH, _PANEL, _OUTER, _BEGIN, _END = (
    Value(f"%{n}", I64) for n in ("batch", "panel", "outer", "begin", "end")
)


def add_packer(frame: Frame, side: Side) -> Callable[..., None]:
    """Define the function that packs a block of a panel, `(buffers …, dest, batch, panel, outer,
    begin, end)`: the last summed axis from begin to end (in whole vectors, or to its end), at place
    `outer` of the others. Gives what writes a call of it."""
    inner = frame.product.inner[-1]
    if stride(side.factor, side.axis) == 1 or stride(side.factor, inner) != 1:
        write = _Across(frame, side).write
    else:
        write = _Along(frame, side).write
    more = (_DEST, _BATCH, _PANEL, _OUTER, _BEGIN, _END)
    return frame.function(f"pack_{side.name}", more, write)


class _Packer:
    def __init__(self, frame: Frame, side: Side) -> None:
        self.frame, self.side = frame, side
        self.lanes, self.width = frame.lanes, side.width
        *self.outer, self.inner = frame.product.inner

    def begin(self, b: Builder) -> tuple[dict[Axis, Value], Value]:
        """The values of the axes that the whole block shares, and the panel's first element."""
        batch = digits(b, _BATCH, self.side.batch)
        outer, start = self.side.place(b, _PANEL)
        return {**batch, **outer, **digits(b, _OUTER, self.outer)}, start

    def put(self, b: Builder, value: Value, k: Value, q: Value | int, count: int) -> None:
        """Store `count` lanes of step k from element q on."""
        first = q if isinstance(q, Value) else const(I64, q)
        place = b.add(b.mul(b.sub(k, _BEGIN), self.width), first)
        address = b.gep(_DEST, self.frame.element, place)
        if count == self.lanes:
            b.store(value, address)
            return
        align = const(Type("i32"), value.type.bits // 8)
        mask = first_lanes(self.lanes, count)
        b.call_void(f"llvm.masked.store.{value.type.suffix}.p0", value, address, align, mask)


class _Across(_Packer):
    """Vectors along the factor's own axis: a step of k is a few vectors."""

    def write(self, b: Builder) -> None:
        shared, start = self.begin(b)
        reach = -(-self.width // self.lanes) * self.lanes
        size = self.side.axis.size
        if size % self.width == 0 and reach == self.width:
            self._steps(b, shared, start, masked=False)
            return
        inside = b.icmp("sle", start, size - reach)
        b.branch(inside, "whole", "part")
        b.label("whole")
        self._steps(b, shared, start, masked=False)
        b.jump("done")
        b.label("part")
        self._steps(b, shared, start, masked=True)
        b.jump("done")
        b.label("done")

    def _steps(self, b: Builder, shared: dict[Axis, Value], start: Value, masked: bool) -> None:
        frame, axis = self.frame, self.side.axis
        with b.loop(_BEGIN, _END, name=str(self.inner)) as k:
            for q in range(0, self.width, self.lanes):
                at = b.add(start, q)
                mask = self._mask(b, at) if masked else None
                aligned = self.lanes if self.width % self.lanes == 0 else 1
                here = frame.evaluator(b, {**shared, self.inner: k, axis: at}, axis, mask, aligned)
                value = here.wide(self.side.factor)
                self.put(b, value, k, q, min(self.lanes, self.width - q))

    def _mask(self, b: Builder, at: Value) -> Value:
        """The lanes from `at` on that are elements."""
        lane = iota(Type("i64", self.lanes))
        left = b.sub(self.side.axis.size, at)
        return b.icmp("slt", lane, b.splat(left, self.lanes))


class _Along(_Packer):
    """Vectors along k: as many elements as lanes, transposed. The last element repeats."""

    def write(self, b: Builder) -> None:
        shared, start = self.begin(b)
        size = self.inner.size
        whole = size // self.lanes * self.lanes
        if whole:
            stop = b.smin(_END, whole)
            with b.loop(_BEGIN, stop, self.lanes, str(self.inner)) as k:
                self._squares(b, {**shared, self.inner: k}, start, self.lanes)
        if size > whole:
            with b.when(b.icmp("eq", _END, size)):
                rest = {**shared, self.inner: const(I64, whole)}
                self._squares(b, rest, start, size - whole)

    def _squares(self, b: Builder, axes: dict[Axis, Value], start: Value, steps: int) -> None:
        """`steps` steps of k of the whole panel."""
        whole = self.width // self.lanes * self.lanes
        if whole:
            with b.loop(0, whole, self.lanes, "q") as q:
                self._square(b, axes, start, q, self.lanes, steps)
        if self.width > whole:
            left = self.width - whole
            self._square(b, axes, start, const(I64, whole), left, steps)

    def _square(
        self, b: Builder, axes: dict[Axis, Value], start: Value, q: Value, count: int, steps: int
    ) -> None:
        frame, inner = self.frame, self.inner
        mask = some_lanes(self.lanes, steps)
        last = const(I64, self.side.axis.size - 1)
        rows = []
        for k in range(count):
            at = b.add(b.add(start, q), k)
            at = b.smin(at, last)
            here = frame.evaluator(b, {**axes, self.side.axis: at}, inner, mask)
            rows.append(here.wide(self.side.factor))
        rows += [Value("poison", frame.wide)] * (self.lanes - count)
        for k, column in enumerate(transposed(b, rows)[:steps]):
            self.put(b, column, b.add(axes[inner], k), q, count)
