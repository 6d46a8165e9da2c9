"""Products of bf16 with the matrix unit (matrix_unit.py).

Tiles are 32×32: of the left factor, rows as they lie in memory, or packed before all tasks; of the
right one, panels of 32 columns that a task packs for itself, pairs of k side by side; for each pair
of panels a tile of f32 sums, finished while it is in the nearest cache. Where that is less work,
factors change places: the right one is read where it lies, the left one is packed in pairs, before
all tasks, and tiles of sums are turned. Without a matrix unit the same tiles are multiplied on
vectors of f32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from tracejit.codegen.native import matrix_unit as unit
from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.entry import Phase
from tracejit.codegen.native.matrix_pack import DEST, Packer
from tracejit.codegen.native.matrix_tiles import WIDTH, add_tile, turn
from tracejit.codegen.native.matrix_unit import DEPTH, SIDE
from tracejit.codegen.native.product_epilogue import add_epilogue
from tracejit.codegen.native.product_frame import (
    Axes,
    Frame,
    Groups,
    Side,
    even,
    in_place,
    make_side,
)
from tracejit.codegen.native.rows import digits
from tracejit.codegen.native.types import F32, I8, I16, I64, PTR, Value, const, named
from tracejit.fuse.product import Product
from tracejit.fuse.scalar import Scalar
from tracejit.runtime.cpu import Level

LEAST = 4  # rows from which it is worth packing the other factor
DEEPEST = 8192  # steps of k, whose panel is on the task's stack
NEAR = 1 << 20  # bytes of the left factor that stay in the second cache
REUSED = 8  # left panels that make up for packing a right one
WANTED = 16  # tasks that keep several threads evenly busy
FLOPS_NS = 500.0  # of a core, about
PACK_NS = 0.15  # of an element that is put in its place
TASK_NS = 10_000  # work that is worth a thread
SCRATCH = Value("%scratch", PTR)


def halves(product: Product) -> tuple[Scalar, Scalar] | None:
    """Both factors as bf16; None if one is not."""
    found = [f.args[0] for f in (product.left, product.right) if f.op == "cast"]
    if len(found) < 2 or any(f.dtype != "bf16" for f in found):
        return None
    return found[0], found[1]


def suits(product: Product, level: Level) -> bool:
    """Whether a product is done this way."""
    rows = product.rows[-1].size if product.rows else 1
    return (
        unit.may_have(level)
        and halves(product) is not None
        and len(product.inner) == 1
        and rows >= LEAST
        and product.inner[0].size <= DEEPEST
        and bool(product.columns)
    )


class Matrix:
    """Writes the phases of such a product."""

    def __init__(self, frame: Frame) -> None:
        self.frame, product = frame, frame.product
        found = halves(product)
        assert found is not None
        (self.inner,) = product.inner
        self.left = left = make_side(product, "left", WIDTH, found[0])
        self.right = right = make_side(product, "right", WIDTH, found[1])
        self.chunks = -(-self.inner.size // DEPTH)
        self.packer = Packer(frame, self.inner, self.chunks)
        self.row = 2 * DEPTH * self.chunks  # bytes of a packed row
        self.pack_ns = PACK_NS * WIDTH * DEPTH * self.chunks  # of a panel
        near = max(NEAR // (WIDTH * self.row), 1)
        tasks = product.sizes[0] * (left.panels // left.along) * right.panels
        wanted = max(left.along * tasks // WANTED, REUSED)
        self.groups = Groups(product, left, right, even(left.along, min(near, wanted)))
        self.swapped = self._swapped()
        self.rows = right if self.swapped else left  # whose rows are multiplied with pairs
        self.step = self._in_place(self.rows)
        packed = left.batches * left.panels if self.swapped or self.step is None else 0
        self.scratch = packed * WIDTH * self.row

    def __str__(self) -> str:
        packed = ", left packed" if self.scratch else ""
        turned = ", turned" if self.swapped else ""
        size = f"{self.groups.group} of {WIDTH}×{WIDTH}"
        return f"tiles of the matrix unit, {size} a task{packed}{turned}"

    def _swapped(self) -> bool:
        """Whether factors change places: by the squares of 16×16 words that are turned."""
        if self._in_place(self.right) is None:
            return False
        batch, m, n, k = self.frame.product.sizes
        pairs = batch * -(-self.left.along // self.groups.group) * n * k
        return pairs > (m * self.left.batches * k + 2 * batch * m * n)

    def _in_place(self, side: Side) -> int | None:
        """How far a factor's rows lie apart that are read where they lie, if its tiles are
        whole."""
        own, inner = in_place(self.frame, side, "bf16") or (0, 0)
        whole = self.inner.size % DEPTH == 0 and side.axis.size % SIDE == 0
        return own if inner == 1 and whole else None

    def write(self) -> list[Phase]:
        """Define the functions; the phases."""
        frame, paired = self.frame, self.left if self.swapped else self.right
        more = [DEST, *named(I64, "batch panel")]
        self.pack = frame.function("pairs", more, lambda b: self.packer.pairs(b, paired))
        ns = 2.0 * self.groups.group * WIDTH * WIDTH * DEPTH * self.chunks / FLOPS_NS
        phases = [self._packing()] if self.scratch else []
        ways = self._range("unit", unit.attributes(frame.level)), self._range("plain", "")

        def best_way(b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
            for some in b.either(unit.available(b), "unit", "plain"):
                ways[not some](b, *pointers[len(frame.buffers) :], begin, end)

        grain = TASK_NS / (ns + self.pack_ns)
        return [*phases, frame.phase("tiles", self.groups.count, grain, best_way, self.scratch)]

    # The left factor

    def _packing(self) -> Phase:
        """A task packs one left panel: in pairs, or row by row; beyond the last row that one
        repeats."""
        left = self.left

        def write(b: Builder, _: object, begin: Value, end: Value) -> None:
            with b.loop(begin, end, name="task") as task:
                number, panel = b.divmod(task, left.panels)
                if self.swapped:
                    self.pack(b, self._row(b, b.mul(task, WIDTH)), number, panel)
                    return
                batch = digits(b, number, left.batch)
                outer, start = left.place(b, panel)
                with b.loop(0, WIDTH, name="row") as row:
                    at = b.smin(b.add(start, row), left.axis.size - 1)
                    dest = self._row(b, b.add(b.mul(task, WIDTH), row))
                    self.packer.row(b, left, {**batch, **outer, left.axis: at}, dest)

        tasks = left.batches * left.panels
        return self.frame.phase("pack", tasks, TASK_NS / self.pack_ns, write, self.scratch)

    def _row(self, b: Builder, number: Value) -> Value:
        """Where a packed row of the left factor is."""
        return b.gep(SCRATCH, I8, b.mul(number, self.row))

    # Tasks

    def _range(self, way: str, attributes: str) -> Callable[..., None]:
        """Define the function of a way that does a range of tasks; what writes a call of it."""
        tile = add_tile(self.frame.module, way, attributes)
        begin, end = named(I64, "begin end")
        name = f"epilogue.{way}"
        self.finish = add_epilogue(self.frame, self.left, self.right, name, attributes)

        def write(b: Builder) -> None:
            with unit.configured(b) if way == "unit" else nullcontext():
                self._tasks(b, tile, begin, end)

        more = [*([SCRATCH] if self.scratch else []), begin, end]
        return self.frame.function(way, more, write, attributes)

    def _tasks(self, b: Builder, tile: str, begin: Value, end: Value) -> None:
        left, right = self.left, self.right
        room = None if self.swapped else b.alloca(I16, WIDTH * DEPTH * self.chunks, name="room")
        sums = b.alloca(F32, WIDTH * WIDTH, name="sums")
        turned = b.alloca(F32, WIDTH * WIDTH, name="turned") if self.swapped else sums
        with b.loop(begin, end, name="task") as task:
            batch, axes, lefts, (column, _) = self.groups.of(b, task)
            if room is not None:
                self.pack(b, room, right.batch_at(b, axes), column)
            with b.loop(*lefts, name="left") as row:
                rows = left.count(b, row)
                many = right.count(b, column) if self.swapped else rows
                a = self._rows(b, column if self.swapped else row, axes)
                panel = self._packed(b, row, axes) if room is None else room
                b.call_void(tile, *a, panel, turned, self.chunks, many)
                if self.swapped:
                    turn(b, turned, sums)
                self.finish(b, sums, batch, row, rows, column)

    def _rows(self, b: Builder, panel: Value, axes: Axes) -> tuple[Value, int]:
        """Where a panel of rows begins, and the bytes from row to row."""
        if self.step is None:
            return self._packed(b, panel, axes), self.row
        side = self.rows
        outer, start = side.place(b, panel)
        here = {**axes, **outer, side.axis: start, self.inner: const(I64, 0)}
        return self.frame.address(b, side.factor, here), 2 * self.step

    def _packed(self, b: Builder, panel: Value, axes: Axes) -> Value:
        """Where a packed left panel is."""
        number = b.mul(self.left.batch_at(b, axes), self.left.panels)
        return self._row(b, b.mul(b.add(number, panel), WIDTH))
