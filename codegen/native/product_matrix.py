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
from functools import partial

from tracejit.codegen.native import matrix_unit as unit
from tracejit.codegen.native.builder import F32, I8, I16, I64, PTR, Builder, Value, const
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.matrix_pack import DEST, Axes, Packer
from tracejit.codegen.native.matrix_tiles import WIDTH, add_tile, turn
from tracejit.codegen.native.matrix_unit import DEPTH, SIDE
from tracejit.codegen.native.product_epilogue import add_epilogue
from tracejit.codegen.native.product_frame import Frame, InPlace, Side, even, make_side
from tracejit.codegen.native.rows import digits
from tracejit.fuse.index import Axis
from tracejit.fuse.product import Product, index_stride, plain_load
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
        self.factors = {"left": found[0], "right": found[1]}
        (self.inner,) = product.inner
        self.left = make_side(product, "left", WIDTH)
        self.right = make_side(product, "right", WIDTH)
        self.chunks = -(-self.inner.size // DEPTH)
        self.packer = Packer(frame, self.factors, self.inner, self.chunks)
        self.row = 2 * DEPTH * self.chunks  # bytes of a packed row
        near = max(NEAR // (WIDTH * self.row), 1)
        tasks = product.sizes[0] * (self.left.panels // self.left.along) * self.right.panels
        wanted = max(self.left.along * tasks // WANTED, REUSED)
        self.group = even(self.left.along, min(near, wanted))
        self.swapped = self._swapped()
        self.place = self._in_place(self.right if self.swapped else self.left)
        packed = self.left.batches * self.left.panels if self.swapped or not self.place else 0
        self.scratch = packed * WIDTH * self.row

    def __str__(self) -> str:
        packed = ", left packed" if self.scratch else ""
        turned = ", turned" if self.swapped else ""
        return f"tiles of the matrix unit, {self.group} of {WIDTH}×{WIDTH} a task{packed}{turned}"

    def _swapped(self) -> bool:
        """Whether factors change places: by the squares of 16×16 words that are turned."""
        if self._in_place(self.right) is None:
            return False
        batch, m, n, k = self.frame.product.sizes
        pairs = batch * -(-self.left.along // self.group) * n * k
        return pairs > (m * self.left.batches * k + 2 * batch * m * n)

    def _in_place(self, side: Side) -> InPlace | None:
        """How a factor's rows are read where they lie, if its tiles are whole."""
        load = plain_load(self.factors[side.name])
        if load is None or load.index.indirects() or self.inner.size % DEPTH:
            return None
        own = index_stride(load.index, side.axis)
        inner = index_stride(load.index, self.inner)
        if own is None or inner != 1 or side.axis.size % SIDE:
            return None
        return InPlace(load, own, inner)

    def write(self) -> list[Phase]:
        """Define the functions; the phases."""
        more = (DEST, Value("%batch", I64), Value("%panel", I64))
        paired = self.left if self.swapped else self.right
        self.pack = self.frame.function("pairs", more, lambda b: self.packer.pairs(b, paired))
        tasks = self.frame.product.sizes[0] * (self.left.panels // self.left.along)
        tasks *= -(-self.left.along // self.group) * self.right.panels
        flops = 2.0 * self.group * WIDTH * WIDTH * DEPTH * self.chunks
        ns = flops / FLOPS_NS + PACK_NS * WIDTH * DEPTH * self.chunks
        body = f"{self.frame.name}.tiles"
        phases = [self._packing()] if self.scratch else []
        attributes = {"unit": unit.attributes(self.frame.level), "plain": ""}
        self.ways = [self._range(way, given) for way, given in attributes.items()]
        add_body(self.frame.module, body, self._names, self._best_way)
        return [*phases, Phase(body, tasks, max(int(TASK_NS / ns), 1))]

    @property
    def _names(self) -> list[str]:
        return [*self.frame.buffers, *(["scratch"] if self.scratch else [])]

    # The left factor

    def _packing(self) -> Phase:
        """A task packs one left panel: in pairs, or row by row; beyond the last row that one
        repeats."""
        frame, left = self.frame, self.left

        def write(b: Builder, _: object, begin: Value, end: Value) -> None:
            panels, last = const(I64, left.panels), const(I64, left.axis.size - 1)
            with b.loop(begin, end, name="task") as task:
                number, panel = b.binary("udiv", task, panels), b.binary("urem", task, panels)
                if self.swapped:
                    self.pack(b, self._row(b, b.mul(task, WIDTH)), number, panel)
                    return
                batch = digits(b, number, left.batch)
                outer, start = left.place(b, panel)
                with b.loop(0, WIDTH, name="row") as row:
                    at = b.smin(b.add(start, row), last)
                    dest = self._row(b, b.add(b.mul(task, WIDTH), row))
                    self.packer.row(b, left, {**batch, **outer, left.axis: at}, dest)

        body = f"{frame.name}.pack"
        add_body(frame.module, body, self._names, write)
        ns = PACK_NS * WIDTH * DEPTH * self.chunks
        return Phase(body, left.batches * left.panels, max(int(TASK_NS / ns), 1))

    def _row(self, b: Builder, number: Value) -> Value:
        """Where a packed row of the left factor is."""
        return b.gep(SCRATCH, I8, b.mul(number, self.row))

    # Tasks

    def _best_way(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """The tasks, with the unit or without."""
        given = (*pointers[len(self.frame.buffers) :], begin, end)
        unit.either(b, *(partial(call, b, *given) for call in self.ways))

    def _range(self, way: str, attributes: str) -> Callable[..., None]:
        """Define the function of a way that does a range of tasks; what writes a call of it."""
        tile = add_tile(self.frame.module, way, attributes)
        sides, begin, end = (self.left, self.right), Value("%begin", I64), Value("%end", I64)
        self.finish = add_epilogue(self.frame, *sides, f"epilogue.{way}", attributes)

        def write(b: Builder) -> None:
            with unit.configured(b) if way == "unit" else nullcontext():
                self._tasks(b, tile, begin, end)

        more = [*([SCRATCH] if self.scratch else []), begin, end]
        return self.frame.function(way, more, write, attributes)

    def _tasks(self, b: Builder, tile: str, begin: Value, end: Value) -> None:
        frame, left, right = self.frame, self.left, self.right
        order = [
            Axis("batch", frame.product.sizes[0]),
            Axis("above", left.panels // left.along),
            Axis("group", -(-left.along // self.group)),
            Axis("right", right.panels),
        ]
        room = None if self.swapped else b.alloca(I16, WIDTH * DEPTH * self.chunks, name="room")
        sums = b.alloca(F32, WIDTH * WIDTH, name="sums")
        turned = b.alloca(F32, WIDTH * WIDTH, name="turned") if self.swapped else sums
        with b.loop(begin, end, name="task") as task:
            at = digits(b, task, order)
            batch, above, group, column = (at[axis] for axis in order)
            axes = digits(b, batch, frame.product.batch)
            if room is not None:
                self.pack(b, room, right.batch_at(b, axes), column)
            first = b.mul(group, self.group)
            stop = b.add(first, self.group)
            stop = b.smin(stop, left.along)
            base = b.mul(above, left.along)
            with b.loop(b.add(base, first), b.add(base, stop), name="left") as row:
                rows = self._count(b, left, row)
                many = self._count(b, right, column) if self.swapped else rows
                a = self._rows(b, column if self.swapped else row, axes)
                panel = self._packed(b, row, axes) if room is None else room
                b.call_void(tile, *a, panel, turned, const(I64, self.chunks), many)
                if self.swapped:
                    turn(b, turned, sums)
                self.finish(b, sums, batch, row, rows, column)

    def _count(self, b: Builder, side: Side, panel: Value) -> Value:
        """How many of a panel's rows (or columns) there are."""
        left = b.sub(side.axis.size, side.place(b, panel)[1])
        return b.smin(left, WIDTH)

    def _rows(self, b: Builder, panel: Value, axes: Axes) -> tuple[Value, Value]:
        """Where a panel of rows begins, and the bytes from row to row."""
        if self.place is None:
            return self._packed(b, panel, axes), const(I64, self.row)
        side = self.right if self.swapped else self.left
        outer, start = side.place(b, panel)
        here = {**axes, **outer, side.axis: start, self.inner: const(I64, 0)}
        return self.packer.address(b, self.place.load, here), const(I64, 2 * self.place.own_step)

    def _packed(self, b: Builder, panel: Value, axes: Axes) -> Value:
        """Where a packed left panel is."""
        number = b.mul(self.left.batch_at(b, axes), self.left.panels)
        return self._row(b, b.mul(b.add(number, panel), WIDTH))
