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

from tracejit.codegen.native.builder import I1, I8, I64, PTR, Builder, Value, const
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.microkernel import add_microkernel, tile_shape
from tracejit.codegen.native.product_epilogue import add_epilogue
from tracejit.codegen.native.product_frame import (
    PAGE,
    Frame,
    InPlace,
    Side,
    even,
    in_place,
    make_side,
)
from tracejit.codegen.native.product_pack import add_packer
from tracejit.codegen.native.rows import digits, maybe
from tracejit.fuse.index import Axis

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


def sides(frame: Frame) -> tuple[Side, Side]:
    """Both factors cut into panels for the level's tiles."""
    rows, columns = tile_shape(frame.level, frame.kind)
    product = frame.product
    m = product.rows[-1].size if product.rows else 1
    width = min(columns, _up(product.columns[-1].size, frame.lanes))
    return make_side(product, "left", even(m, rows)), make_side(product, "right", width)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def places(frame: Frame, left: Side, right: Side) -> tuple[InPlace | None, InPlace | None]:
    """How each factor is read where it lies; None for one that is packed."""
    a, b = in_place(frame, left), in_place(frame, right)
    if a is not None and 1 not in (a.own_step, a.inner_step):
        a = None
    # rows of a right panel are read as whole vectors, so nothing may be missing from the last
    whole = right.axis.size % frame.lanes == 0
    few = left.along == 1
    if b is not None and b.inner_step * frame.element.bits // 8 <= PAGE:
        few = left.along <= 2
    if b is not None and (b.own_step != 1 or not whole or not few):
        b = None
    return a, b


@dataclass(frozen=True)
class Cut:
    """How the loops are cut: `length` steps of the last summed axis in a block, `blocks` of them at
    each place of the other summed axes; left panels in a group, right ones in a task."""

    length: int
    blocks: int
    group: int
    panels: int

    @staticmethod
    def of(frame: Frame, left: Side, right: Side, tile_ns: float) -> Cut:
        size = frame.product.inner[-1].size
        length = min(_up(even(size, BLOCK), frame.lanes), size)
        blocks = -(-size // length)
        one = length == frame.depth
        others = frame.product.sizes[0] * (left.panels // left.along)
        panels = 1 if one else min(PANELS, max(others * right.panels // WANTED, 1))
        item = frame.element.bits // 8
        room = NEAR // (length * left.width * item)
        if not one:
            room = min(room, SUMS // (panels * left.width * right.width * item))
        tasks = others * right.panels // panels
        wanted = max(left.along * tasks // WANTED, REUSED, int(TASK_NS / tile_ns))
        return Cut(length, blocks, even(left.along, max(min(room, wanted), 1)), panels)


class Tiles:
    """Writes the phases of a product by tiles."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.left, self.right = sides(frame)
        self.left_place, self.right_place = places(frame, self.left, self.right)
        flops = 2.0 * self.left.width * self.right.width * frame.depth
        self.tile_ns = flops / FLOPS_NS + 50
        self.cut = Cut.of(frame, self.left, self.right, self.tile_ns)
        *self.outer, self.inner = frame.product.inner
        self.item = frame.element.bits // 8
        self.left_size = _up(self.item * frame.depth * self.left.width, ALIGN)
        packed = 0 if self.left_place else self.left.batches * self.left.panels
        self.scratch = packed * self.left_size
        self.whole = frame.depth == self.cut.length  # one block of k is all

    def __str__(self) -> str:
        places = {"left": self.left_place, "right": self.right_place}
        packed = [name for name, place in places.items() if place is None]
        how = f", {' and '.join(packed)} packed" if packed else ""
        tiles = f"tiles of {self.left.width}×{self.right.width}"
        return f"{tiles}, {self.cut.group}×{self.cut.panels} a task{how}"

    def write(self) -> list[Phase]:
        """Define the functions; the phases."""
        self.finish = add_epilogue(self.frame, self.left, self.right)
        if self.right_place is None:
            self.pack_right = add_packer(self.frame, self.right)
        phases = [self._packing()] if self.scratch else []
        return [*phases, self._tiling()]

    @property
    def _names(self) -> list[str]:
        return [*self.frame.buffers, *(["scratch"] if self.scratch else [])]

    # Packing the left factor

    def _packing(self) -> Phase:
        """A task packs one left panel."""
        pack = add_packer(self.frame, self.left)

        def write(b: Builder, _: object, begin: Value, end: Value) -> None:
            panels = const(I64, self.left.panels)
            zero, size = const(I64, 0), const(I64, self.inner.size)
            with b.loop(begin, end, name="task") as task:
                batch, panel = b.binary("udiv", task, panels), b.binary("urem", task, panels)
                with b.loop(zero, self._outers, name="outer") as outer:
                    steps = b.mul(outer, self.inner.size * self.left.width)
                    dest = b.gep(self._left_panel(b, task), self.frame.element, steps)
                    pack(b, dest, batch, panel, outer, zero, size)

        body = f"{self.frame.name}.pack"
        add_body(self.frame.module, body, self._names, write)
        tasks = self.scratch // self.left_size
        return Phase(body, tasks, max(int(PACK_NS / (self.left_size / 8)), 1))

    @property
    def _outers(self) -> int:
        """Places of all summed axes but the last."""
        return self.frame.depth // self.inner.size

    def _left_panel(self, b: Builder, number: Value) -> Value:
        """The address of a packed left panel."""
        return b.gep(Value("%scratch", PTR), I8, b.mul(number, self.left_size))

    # Tiles

    def _tiling(self) -> Phase:
        frame, left, cut = self.frame, self.left, self.cut
        self.order = [
            Axis("batch", frame.product.sizes[0]),
            Axis("above", left.panels // left.along),
            Axis("group", -(-left.along // cut.group)),
            Axis("right", -(-self.right.panels // cut.panels)),
        ]
        body = f"{frame.name}.tiles"
        add_body(frame.module, body, self._names, self._tasks)
        tasks = 1
        for axis in self.order:
            tasks *= axis.size
        grain = max(int(TASK_NS / (self.tile_ns * cut.group * cut.panels)), 1)
        return Phase(body, tasks, grain)

    def _tasks(self, b: Builder, _: object, begin: Value, end: Value) -> None:
        cut, element = self.cut, self.frame.element
        tile = self.left.width * self.right.width
        self.tiles = b.alloca(element, tile * (1 if self.whole else cut.group * cut.panels))
        if self.right_place is None:
            self.room = b.alloca(element, cut.panels * cut.length * self.right.width, name="panel")
        with b.loop(begin, end, name="task") as task:
            self.task = _Task(self, b, digits(b, task, self.order))
            with b.loop(0, self._outers, name="outer") as outer:
                size = const(I64, self.inner.size)
                with b.loop(0, size, cut.length, str(self.inner)) as k:
                    stop = b.smin(b.add(k, cut.length), size)
                    self.task.block(outer, k, stop)


class _Task:
    """One task: its group of left panels, its right panels."""

    def __init__(self, tiles: Tiles, b: Builder, at: dict[Axis, Value]) -> None:
        self.tiles, self.b, self.frame = tiles, b, tiles.frame
        self.batch, above, group, right = (at[axis] for axis in tiles.order)
        left, cut = tiles.left, tiles.cut
        self.axes = digits(b, self.batch, self.frame.product.batch)
        base = b.mul(above, left.along)
        first = b.mul(group, cut.group)
        self.lefts = (b.add(base, first), b.add(base, self._least(first, cut.group, left.along)))
        first = b.mul(right, cut.panels)
        self.rights = (first, self._least(first, cut.panels, tiles.right.panels))

    def _least(self, first: Value, count: int, most: int) -> Value:
        """first + count, but not beyond `most`."""
        after = self.b.add(first, count)
        return self.b.smin(after, most)

    def block(self, outer: Value, begin: Value, end: Value) -> None:
        """One block of k: pack the right panels, then all pairs of panels."""
        b, tiles = self.b, self.tiles
        if tiles.right_place is None:
            batch = tiles.right.batch_at(b, self.axes)
            with b.loop(*self.rights, name="right") as right:
                tiles.pack_right(b, self._room(right), batch, right, outer, begin, end)
        with b.loop(*self.lefts, name="left") as left, b.loop(*self.rights, name="right") as right:
            tile = self._tile(left, right)
            self._kernels(left, right, outer, begin, end, tile)
            with maybe(b, self._is_last(outer, end), not tiles.whole):
                rows = b.sub(tiles.left.axis.size, tiles.left.place(b, left)[1])
                rows = b.smin(rows, tiles.left.width)
                tiles.finish(b, tile, self.batch, left, rows, right)

    def _is_last(self, outer: Value, end: Value) -> Value:
        """Whether a block is the last of k."""
        b, tiles = self.b, self.tiles
        last = b.icmp("eq", end, tiles.inner.size)
        return b.binary("and", last, b.icmp("eq", outer, tiles._outers - 1))

    def _room(self, right: Value) -> Value:
        """Where a right panel is packed."""
        b, cut = self.b, self.tiles.cut
        size = const(I64, cut.length * self.tiles.right.width)
        return b.gep(self.tiles.room, self.frame.element, b.mul(b.sub(right, self.rights[0]), size))

    def _tile(self, left: Value, right: Value) -> Value:
        """Where the sums of a pair are."""
        b, tiles = self.b, self.tiles
        if tiles.whole:
            return tiles.tiles
        row = b.mul(b.sub(left, self.lefts[0]), tiles.cut.panels)
        number = b.add(row, b.sub(right, self.rights[0]))
        size = const(I64, tiles.left.width * tiles.right.width)
        return b.gep(tiles.tiles, self.frame.element, b.mul(number, size))

    def _kernels(
        self, left: Value, right: Value, outer: Value, begin: Value, end: Value, tile: Value
    ) -> None:
        """Multiply two blocks of panels into their tile."""
        b, tiles = self.b, self.tiles
        k = {**digits(b, outer, tiles.outer), tiles.inner: begin}
        a = self._left(left, outer, k)
        other = self._right(right, k)
        width, steps = const(I64, tiles.right.width), b.sub(end, begin)
        more = const(I1, 0) if tiles.whole else b.icmp("ne", b.add(outer, begin), 0)
        for rows, columns, condition in self._shapes(left, right):
            with maybe(b, condition or more, condition is not None):
                frame = self.frame
                name = add_microkernel(frame.module, frame.level, rows, columns, frame.kind)
                b.call_void(name, *a, *other, tile, width, steps, more)

    def _left(self, panel: Value, outer: Value, k: dict[Axis, Value]) -> tuple[Value, Value, Value]:
        """Where a left panel's block begins, its steps along the rows and along k."""
        b, tiles, side = self.b, self.tiles, self.tiles.left
        if tiles.left_place:
            steps = (tiles.left_place.own_step, tiles.left_place.inner_step)
            address = self._in_place(side, tiles.left_place, panel, k)
            return address, const(I64, steps[0]), const(I64, steps[1])
        number = b.add(b.mul(side.batch_at(b, self.axes), side.panels), panel)
        step = b.add(b.mul(outer, tiles.inner.size), k[tiles.inner])
        begin = b.mul(step, side.width)
        address = b.gep(tiles._left_panel(b, number), self.frame.element, begin)
        return address, const(I64, 1), const(I64, side.width)

    def _right(self, panel: Value, k: dict[Axis, Value]) -> tuple[Value, Value]:
        """Where a right panel's block begins, and its step along k."""
        tiles = self.tiles
        if tiles.right_place is None:
            return self._room(panel), const(I64, tiles.right.width)
        address = self._in_place(tiles.right, tiles.right_place, panel, k)
        return address, const(I64, tiles.right_place.inner_step)

    def _in_place(self, side: Side, place: InPlace, panel: Value, k: dict[Axis, Value]) -> Value:
        outer, start = side.place(self.b, panel)
        axes = {**self.axes, **outer, **k, side.axis: start}
        return place.address(self.frame, self.b, axes)

    def _shapes(self, left: Value, right: Value) -> Iterator[tuple[int, int, Value | None]]:
        """The shapes that tiles have, each with when it is (None: always). A part of a packed panel
        is computed as a whole one where that is little waste."""
        one, other = self.tiles.left, self.tiles.right
        columns = _up(other.last, self.frame.lanes)
        cut = one.last < one.width and (_wasteful(one, one.last) or self.tiles.left_place)
        last_left = self._ends(one, left) if cut else None
        last_right = self._ends(other, right) if self._cut(columns) else None
        for rows, row_test in self._cases(one.width, one.last, last_left):
            for width, column_test in self._cases(other.width, columns, last_right):
                tests = [t for t in (row_test, column_test) if t is not None]
                yield rows, width, self._all(tests)

    def _all(self, tests: list[Value]) -> Value | None:
        """Whether all conditions hold; None for no condition."""
        found: Value | None = None
        for test in tests:
            found = test if found is None else self.b.binary("and", found, test)
        return found

    def _cut(self, columns: int) -> bool:
        """Whether the last right panel is narrower."""
        right = self.tiles.right
        if columns == right.width:
            return False
        return _wasteful(right, columns) or self.tiles.right_place is not None

    def _ends(self, side: Side, panel: Value) -> Value:
        """Whether a panel is the last along its axis."""
        start = side.place(self.b, panel)[1]
        return self.b.icmp("sgt", start, side.axis.size - side.width)

    def _cases(
        self, whole: int, last: int, is_last: Value | None
    ) -> Iterator[tuple[int, Value | None]]:
        if is_last is None:
            yield whole, None
            return
        yield whole, self.b.binary("xor", is_last, 1)
        yield last, is_last


def _wasteful(side: Side, last: int) -> bool:
    """Whether computing the last panel whole costs much."""
    return (side.width - last) * WASTE > side.axis.size
