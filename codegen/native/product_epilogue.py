"""What follows a matrix product, evaluated on a tile of sums while it is in the nearest cache, and
stored: bias, activation, residual, whatever the nest says.
"""

from __future__ import annotations

from collections.abc import Callable

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.lanes import some_lanes
from tracejit.codegen.native.product_frame import Axes, Frame, Side
from tracejit.codegen.native.rows import digits
from tracejit.codegen.native.types import I64, PTR, Value

_TILE, _BATCH = Value("%tile", PTR), Value("%batch", I64)
_LEFT, _RIGHT = Value("%left", I64), Value("%right", I64)
_ROWS = Value("%rows", I64)


def add_epilogue(
    frame: Frame, left: Side, right: Side, name: str = "epilogue", attributes: str = ""
) -> Callable[..., None]:
    """Define the function that finishes a tile, `(buffers …, tile, batch, left panel, rows, right
    panel)`; what writes a call of it. The tile's rows are as long as a right panel is wide."""
    write = _Epilogue(frame, left, right).write
    return frame.function(name, (_TILE, _BATCH, _LEFT, _ROWS, _RIGHT), write, attributes)


class _Epilogue:
    def __init__(self, frame: Frame, left: Side, right: Side) -> None:
        self.frame, self.left, self.right = frame, left, right

    def write(self, b: Builder) -> None:
        batch, right = self.frame.product.batch, self.right
        shared = digits(b, _BATCH, batch) if batch else {}
        above, row = self.left.place(b, _LEFT)
        beside, column = right.place(b, _RIGHT)
        axes = {**shared, **above, **beside}
        if right.last == right.width:
            self._rows(b, axes, row, column, right.width)
            return
        inside = b.icmp("sle", column, right.axis.size - right.width)
        for whole in b.either(inside, "whole", "part"):
            self._rows(b, axes, row, column, right.width if whole else right.last)

    def _rows(self, b: Builder, axes: Axes, row: Value, column: Value, elements: int) -> None:
        frame, right = self.frame, self.right
        aligned = frame.lanes if right.width % frame.lanes == 0 else 1
        with b.loop(0, _ROWS, name="row") as i:
            line = b.gep(_TILE, frame.element, b.mul(i, right.width))
            here = {**axes, self.left.axis: b.add(row, i)}
            for q in range(0, elements, frame.lanes):
                mask = some_lanes(frame.lanes, elements - q)
                at = {**here, right.axis: b.add(column, q)}
                evaluator = frame.evaluator(b, at, right.axis, mask, aligned)
                sums = b.load(b.gep(line, frame.element, q), frame.wide)
                evaluator.known[frame.product.total.key] = sums
                for store in frame.nest.stores:
                    evaluator.store(store)
