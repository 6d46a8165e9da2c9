"""Matrix products by tiles: the right factor packed into panels, and for each pair of panels a tile
of sums in registers, finished while it is in the nearest cache.

A task is a few right panels with a group of the left ones. It packs the right panels itself, a
block of k at a time, into memory that stays in its cache: what another core packed comes slower.
The left factor is read where it lies, or, if it is more than a load, packed before all tasks. Tasks
that follow each other share the group of left panels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.entry import Phase
from tracejit.codegen.native.microkernel import add_microkernel, tile_shape
from tracejit.codegen.native.product_epilogue import add_epilogue
from tracejit.codegen.native.product_frame import (
    PAGE,
    Axes,
    Frame,
    Groups,
    Side,
    even,
    in_place,
    make_side,
)
from tracejit.codegen.native.product_pack import add_packer
from tracejit.codegen.native.rows import digits, maybe
from tracejit.codegen.native.types import I1, I8, I64, PTR, Value, const

BLOCK = 384  # steps of k that are one chain of sums, at most
PANELS = 4  # right panels in a task, if k is more than one block
NEAR = 1 << 20  # bytes of the left factor that stay in the second cache
SUMS = 1 << 18  # bytes of tiles on a task's stack
REUSED = 24  # left panels that make up for packing a right one
WANTED = 16  # tasks that keep several threads evenly busy
TASK_NS, PACK_NS = 10_000, 20_000  # work that is worth a thread
FLOPS_NS = 100.0  # of a core, about
WASTE = 25  # parts of a side, one of which may be computed in vain
ALIGN = 64


Steps = tuple[int, int] | None  # of a factor that is read where it lies


def sides(frame: Frame) -> tuple[Side, Side]:
    """Both factors cut into panels for the level's tiles."""
    rows, columns = tile_shape(frame.level, frame.kind)
    product = frame.product
    m = product.rows[-1].size if product.rows else 1
    width = min(columns, _up(product.columns[-1].size, frame.lanes))
    return make_side(product, "left", even(m, rows)), make_side(product, "right", width)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def places(frame: Frame, left: Side, right: Side) -> tuple[Steps, Steps]:
    """How each factor is read where it lies; None for one that is packed."""
    a, b = (in_place(frame, side, frame.product.total.dtype) for side in (left, right))
    if a is not None and 1 not in a:
        a = None
    if b is None:
        return a, b
    own, inner = b
    # rows of a right panel are read as whole vectors, so nothing may be missing from the last
    whole = right.axis.size % frame.lanes == 0
    few = left.along <= (2 if inner * frame.item <= PAGE else 1)
    return a, b if own == 1 and whole and few else None


@dataclass(frozen=True)
class Cut:
    """How the loops are cut: `length` steps of the last summed axis in a block, `group` left panels
    and `panels` right ones in a task."""

    length: int
    group: int
    panels: int

    @staticmethod
    def of(frame: Frame, left: Side, right: Side, tile_ns: float) -> Cut:
        size = frame.product.inner[-1].size
        length = min(_up(even(size, BLOCK), frame.lanes), size)
        one = length == frame.depth
        others = frame.product.sizes[0] * (left.panels // left.along)
        panels = 1 if one else min(PANELS, max(others * right.panels // WANTED, 1))
        room = NEAR // (length * left.width * frame.item)
        if not one:
            room = min(room, SUMS // (panels * left.width * right.width * frame.item))
        tasks = others * right.panels // panels
        wanted = max(left.along * tasks // WANTED, REUSED, int(TASK_NS / tile_ns))
        return Cut(length, even(left.along, max(min(room, wanted), 1)), panels)


class Tiles:
    """Writes the phases of a product by tiles."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.left, self.right = sides(frame)
        self.left_steps, self.right_steps = places(frame, self.left, self.right)
        self.tile = self.left.width * self.right.width
        self.tile_ns = 2.0 * self.tile * frame.depth / FLOPS_NS + 50
        self.cut = Cut.of(frame, self.left, self.right, self.tile_ns)
        *self.outer, self.inner = frame.product.inner
        self.outers = frame.depth // self.inner.size  # places of all summed axes but the last
        self.left_size = _up(frame.item * frame.depth * self.left.width, ALIGN)
        packed = 0 if self.left_steps else self.left.batches * self.left.panels
        self.scratch = packed * self.left_size
        self.whole = frame.depth == self.cut.length  # one block of k is all

    def __str__(self) -> str:
        steps = {"left": self.left_steps, "right": self.right_steps}
        packed = [name for name, found in steps.items() if found is None]
        how = f", {' and '.join(packed)} packed" if packed else ""
        tiles = f"tiles of {self.left.width}×{self.right.width}"
        return f"{tiles}, {self.cut.group}×{self.cut.panels} a task{how}"

    def write(self) -> list[Phase]:
        """Define the functions; the phases."""
        self.finish = add_epilogue(self.frame, self.left, self.right)
        if self.right_steps is None:
            self.pack_right = add_packer(self.frame, self.right)
        phases = [self._packing()] if self.scratch else []
        cut = self.cut
        self.groups = Groups(self.frame.product, self.left, self.right, cut.group, cut.panels)
        grain = TASK_NS / (self.tile_ns * cut.group * cut.panels)
        tiling = self.frame.phase("tiles", self.groups.count, grain, self._tasks, self.scratch)
        return [*phases, tiling]

    # Packing the left factor

    def _packing(self) -> Phase:
        """A task packs one left panel."""
        pack = add_packer(self.frame, self.left)

        def write(b: Builder, _: object, begin: Value, end: Value) -> None:
            with b.loop(begin, end, name="task") as task:
                batch, panel = b.divmod(task, self.left.panels)
                with b.loop(0, self.outers, name="outer") as outer:
                    steps = b.mul(outer, self.inner.size * self.left.width)
                    dest = b.gep(self._left_panel(b, task), self.frame.element, steps)
                    size = const(I64, self.inner.size)
                    pack(b, dest, batch, panel, outer, const(I64, 0), size)

        tasks, grain = self.scratch // self.left_size, PACK_NS / (self.left_size / 8)
        return self.frame.phase("pack", tasks, grain, write, self.scratch)

    def _left_panel(self, b: Builder, number: Value) -> Value:
        """The address of a packed left panel."""
        return b.gep(Value("%scratch", PTR), I8, b.mul(number, self.left_size))

    # Tiles

    def _tasks(self, b: Builder, _: object, begin: Value, end: Value) -> None:
        cut, element = self.cut, self.frame.element
        self.sums = b.alloca(element, self.tile * (1 if self.whole else cut.group * cut.panels))
        if self.right_steps is None:
            self.room = b.alloca(element, cut.panels * cut.length * self.right.width, name="panel")
        with b.loop(begin, end, name="task") as number:
            task = _Task(self, b, number)
            with (
                b.loop(0, self.outers, name="outer") as outer,
                b.loop(0, self.inner.size, cut.length, str(self.inner)) as k,
            ):
                task.block(outer, k, b.smin(b.add(k, cut.length), self.inner.size))


class _Task:
    """One task: its group of left panels, its right panels."""

    def __init__(self, tiles: Tiles, b: Builder, task: Value) -> None:
        self.tiles, self.b, self.frame = tiles, b, tiles.frame
        self.batch, self.axes, self.lefts, self.rights = tiles.groups.of(b, task)

    def block(self, outer: Value, begin: Value, end: Value) -> None:
        """One block of k: pack the right panels, then all pairs of panels."""
        b, tiles = self.b, self.tiles
        if tiles.right_steps is None:
            batch = tiles.right.batch_at(b, self.axes)
            with b.loop(*self.rights, name="right") as right:
                tiles.pack_right(b, self._room(right), batch, right, outer, begin, end)
        with b.loop(*self.lefts, name="left") as left, b.loop(*self.rights, name="right") as right:
            tile = self._tile(left, right)
            self._kernels(left, right, outer, begin, end, tile)
            with maybe(b, self._is_last(outer, end), not tiles.whole):
                tiles.finish(b, tile, self.batch, left, tiles.left.count(b, left), right)

    def _is_last(self, outer: Value, end: Value) -> Value:
        """Whether a block is the last of k."""
        b, tiles = self.b, self.tiles
        last = b.icmp("eq", end, tiles.inner.size)
        return b.binary("and", last, b.icmp("eq", outer, tiles.outers - 1))

    def _room(self, right: Value) -> Value:
        """Where a right panel is packed."""
        b, size = self.b, self.tiles.cut.length * self.tiles.right.width
        return b.gep(self.tiles.room, self.frame.element, b.mul(b.sub(right, self.rights[0]), size))

    def _tile(self, left: Value, right: Value) -> Value:
        """Where the sums of a pair are."""
        b, tiles = self.b, self.tiles
        if tiles.whole:
            return tiles.sums
        row = b.mul(b.sub(left, self.lefts[0]), tiles.cut.panels)
        number = b.add(row, b.sub(right, self.rights[0]))
        return b.gep(tiles.sums, self.frame.element, b.mul(number, tiles.tile))

    def _kernels(
        self, left: Value, right: Value, outer: Value, begin: Value, end: Value, tile: Value
    ) -> None:
        """Multiply two blocks of panels into their tile."""
        b, tiles, frame = self.b, self.tiles, self.frame
        k = {**digits(b, outer, tiles.outer), tiles.inner: begin}
        given = (*self._left(left, outer, k), *self._right(right, k), tile, tiles.right.width)
        steps = b.sub(end, begin)
        more = const(I1, 0) if tiles.whole else b.icmp("ne", b.add(outer, begin), 0)
        for rows, columns, condition in self._shapes(left, right):
            with maybe(b, condition or more, condition is not None):
                name = add_microkernel(frame.module, frame.level, rows, columns, frame.kind)
                b.call_void(name, *given, steps, more)

    def _left(self, panel: Value, outer: Value, k: Axes) -> tuple[Value, int, int]:
        """Where a left panel's block begins, its steps along the rows and along k."""
        b, tiles, side = self.b, self.tiles, self.tiles.left
        if tiles.left_steps:
            return self._in_place(side, panel, k), *tiles.left_steps
        number = b.add(b.mul(side.batch_at(b, self.axes), side.panels), panel)
        step = b.add(b.mul(outer, tiles.inner.size), k[tiles.inner])
        begin = b.mul(step, side.width)
        return b.gep(tiles._left_panel(b, number), self.frame.element, begin), 1, side.width

    def _right(self, panel: Value, k: Axes) -> tuple[Value, int]:
        """Where a right panel's block begins, and its step along k."""
        tiles = self.tiles
        if tiles.right_steps is None:
            return self._room(panel), tiles.right.width
        return self._in_place(tiles.right, panel, k), tiles.right_steps[1]

    def _in_place(self, side: Side, panel: Value, k: Axes) -> Value:
        outer, start = side.place(self.b, panel)
        return self.frame.address(
            self.b, side.factor, {**self.axes, **outer, **k, side.axis: start}
        )

    def _shapes(self, left: Value, right: Value) -> Iterator[tuple[int, int, Value | None]]:
        """The shapes that tiles have, each with when it is (None: always). A part of a packed panel
        is computed as a whole one where that is little waste."""
        b, tiles, one, other = self.b, self.tiles, self.tiles.left, self.tiles.right
        columns = _up(other.last, self.frame.lanes)
        rows_of = self._cases(one, one.last, left, tiles.left_steps is not None)
        columns_of = self._cases(other, columns, right, tiles.right_steps is not None)
        for rows, row_test in rows_of:
            for width, column_test in columns_of:
                if row_test is None or column_test is None:
                    yield rows, width, row_test or column_test
                else:
                    yield rows, width, b.binary("and", row_test, column_test)

    def _cases(
        self, side: Side, last: int, panel: Value, exact: bool
    ) -> list[tuple[int, Value | None]]:
        """How much of a panel is computed, and when; `exact`: there is nothing behind the last
        one."""
        wasteful = (side.width - last) * WASTE > side.axis.size
        if last == side.width or not (wasteful or exact):
            return [(side.width, None)]
        start, b = side.place(self.b, panel)[1], self.b
        is_last = b.icmp("sgt", start, side.axis.size - side.width)
        return [(side.width, b.binary("xor", is_last, 1)), (last, is_last)]
