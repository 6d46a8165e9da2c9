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
from tracejit.codegen.native.builder import (
    F32,
    I8,
    I16,
    I32,
    I64,
    PTR,
    Builder,
    Type,
    Value,
    const,
    define,
    first_lanes,
    iota,
    some_lanes,
    transposed,
)
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.matrix_unit import BYTES, DEPTH, SIDE, TILE
from tracejit.codegen.native.product_epilogue import add_epilogue
from tracejit.codegen.native.product_frame import Frame, InPlace, Side, even, make_side
from tracejit.codegen.native.rows import digits
from tracejit.fuse.index import Axis
from tracejit.fuse.product import Product, index_stride, plain_load, stride
from tracejit.fuse.scalar import Load, Scalar
from tracejit.runtime.cpu import Level

WIDTH = 2 * SIDE  # rows and columns of a tile of sums
LEAST = 4  # rows from which it is worth packing the other factor
DEEPEST = 8192  # steps of k, whose panel is on the task's stack
NEAR = 1 << 20  # bytes of the left factor that stay in the second cache
REUSED = 8  # left panels that make up for packing a right one
WANTED = 16  # tasks that keep several threads evenly busy
FLOPS_NS = 500.0  # of a core, about
PACK_NS = 0.15  # of an element that is put in its place
TASK_NS = 10_000  # work that is worth a thread
WORDS = Type("i32", SIDE)
HALVES = Type("i16", SIDE)
WIDE = Type("float", SIDE)
AHEAD = 128  # bytes by which rows of the right factor are fetched ahead
ROWS = 8  # of the left factor that are multiplied together on vectors
# Of each four lanes the first two, or the last, of two vectors: lane by lane, and pair by pair.
WORDS_BY_TURNS, PAIRS_BY_TURNS = (
    [
        [four + start + lane + part for four in range(0, SIDE, 4) for lane, part in order]
        for start in (0, 2)
    ]
    for order in (
        [(0, 0), (0, SIDE), (1, 0), (1, SIDE)],
        [(0, 0), (1, 0), (0, SIDE), (1, SIDE)],
    )
)
DEST, SCRATCH = Value("%dest", PTR), Value("%scratch", PTR)
KERNEL = tuple(
    Value(f"%{name}", type)
    for name, type in (
        ("a", PTR),
        ("step", I64),
        ("b", PTR),
        ("c", PTR),
        ("chunks", I64),
        ("rows", I64),
    )
)
Axes = dict[Axis, Value]


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
        self.pack = self.frame.function("pairs", more, self._pack_pairs)
        tasks = self.frame.product.sizes[0] * (self.left.panels // self.left.along)
        tasks *= -(-self.left.along // self.group) * self.right.panels
        flops = 2.0 * self.group * WIDTH * WIDTH * DEPTH * self.chunks
        ns = flops / FLOPS_NS + PACK_NS * WIDTH * DEPTH * self.chunks
        body = f"{self.frame.name}.tiles"
        phases = [self._packing()] if self.scratch else []
        attributes = {"unit": unit.attributes(self.frame.level), "plain": ""}
        self.ways = {way: self._range(way, given) for way, given in attributes.items()}
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
                    self.pack(b, self._row(b, b.mul(task, const(I64, WIDTH))), number, panel)
                    return
                batch = digits(b, number, left.batch)
                outer, start = left.place(b, panel)
                with b.loop(const(I64, 0), const(I64, WIDTH), name="row") as row:
                    at = b.intrinsic("llvm.smin", I64, b.add(start, row), last)
                    number = b.add(b.mul(task, const(I64, WIDTH)), row)
                    self._pack_row(b, {**batch, **outer, left.axis: at}, self._row(b, number))

        body = f"{frame.name}.pack"
        add_body(frame.module, body, self._names, write)
        ns = PACK_NS * WIDTH * DEPTH * self.chunks
        return Phase(body, left.batches * left.panels, max(int(TASK_NS / ns), 1))

    def _row(self, b: Builder, number: Value) -> Value:
        """Where a packed row of the left factor is."""
        return b.gep(SCRATCH, I8, b.mul(number, const(I64, self.row)))

    def _pack_row(self, b: Builder, axes: Axes, dest: Value) -> None:
        """All of k, padded with zeros."""
        size = self.inner.size
        whole, rest = size // SIDE * SIDE, size % SIDE
        with b.loop(const(I64, 0), const(I64, whole), SIDE, str(self.inner)) as k:
            value = self._vector(b, self.left, {**axes, self.inner: k}, self.inner)
            b.store(value, b.gep(dest, I16, k))
        if rest:
            at, mask = const(I64, whole), first_lanes(SIDE, rest)
            value = self._vector(b, self.left, {**axes, self.inner: at}, self.inner, mask)
            b.store(value, b.gep(dest, I16, at))
        if 0 < size % DEPTH <= SIDE:
            b.store(const(HALVES, 0), b.gep(dest, I16, const(I64, self.chunks * DEPTH - SIDE)))

    def _vector(
        self, b: Builder, side: Side, axes: Axes, along: Axis, mask: Value | None = None
    ) -> Value:
        """16 elements of a factor along an axis; zeros outside the mask."""
        value = self.frame.evaluator(b, axes, along, mask).wide(self.factors[side.name])
        return value if mask is None else b.select(mask, value, const(HALVES, 0))

    def _address(self, b: Builder, load: Load, axes: Axes) -> Value:
        """Where a factor's element lies."""
        pointer = self.frame.pointers(self.frame.arguments)[load.buffer]
        return b.gep(pointer, I16, self.frame.evaluator(b, axes).place(load.index).base)

    # The factor in pairs: two tiles for each 32 steps of k

    @property
    def paired(self) -> Side:
        return self.left if self.swapped else self.right

    def _pack_pairs(self, b: Builder) -> None:
        side, factor = self.paired, self.factors[self.paired.name]
        axes = digits(b, Value("%batch", I64), side.batch)
        outer, start = side.place(b, Value("%panel", I64))
        inner, own = stride(factor, self.inner), stride(factor, side.axis)
        pack = self._turned if inner == 1 and own != 1 else self._side_by_side
        pack(b, {**axes, **outer}, start)

    def _to(self, b: Builder, chunk: Value, half: Value | int, row: Value | int) -> Value:
        """The address of a row of a tile."""
        which = half if isinstance(half, Value) else const(I64, half)
        place = b.add(b.mul(chunk, const(I64, 2 * TILE)), b.mul(which, const(I64, TILE)))
        line = row if isinstance(row, Value) else const(I64, row)
        return b.gep(DEST, I16, b.add(place, b.mul(line, const(I64, DEPTH))))

    def _turned(self, b: Builder, axes: Axes, start: Value) -> None:
        """Elements are neighbours along k: pairs are, too, and are turned as words."""
        side, rest = self.paired, self.inner.size % DEPTH
        load, last = plain_load(self.factors[side.name]), const(I64, side.axis.size - 1)

        def square(chunk: Value, half: Value, many: int) -> None:
            rows, first = [], b.add(start, b.mul(half, const(I64, SIDE)))
            if many == DEPTH and load is not None:
                given = {**axes, self.inner: b.mul(chunk, const(I64, DEPTH))}
                for k in range(SIDE):
                    at = b.intrinsic("llvm.smin", I64, b.add(first, const(I64, k)), last)
                    rows.append(self._address(b, load, {**given, side.axis: at}))
                for row in rows:
                    b.prefetch(row, AHEAD)
                for k, pairs in enumerate(_columns(b, rows)):
                    b.store(pairs, self._to(b, chunk, half, k))
                return
            for k in range(SIDE):
                at = b.intrinsic("llvm.smin", I64, b.add(first, const(I64, k)), last)
                here = {**axes, side.axis: at}
                parts = []
                for begin in (0, SIDE):
                    place = b.add(b.mul(chunk, const(I64, DEPTH)), const(I64, begin))
                    count = min(many - begin, SIDE)
                    if count <= 0:
                        parts.append(const(HALVES, 0))
                        continue
                    mask = some_lanes(SIDE, count)
                    given = {**here, self.inner: place}
                    parts.append(self._vector(b, side, given, self.inner, mask))
                both = b.shuffle(parts[0], parts[1], range(DEPTH))
                rows.append(b.cast("bitcast", both, WORDS))
            for k, pairs in enumerate(transposed(b, rows)):
                b.store(pairs, self._to(b, chunk, half, k))

        whole = self.inner.size // DEPTH
        with b.loop(const(I64, 0), const(I64, 2), name="half") as half:
            if whole:
                with b.loop(const(I64, 0), const(I64, whole), name="chunk") as chunk:
                    square(chunk, half, DEPTH)
            if rest:
                square(const(I64, whole), half, rest)

    def _side_by_side(self, b: Builder, axes: Axes, start: Value) -> None:
        """Elements are neighbours along the columns, or nowhere: two rows are interleaved."""
        side, size = self.paired, self.inner.size
        with (
            b.loop(const(I64, 0), const(I64, self.chunks), name="chunk") as chunk,
            b.loop(const(I64, 0), const(I64, SIDE), name="pair") as pair,
        ):
            first = b.add(b.mul(chunk, const(I64, DEPTH)), b.mul(pair, const(I64, 2)))
            for half in range(2):
                at = b.add(start, const(I64, half * SIDE))
                mask = None
                if side.axis.size % WIDTH:
                    left = b.splat(b.sub(const(I64, side.axis.size), at), SIDE)
                    mask = b.icmp("slt", iota(Type("i64", SIDE)), left)
                rows = []
                for step in range(2):
                    k = b.add(first, const(I64, step))
                    place = b.intrinsic("llvm.smin", I64, k, const(I64, size - 1))
                    here = {**axes, side.axis: at, self.inner: place}
                    row = self._vector(b, side, here, side.axis, mask)
                    if size % DEPTH:
                        inside = b.icmp("slt", k, const(I64, size))
                        row = b.select(inside, row, const(HALVES, 0))
                    rows.append(row)
                order = [part + k for k in range(SIDE) for part in (0, SIDE)]
                b.store(b.shuffle(rows[0], rows[1], order), self._to(b, chunk, half, pair))

    # Tasks

    def _best_way(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """The tasks, with the unit or without."""
        b.branch(unit.available(b), "unit", "plain")
        for way, call in self.ways.items():
            b.label(way)
            call(b, *pointers[len(self.frame.buffers) :], begin, end)
            b.jump("done")
        b.label("done")

    def _range(self, way: str, attributes: str) -> Callable[..., None]:
        """Define the function of a way that does a range of tasks; what writes a call of it."""
        sides, begin, end = (self.left, self.right), Value("%begin", I64), Value("%end", I64)
        self.finish = add_epilogue(self.frame, *sides, f"epilogue.{way}", attributes)

        def write(b: Builder) -> None:
            with unit.configured(b) if way == "unit" else nullcontext():
                self._tasks(b, way, begin, end)

        more = [*([SCRATCH] if self.scratch else []), begin, end]
        return self.frame.function(way, more, write, attributes)

    def _tasks(self, b: Builder, way: str, begin: Value, end: Value) -> None:
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
            first = b.mul(group, const(I64, self.group))
            stop = b.add(first, const(I64, self.group))
            stop = b.intrinsic("llvm.smin", I64, stop, const(I64, left.along))
            base = b.mul(above, const(I64, left.along))
            with b.loop(b.add(base, first), b.add(base, stop), name="left") as row:
                rows = self._count(b, left, row)
                many = self._count(b, right, column) if self.swapped else rows
                a = self._rows(b, column if self.swapped else row, axes)
                panel = self._packed(b, row, axes) if room is None else room
                b.call_void(self._kernel(way), *a, panel, turned, const(I64, self.chunks), many)
                if self.swapped:
                    _turn(b, turned, sums)
                self.finish(b, sums, batch, row, rows, column)

    def _count(self, b: Builder, side: Side, panel: Value) -> Value:
        """How many of a panel's rows (or columns) there are."""
        left = b.sub(const(I64, side.axis.size), side.place(b, panel)[1])
        return b.intrinsic("llvm.smin", I64, left, const(I64, WIDTH))

    def _rows(self, b: Builder, panel: Value, axes: Axes) -> tuple[Value, Value]:
        """Where a panel of rows begins, and the bytes from row to row."""
        if self.place is None:
            return self._packed(b, panel, axes), const(I64, self.row)
        side = self.right if self.swapped else self.left
        outer, start = side.place(b, panel)
        here = {**axes, **outer, side.axis: start, self.inner: const(I64, 0)}
        return self._address(b, self.place.load, here), const(I64, 2 * self.place.own_step)

    def _packed(self, b: Builder, panel: Value, axes: Axes) -> Value:
        """Where a packed left panel is."""
        number = b.mul(self.left.batch_at(b, axes), const(I64, self.left.panels))
        return self._row(b, b.mul(b.add(number, panel), const(I64, WIDTH)))

    # Tiles

    def _kernel(self, way: str) -> str:
        """Define `@{way}.tile(a, bytes from row to row, b, c, chunks, rows)`, which computes a tile
        of sums, of 16 rows if there are no more, else of 32; its name."""
        name, module = f"{way}.tile", self.frame.module
        if not module.has(name):
            write = {"unit": _on_unit, "plain": _on_vectors}[way]
            given = unit.attributes(self.frame.level) if way == "unit" else ""
            define(module, name, KERNEL, lambda b, *_: write(b), given)
        return name


def _on_unit(b: Builder) -> None:
    """Tiles 0 … 3 are sums, 4 and 5 left of them, 6 and 7 above."""
    b.branch(b.icmp("sgt", KERNEL[-1], const(I64, SIDE)), "two", "one")
    for label, many in (("two", 2), ("one", 1)):
        b.label(label)
        _tiles(b, many)
        b.jump("done")
    b.label("done")


def _tiles(b: Builder, many: int) -> None:
    """`many` tiles above each other, by two beside each other."""
    a, step, panel, sums, chunks, _ = KERNEL
    places = [(i, v) for i in range(many) for v in range(2)]
    for i, v in places:
        unit.zero(b, 2 * i + v)
    with b.loop(const(I64, 0), chunks, name="chunk") as chunk:
        ours = b.gep(a, I8, b.mul(chunk, const(I64, BYTES)))
        theirs = b.gep(panel, I16, b.mul(chunk, const(I64, 2 * TILE)))
        for i in range(many):
            unit.load(b, 4 + i, b.gep(ours, I8, b.mul(step, const(I64, i * SIDE))), step)
        for v in range(2):
            unit.load(b, 6 + v, b.gep(theirs, I16, const(I64, v * TILE)), BYTES)
        for i, v in places:
            unit.multiply(b, 2 * i + v, 4 + i, 6 + v)
    for i, v in places:
        place = b.gep(sums, F32, const(I64, i * SIDE * WIDTH + v * SIDE))
        unit.store(b, 2 * i + v, place, 4 * WIDTH)


def _on_vectors(b: Builder) -> None:
    """The same on vectors: a pair of each of eight rows at a time."""
    a, step, panel, sums, chunks, rows = KERNEL
    zero, high = const(I64, 0), const(WORDS, -65536)
    more = b.icmp("sgt", rows, const(I64, SIDE))
    count = b.select(more, const(I64, WIDTH), const(I64, SIDE))
    with b.loop(zero, count, ROWS, "row") as row:
        totals = [[b.slot(const(WIDE, 0.0), "sum") for _ in range(2)] for _ in range(ROWS)]
        line = b.gep(a, I8, b.mul(row, step))
        with (
            b.loop(zero, chunks, name="chunk") as chunk,
            b.loop(zero, const(I64, SIDE), name="pair") as pair,
        ):
            place = b.add(b.mul(chunk, const(I64, 2 * TILE)), b.mul(pair, const(I64, DEPTH)))
            theirs = []
            for v in range(2):
                address = b.gep(panel, I16, b.add(place, const(I64, v * TILE)))
                pairs = b.load(address, WORDS)
                low = b.binary("shl", pairs, const(WORDS, 16))
                theirs.append([b.bitcast(w, "float") for w in (low, b.binary("and", pairs, high))])
            column = b.add(b.mul(chunk, const(I64, SIDE)), pair)
            for k in range(ROWS):
                address = b.gep(b.gep(line, I8, b.mul(step, const(I64, k))), I32, column)
                both = b.splat(b.load(address, I32), SIDE)
                low = b.bitcast(b.binary("shl", both, const(WORDS, 16)), "float")
                upper = b.bitcast(b.binary("and", both, high), "float")
                for v in range(2):
                    total = b.fma(low, theirs[v][0], totals[k][v].get())
                    totals[k][v].set(b.fma(upper, theirs[v][1], total))
        for k in range(ROWS):
            start = b.mul(b.add(row, const(I64, k)), const(I64, WIDTH))
            for v in range(2):
                place = b.gep(sums, F32, b.add(start, const(I64, v * SIDE)))
                b.store(totals[k][v].get(), place)


def _turn(b: Builder, tile: Value, into: Value) -> None:
    """A tile of sums, its rows as columns."""
    for i in range(2):
        for v in range(2):
            place = [(i * SIDE + k) * WIDTH + v * SIDE for k in range(SIDE)]
            rows = [b.gep(tile, F32, const(I64, p)) for p in place]
            for k, column in enumerate(_columns(b, rows)):
                to = const(I64, (v * SIDE + k) * WIDTH + i * SIDE)
                b.store(b.cast("bitcast", column, WIDE), b.gep(into, F32, to))


def _columns(b: Builder, rows: list[Value]) -> list[Value]:
    """The columns of 16 rows of 16 words in memory: quarters of rows are loaded to where they
    belong, and turned by fours."""
    quarter, found = Type("i32", SIDE // 4), []
    for q in range(4):
        parts = [b.load(b.gep(row, I32, const(I64, 4 * q)), quarter, 2) for row in rows]
        fours = []
        for k in range(4):
            low, high = (b.shuffle(parts[n], parts[n + 4], range(8)) for n in (k, k + 8))
            fours.append(b.shuffle(low, high, range(SIDE)))
        words = [
            b.shuffle(fours[k], fours[k + 1], order) for k in (0, 2) for order in WORDS_BY_TURNS
        ]
        found += [
            b.shuffle(words[k], words[k + 2], order) for k in range(2) for order in PAIRS_BY_TURNS
        ]
    return found
