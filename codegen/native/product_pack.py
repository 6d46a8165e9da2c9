"""Packs a factor of a matrix product into panels: element q of step p of k lies at p·width + q.

The factor may be any expression; it is evaluated here, once for an element. Vectors run along the
axis in which its loads are neighbours. If that is k, squares of lanes × lanes are transposed in
registers (builder.transposed).
"""

from __future__ import annotations

from collections.abc import Callable

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.lanes import lanes_before, some_lanes, transposed
from tracejit.codegen.native.places import parts
from tracejit.codegen.native.product_frame import Axes, Frame, Side
from tracejit.codegen.native.rows import digits
from tracejit.codegen.native.types import I64, PTR, Value, const, named
from tracejit.fuse.product import stride

_DEST = Value("%dest", PTR)
_BATCH, _PANEL, _OUTER, _BEGIN, _END = named(I64, "batch panel outer begin end")


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

    def begin(self, b: Builder) -> tuple[Axes, Value]:
        """The values of the axes that the whole block shares, and the panel's first element."""
        batch = digits(b, _BATCH, self.side.batch)
        outer, start = self.side.place(b, _PANEL)
        return {**batch, **outer, **digits(b, _OUTER, self.outer)}, start

    def put(self, b: Builder, value: Value, k: Value, q: Value | int, count: int) -> None:
        """Store `count` lanes of step k from element q on."""
        place = b.add(b.mul(b.sub(k, _BEGIN), self.width), q)
        address = b.gep(_DEST, self.frame.element, place)
        b.masked_store(value, address, some_lanes(self.lanes, count))


class _Across(_Packer):
    """Vectors along the factor's own axis: a step of k is a few vectors."""

    def write(self, b: Builder) -> None:
        shared, start = self.begin(b)
        reach = -(-self.width // self.lanes) * self.lanes
        size = self.side.axis.size
        if size % self.width == 0 and reach == self.width:
            self._steps(b, shared, start, masked=False)
            return
        for whole in b.either(b.icmp("sle", start, size - reach), "whole", "part"):
            self._steps(b, shared, start, masked=not whole)

    def _steps(self, b: Builder, shared: Axes, start: Value, masked: bool) -> None:
        frame, axis, lanes = self.frame, self.side.axis, self.lanes
        aligned = lanes if self.width % lanes == 0 else 1
        with b.loop(_BEGIN, _END, name=str(self.inner)) as k:
            for q in range(0, self.width, lanes):
                at = b.add(start, q)
                mask = lanes_before(b, lanes, axis.size, at) if masked else None
                here = frame.evaluator(b, {**shared, self.inner: k, axis: at}, axis, mask, aligned)
                value = here.wide(self.side.factor)
                self.put(b, value, k, q, min(lanes, self.width - q))


class _Along(_Packer):
    """Vectors along k: as many elements as lanes, transposed. The last element repeats."""

    def write(self, b: Builder) -> None:
        shared, start = self.begin(b)
        size = self.inner.size
        whole = size // self.lanes * self.lanes
        if whole:
            with b.loop(_BEGIN, b.smin(_END, whole), self.lanes, str(self.inner)) as k:
                self._squares(b, {**shared, self.inner: k}, start, self.lanes)
        if size > whole:
            with b.when(b.icmp("eq", _END, size)):
                rest = {**shared, self.inner: const(I64, whole)}
                self._squares(b, rest, start, size - whole)

    def _squares(self, b: Builder, axes: Axes, start: Value, steps: int) -> None:
        """`steps` steps of k of the whole panel."""
        frame, inner, own = self.frame, self.inner, self.side.axis
        mask = some_lanes(self.lanes, steps)
        for q, count in parts(b, self.width, self.lanes, "q"):
            rows = []
            for k in range(count):
                at = b.smin(b.add(b.add(start, q), k), own.size - 1)
                here = frame.evaluator(b, {**axes, own: at}, inner, mask)
                rows.append(here.wide(self.side.factor))
            rows += [Value("poison", frame.wide)] * (self.lanes - count)
            for k, column in enumerate(transposed(b, rows)[:steps]):
                self.put(b, column, b.add(axes[inner], k), q, count)
