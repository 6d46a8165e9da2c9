"""Matrix products where one factor has only a few rows (a decoder's step): the other factor is read
once, as it lies, and nothing is packed.

A task is a strip of columns. Vectors run along k where the right factor's elements are neighbours
there (each lane a partial sum, added up at the end), else along the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from tracejit.codegen.native.builder import I64, Builder, Value, const, some_lanes
from tracejit.codegen.native.entry import Phase
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
        self.sums = frame.level.registers * 3 // 4  # registers for sums
        if self.across:
            size = self.right.axis.size
            wanted = -(-size // frame.lanes)
            self.unit = next(u for u in (UNIT, 2, 1) if u == 1 or u <= self.sums // self.rows)
            self.unit = min(self.unit, wanted)
            unit = self.unit * frame.lanes
            width = min(max(-(-size // STRIPS // unit), 1) * unit, STRIP)
            self.right = make_side(product, "right", max(width, unit))
        else:  # rows and columns that are summed at once
            self.high = even(self.rows, self.sums // 4)
            self.wide = 1
            while self.wide < frame.lanes and 2 * self.wide * self.high <= self.sums:
                self.wide *= 2

    def __str__(self) -> str:
        where = "columns" if self.across else str(self.inner)
        return f"strips of {self.right.width} columns, vectors along {where}"

    def write(self) -> list[Phase]:
        """Define the functions; the phases."""
        frame = self.frame
        self.finish = add_epilogue(frame, self.left, self.right)
        tasks = frame.product.sizes[0] * self.left.panels * self.right.panels
        size = self.right.width * frame.depth * frame.item
        return [frame.phase("strips", tasks, GRAIN_BYTES // size, self._tasks)]

    def _tasks(self, b: Builder, _: object, begin: Value, end: Value) -> None:
        frame, batch = self.frame, self.frame.product.batch
        order = [Axis("batch", frame.product.sizes[0]), Axis("left", self.left.panels)]
        order.append(Axis("right", self.right.panels))
        tile = b.alloca(frame.element, self._tile_size, name="tile")
        held = _Held(self, b)
        with b.loop(begin, end, name="task") as task:
            found = digits(b, task, order)
            number, left, right = (found[axis] for axis in order)
            shared = digits(b, number, batch) if batch else {}
            above, _ = self.left.place(b, left)
            beside, column = self.right.place(b, right)
            axes = {**shared, **above, **beside}
            held.fill(axes, b.add(b.mul(number, self.left.panels), left))
            (self._strip_across if self.across else self._strip_along)(b, axes, column, tile, held)
            self.finish(b, tile, number, left, const(I64, self.rows), right)

    # Lanes are columns.

    def _strip_across(
        self, b: Builder, axes: Axes, column: Value, tile: Value, held: _Held
    ) -> None:
        """A few rows of the right factor at a time, so that what is read lies together; the sums so
        far are in the tile."""
        self._clear(b, tile)
        with ExitStack() as stack:
            at = self._outer_loops(b, stack)
            size = const(I64, self.inner.size)
            with b.loop(0, size, BLOCK, "block") as block:
                stop = b.smin(b.add(block, BLOCK), size)
                here = {**axes, **at}
                self._block_across(b, here, (block, stop), column, tile, held)

    def _block_across(
        self, b: Builder, axes: Axes, steps: Range, column: Value, tile: Value, held: _Held
    ) -> None:
        """One block of k: groups of whole vectors, then, in the last strip, what is left."""
        frame, size = self.frame, self.right.axis.size
        unit = self.unit * frame.lanes
        left = b.sub(size, column)
        whole = const(I64, self.right.width)
        if size % self.right.width:
            whole = b.smin(b.mul(b.binary("udiv", left, unit), unit), whole)
        with b.loop(0, whole, unit, "q") as q:
            self._group_across(b, axes, steps, (column, q), tile, held, [None] * self.unit)
        rest = size % self.right.width % unit
        if rest:
            counts = [rest - v * frame.lanes for v in range(self.unit)]
            masks = [some_lanes(frame.lanes, n) for n in counts if n > 0]
            with b.when(b.icmp("slt", left, self.right.width)):
                self._group_across(b, axes, steps, (column, whole), tile, held, masks)

    def _group_across(
        self,
        b: Builder,
        axes: Axes,
        steps: Range,
        place: Range,
        tile: Value,
        held: _Held,
        masks: Sequence[Value | None],
    ) -> None:
        """A block of k of a few vectors of columns, added to the tile."""
        frame, count = self.frame, len(masks)
        sums = [b.slot(const(frame.wide, 0), "sum") for _ in range(self.rows * count)]
        first = b.add(*place)
        with b.loop(*steps, 1, str(self.inner)) as k:
            here = {**axes, self.inner: k}
            ones = [b.splat(held.one(here, const(I64, i)), frame.lanes) for i in range(self.rows)]
            for v, mask in enumerate(masks):
                there = {**here, self.right.axis: b.add(first, v * frame.lanes)}
                evaluator = frame.evaluator(b, there, self.right.axis, mask, frame.lanes)
                vector = evaluator.wide(frame.product.right)
                for i, one in enumerate(ones):
                    slot = sums[i * count + v]
                    slot.set(b.fma(one, vector, slot.get()))
        for number, slot in enumerate(sums):
            i, v = divmod(number, count)
            offset = const(I64, i * self.right.width + v * frame.lanes)
            address = b.gep(tile, frame.element, b.add(place[1], offset))
            b.store(b.fadd(b.load(address, frame.wide), slot.get()), address)

    def _outer_loops(self, b: Builder, stack: ExitStack) -> Axes:
        """Loops over all summed axes but the last."""
        return {a: stack.enter_context(b.loop(0, a.size, name=str(a))) for a in self.outer}

    # Lanes are steps of k.

    def _strip_along(self, b: Builder, axes: Axes, column: Value, tile: Value, held: _Held) -> None:
        """A few columns at a time, as many as have registers for their sums; k in blocks, whose
        sums are added up in the tile."""
        frame, count = self.frame, self.wide
        self._clear(b, tile)
        last = const(I64, self.right.axis.size - 1)
        whole, rest = divmod(self.inner.size, frame.lanes)
        with ExitStack() as stack:
            at = {**axes, **self._outer_loops(b, stack)}
            q = stack.enter_context(b.loop(0, frame.lanes, count, "q"))
            places = [b.add(b.add(column, q), c) for c in range(count)]
            if self.right.last < self.right.width:
                places = [b.smin(p, last) for p in places]
            address = b.gep(tile, frame.element, q)
            above = b.loop(0, self.rows, self.high, "row")
            strip = _Columns(self, b, places, stack.enter_context(above), address, held)
            stop = const(I64, whole * frame.lanes)
            block = CHAIN * frame.lanes
            if whole:
                with b.loop(0, stop, block, "block") as first:
                    end = b.smin(b.add(first, block), stop)
                    strip.sum(at, first, end, rest if whole < CHAIN else 0)
            if rest and (whole >= CHAIN or not whole):
                strip.sum(at, stop, stop, rest)

    @property
    def _tile_size(self) -> int:
        """Elements of a tile; of whole groups of rows."""
        rows = self.rows if self.across else -(-self.rows // self.high) * self.high
        return rows * self.right.width

    def _clear(self, b: Builder, tile: Value) -> None:
        """A tile of zeros."""
        with b.loop(0, self._tile_size, self.frame.lanes, "q") as q:
            zero = const(self.frame.wide, 0)
            b.store(zero, b.gep(tile, self.frame.element, q))


class _Columns:
    """Sums along k for a few columns, at `places`, and the rows from `row` on (where there are no
    more, the last row's again, behind it); into the tile's columns from `tile` on."""

    def __init__(
        self,
        stream: Stream,
        b: Builder,
        places: Sequence[Value],
        row: Value,
        tile: Value,
        held: _Held,
    ) -> None:
        self.stream, self.b, self.frame = stream, b, stream.frame
        self.places, self.tile, self.held = places, tile, held
        last = const(I64, stream.rows - 1)
        self.numbers = [b.add(row, i) for i in range(stream.high)]
        self.rows = self.numbers
        if stream.rows % stream.high:
            self.rows = [b.smin(r, last) for r in self.numbers]

    def sum(self, axes: Axes, first: Value, end: Value, rest: int) -> None:
        """Add a block of k: whole vectors from first to end, and `rest` elements after them."""
        b, frame, inner = self.b, self.frame, self.stream.inner
        count = len(self.places)
        self.sums = [b.slot(const(frame.wide, 0), "sum") for _ in range(len(self.rows) * count)]
        if first != end:
            with b.loop(first, end, frame.lanes, str(inner)) as k:
                self._step({**axes, inner: k}, None)
        if rest:
            self._step({**axes, inner: end}, some_lanes(frame.lanes, rest))
        for i, number in enumerate(self.numbers):
            total = added_up(b, [s.get() for s in self.sums[i * count : (i + 1) * count]])
            if count > 1:
                total = b.shuffle(total, None, list(range(count)))
            else:
                total = b.extract(total, 0)
            offset = b.mul(number, self.stream.right.width)
            row = b.gep(self.tile, frame.element, offset)
            b.store(b.fadd(b.load(row, total.type), total), row)

    def _step(self, axes: Axes, mask: Value | None) -> None:
        """One vector of k."""
        b, frame, stream = self.b, self.frame, self.stream
        rows = [self.held.vector(axes, row, mask) for row in self.rows]
        for c, place in enumerate(self.places):
            there = {**axes, stream.right.axis: place}
            here = frame.evaluator(b, there, stream.inner, mask, frame.lanes)
            vector = here.wide(frame.product.right)
            if mask is not None:
                vector = b.select(mask, vector, 0)
            for i, row in enumerate(rows):
                slot = self.sums[i * len(self.places) + c]
                slot.set(b.fma(row, vector, slot.get()))


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
        with self.b.when(self.b.icmp("ne", self.filled.get(), which)):
            self.filled.set(which)
            with ExitStack() as stack:
                b, stream = self.b, self.stream
                at = {**axes, **stream._outer_loops(b, stack)}
                rows = b.loop(0, stream.rows, name="row")
                row = stack.enter_context(rows)
                self._fill_row({**at, stream.left.axis: row}, row)

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


def added_up(b: Builder, vectors: Sequence[Value]) -> Value:
    """A vector whose lane l is the sum of all lanes of vectors[l]; as many vectors as lanes or
    fewer, a power of two (lanes then repeat)."""
    found, step = list(vectors), 1
    lanes = vectors[0].type.lanes
    while len(found) > 1:
        low = [k if not k & step else k - step + lanes for k in range(lanes)]
        high = [k + step if not k & step else k + lanes for k in range(lanes)]
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [b.fadd(b.shuffle(x, y, low), b.shuffle(x, y, high)) for x, y in pairs]
        step *= 2
    (total,) = found
    while step < lanes:
        total = b.fadd(total, b.shuffle(total, None, [k ^ step for k in range(lanes)]))
        step *= 2
    return total
