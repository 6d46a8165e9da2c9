"""Matrix products where one factor has only a few rows (a decoder's step): the other factor is read
once, as it lies, and nothing is packed.

A task is a strip of columns. Vectors run along k where the right factor's elements are neighbours
there (each lane a partial sum, added up at the end), else along the columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.entry import Phase
from tracejit.codegen.native.lanes import added_up, some_lanes
from tracejit.codegen.native.places import parts
from tracejit.codegen.native.product_epilogue import add_epilogue
from tracejit.codegen.native.product_frame import (
    PAGE,
    Axes,
    Frame,
    Range,
    even,
    in_place,
    make_side,
)
from tracejit.codegen.native.rows import digits
from tracejit.codegen.native.types import I64, Value, const
from tracejit.fuse.index import Axis
from tracejit.fuse.product import Product, stride

MOST_ACROSS, MOST_ALONG = 4, 12  # rows, with vectors along the columns and along k;
MOST_FAR = 12  # along the columns, if rows of the right factor lie more than a page apart
HELD = 1 << 18  # bytes of the left factor that are kept on the stack, evaluated
CHAIN = 64  # vectors along k that are one chain of sums
BLOCK = 16  # rows of the right factor that are read together
GRAIN_BYTES = 100_000  # of the right factor: worth a thread
UNIT = 4  # vectors of columns that are summed at once, at most
STRIPS = 8  # tasks wanted, so that several threads have work;
STRIP = 1024  # columns in one at most, so that a row of it is a page


def streams(product: Product) -> bool:
    """Whether a product is done this way."""
    rows = product.rows[-1].size if product.rows else 1
    size = 8 if product.total.dtype == "f64" else 4
    most = MOST_ALONG
    if _across(product):
        step = stride(product.right, product.inner[-1]) or 0
        most = MOST_FAR if step * size > PAGE else MOST_ACROSS
    return rows <= most and rows * product.sizes[3] * size <= HELD


def _across(product: Product) -> bool:
    """Whether vectors run along the columns."""
    if stride(product.right, product.inner[-1]) != 1:
        return True
    return stride(product.right, product.columns[-1]) == 1


class Stream:
    """Writes the one phase of such a product."""

    scratch = 0

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        product = frame.product
        self.rows = product.rows[-1].size if product.rows else 1
        *self.outer, self.inner = product.inner
        self.across = _across(product)
        self.left = make_side(product, "left", self.rows)
        self.right = make_side(product, "right", frame.lanes)
        most = frame.level.registers * 3 // 4  # registers for sums
        self.high, self.wide = self.rows, 1  # rows and columns that are summed at once
        if self.across:
            size = self.right.axis.size
            self.unit = next(u for u in (UNIT, 2, 1) if u == 1 or u <= most // self.rows)
            self.unit = min(self.unit, -(-size // frame.lanes))  # vectors of columns
            unit = self.unit * frame.lanes
            width = min(max(-(-size // STRIPS // unit), 1) * unit, STRIP)
            self.right = make_side(product, "right", max(width, unit))
        else:
            self.high = even(self.rows, most // 4)
            while self.wide < frame.lanes and 2 * self.wide * self.high <= most:
                self.wide *= 2
        # Elements of a tile, which is of whole groups of rows.
        self.tile_size = -(-self.rows // self.high) * self.high * self.right.width

    def __str__(self) -> str:
        where = "columns" if self.across else str(self.inner)
        return f"strips of {self.right.width} columns, vectors along {where}"

    def write(self) -> list[Phase]:
        """Define the functions; the phases."""
        frame = self.frame
        finish = add_epilogue(frame, self.left, self.right)

        def tasks(b: Builder, _: object, begin: Value, end: Value) -> None:
            strip = (_Across if self.across else _Along)(self, b)
            with b.loop(begin, end, name="task") as task:
                number, left, right = strip.task(task)
                finish(b, strip.tile, number, left, const(I64, self.rows), right)

        count = frame.product.sizes[0] * self.left.panels * self.right.panels
        size = self.right.width * frame.depth * frame.item
        return [frame.phase("strips", count, GRAIN_BYTES // size, tasks)]


@contextmanager
def _loops(b: Builder, axes: Sequence[Axis]) -> Iterator[Axes]:
    """A loop over each axis, the first outermost."""
    with ExitStack() as stack:
        loops = {a: stack.enter_context(b.loop(0, a.size, name=str(a))) for a in axes}
        yield loops


class _Strip:
    """Writes a strip: its sums, in `tile`."""

    def __init__(self, stream: Stream, b: Builder) -> None:
        self.stream, self.b, self.frame = stream, b, stream.frame
        self.right, self.inner = stream.right, stream.inner
        self.tile = b.alloca(self.frame.element, stream.tile_size, name="tile")
        self.held = _Held(stream, b)

    def task(self, task: Value) -> tuple[Value, Value, Value]:
        """All of a task but what follows the product; its batch, left panel and right panel."""
        b, stream, product = self.b, self.stream, self.frame.product
        sizes = {"batch": product.sizes[0], "left": stream.left.panels, "right": self.right.panels}
        order = [Axis(name, size) for name, size in sizes.items()]
        found = digits(b, task, order)
        number, left, right = (found[axis] for axis in order)
        shared = digits(b, number, product.batch) if product.batch else {}
        above, _ = stream.left.place(b, left)
        beside, column = self.right.place(b, right)
        axes = {**shared, **above, **beside}
        self.held.fill(axes, b.add(b.mul(number, stream.left.panels), left))
        with b.loop(0, stream.tile_size, self.frame.lanes, "q") as q:
            b.store(const(self.frame.wide, 0), self._sums(q))
        with _loops(b, stream.outer) as outer:
            self.sum({**axes, **outer}, column)
        return number, left, right

    def sum(self, axes: Axes, column: Value) -> None:
        """Add the products along the last summed axis, from a column on."""
        raise NotImplementedError

    def _sums(self, place: Value) -> Value:
        """The address of sums in the tile."""
        return self.b.gep(self.tile, self.frame.element, place)

    def _factor(self, axes: Axes, along: Axis, mask: Value | None) -> Value:
        """A vector of the right factor."""
        evaluator = self.frame.evaluator(self.b, axes, along, mask, self.frame.lanes)
        return evaluator.wide(self.frame.product.right)


class _Across(_Strip):
    """Lanes are columns."""

    def sum(self, axes: Axes, column: Value) -> None:
        """A few rows of the right factor at a time, so that what is read lies together."""
        b, size = self.b, self.inner.size
        with b.loop(0, size, BLOCK, "block") as block:
            self._block(axes, (block, b.smin(b.add(block, BLOCK), size)), column)

    def _block(self, axes: Axes, steps: Range, column: Value) -> None:
        """One block of k: groups of whole vectors, then, in the last strip, what is left."""
        b, lanes, size, width = self.b, self.frame.lanes, self.right.axis.size, self.right.width
        unit = self.stream.unit * lanes
        left = b.sub(size, column)
        whole = const(I64, width)
        if size % width:
            whole = b.smin(b.mul(b.binary("udiv", left, unit), unit), width)
        with b.loop(0, whole, unit, "q") as q:
            self._group(axes, steps, column, q, [None] * self.stream.unit)
        rest = size % width % unit
        if rest:
            masks = [some_lanes(lanes, rest - start) for start in range(0, rest, lanes)]
            with b.when(b.icmp("slt", left, width)):
                self._group(axes, steps, column, whole, masks)

    def _group(
        self, axes: Axes, steps: Range, column: Value, q: Value, masks: Sequence[Value | None]
    ) -> None:
        """A block of k of a few vectors of columns, added to the tile."""
        b, frame, rows = self.b, self.frame, range(self.stream.rows)
        sums = [[b.slot(const(frame.wide, 0), "sum") for _ in masks] for _ in rows]
        first = b.add(column, q)
        with b.loop(*steps, 1, str(self.inner)) as k:
            here = {**axes, self.inner: k}
            ones = [b.splat(self.held.one(here, const(I64, i)), frame.lanes) for i in rows]
            for v, mask in enumerate(masks):
                there = {**here, self.right.axis: b.add(first, v * frame.lanes)}
                vector = self._factor(there, self.right.axis, mask)
                for one, row in zip(ones, sums):
                    row[v].set(b.fma(one, vector, row[v].get()))
        for i, row in enumerate(sums):
            for v, slot in enumerate(row):
                address = self._sums(b.add(q, i * self.right.width + v * frame.lanes))
                b.store(b.fadd(b.load(address, frame.wide), slot.get()), address)


class _Along(_Strip):
    """Lanes are steps of k."""

    def sum(self, axes: Axes, column: Value) -> None:
        """A few columns at a time, as many as have registers for their sums; k in blocks, whose
        sums are added up in the tile."""
        b, lanes, right, stream = self.b, self.frame.lanes, self.right, self.stream
        whole, rest = divmod(self.inner.size, lanes)
        with b.loop(0, lanes, stream.wide, "q") as q:
            places = [b.add(b.add(column, q), c) for c in range(stream.wide)]
            if right.last < right.width:
                places = [b.smin(p, right.axis.size - 1) for p in places]
            with b.loop(0, stream.rows, stream.high, "row") as row:
                numbers = [b.add(row, i) for i in range(stream.high)]
                stop = const(I64, whole * lanes)
                if whole:
                    with b.loop(0, stop, CHAIN * lanes, "block") as first:
                        end = b.smin(b.add(first, CHAIN * lanes), stop)
                        last = rest if whole < CHAIN else 0
                        self._block(axes, places, numbers, q, (first, end), last)
                if rest and (whole >= CHAIN or not whole):
                    self._block(axes, places, numbers, q, (stop, stop), rest)

    def _block(
        self,
        axes: Axes,
        places: Sequence[Value],
        numbers: Sequence[Value],
        q: Value,
        steps: Range,
        rest: int,
    ) -> None:
        """Add a block of k of the columns at `places` and of the rows `numbers` (where there are no
        more, the last row's again, behind it): whole vectors, and `rest` elements after them."""
        b, frame, stream = self.b, self.frame, self.stream
        rows = numbers
        if stream.rows % stream.high:
            rows = [b.smin(number, stream.rows - 1) for number in numbers]
        sums = [[b.slot(const(frame.wide, 0), "sum") for _ in places] for _ in rows]

        def step(k: Value, mask: Value | None) -> None:
            here = {**axes, self.inner: k}
            held = [self.held.vector(here, row, mask) for row in rows]
            for c, place in enumerate(places):
                vector = self._factor({**here, self.right.axis: place}, self.inner, mask)
                if mask is not None:
                    vector = b.select(mask, vector, 0.0)
                for one, row in zip(held, sums):
                    row[c].set(b.fma(one, vector, row[c].get()))

        first, end = steps
        if first != end:
            with b.loop(first, end, frame.lanes, str(self.inner)) as k:
                step(k, None)
        if rest:
            step(end, some_lanes(frame.lanes, rest))
        for number, row in zip(numbers, sums):
            total = added_up(b, [slot.get() for slot in row])
            one = len(places) == 1
            total = b.extract(total, 0) if one else b.shuffle(total, None, range(len(places)))
            address = self._sums(b.add(b.mul(number, self.right.width), q))
            b.store(b.fadd(b.load(address, total.type), total), address)


class _Held:
    """The left factor's rows: where they lie, or evaluated into memory on the stack when a task
    begins with others than the one before."""

    def __init__(self, stream: Stream, b: Builder) -> None:
        self.stream, self.b, self.frame = stream, b, stream.frame
        steps = in_place(self.frame, stream.left, self.frame.product.total.dtype)
        self.direct = steps is not None and (stream.across or steps[1] == 1)
        self.size = self.frame.depth
        if not self.direct:
            frame, rows = self.frame, stream.rows
            self.memory = b.alloca(frame.element, rows * self.size + frame.lanes, name="held")
            self.filled = b.slot(const(I64, -1), "filled")

    def fill(self, axes: Axes, which: Value) -> None:
        """Have the rows of the left panel `which`."""
        if self.direct:
            return
        b, stream = self.b, self.stream
        with b.when(b.icmp("ne", self.filled.get(), which)):
            self.filled.set(which)
            with _loops(b, stream.outer) as outer, b.loop(0, stream.rows, name="row") as row:
                self._fill_row({**axes, **outer, stream.left.axis: row}, row)

    def _fill_row(self, axes: Axes, i: Value) -> None:
        b, frame, inner = self.b, self.frame, self.stream.inner
        for k, count in parts(b, inner.size, frame.lanes, str(inner)):
            here, mask = {**axes, inner: k}, some_lanes(frame.lanes, count)
            value = frame.evaluator(b, here, inner, mask, frame.lanes).wide(frame.product.left)
            b.masked_store(value, self._address(here, i), mask)

    def _address(self, axes: Axes, i: Value) -> Value:
        """Where row i's element at these values of the summed axes is kept."""
        b, frame = self.b, self.frame
        position = frame.evaluator(b, axes).place(frame.inner).base
        place = b.add(position, b.mul(i, self.size))
        return b.gep(self.memory, frame.element, place)

    def one(self, axes: Axes, i: Value) -> Value:
        """Row i's element."""
        if self.direct:
            here = {**axes, self.stream.left.axis: i}
            return self.frame.evaluator(self.b, here).value(self.frame.product.left)
        return self.b.load(self._address(axes, i), self.frame.element)

    def vector(self, axes: Axes, i: Value, mask: Value | None) -> Value:
        """Row i's elements along k, from the one at these values on."""
        b, frame = self.b, self.frame
        if self.direct:
            here = {**axes, self.stream.left.axis: i}
            evaluator = frame.evaluator(b, here, self.stream.inner, mask, frame.lanes)
            return evaluator.wide(frame.product.left)
        loaded = b.load(self._address(axes, i), frame.wide)
        return loaded if mask is None else b.select(mask, loaded, 0)
