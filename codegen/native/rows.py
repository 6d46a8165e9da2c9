"""The loops of a nest whose rows are not split: for each row (or vector of rows), pass after pass
over its columns (native.passes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tracejit.codegen.native import words
from tracejit.codegen.native.accumulate import Accumulator, Scanner, accumulator, finished
from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.lanes import some_lanes
from tracejit.codegen.native.passes import Pass, plan_passes
from tracejit.codegen.native.strategy import Strategy
from tracejit.codegen.native.types import I64, Type, Value, const
from tracejit.codegen.native.values import Evaluator
from tracejit.fuse.index import Axis, Index, linear
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.regroup import parts
from tracejit.fuse.scalar import Scalar, in_order
from tracejit.ir.graph import numel

# Steps of one chain of a sum of floats, and up to how many there is one chain only. Errors of the
# chains of many lanes even out; where each lane is a row, they do not.
BLOCK, CASCADE = 32, 64
FEW = 16
# Elements of a row above which chains are put together in f64: where lanes are added up, and where
# each is a row, which has as many totals of its own.
WIDE_ACROSS, WIDE_ROWS = 128, 512
MOST_KEPT = 1 << 16  # bytes of row buffers, on the thread's stack
MakeEvaluator = Callable[..., Evaluator]


@dataclass(frozen=True)
class Place:
    """A row, or a vector of rows (`lanes`): the values of its axes, and which lanes are there.
    `part`: the nest as it is there, if it has no reductions."""

    axes: Mapping[Axis, Value]
    lanes: int
    mask: Value | None
    part: LoopNest | None = None


class Rows:
    """Writes the work of one task."""

    def __init__(self, nest: LoopNest, strategy: Strategy, room: int = MOST_KEPT) -> None:
        """`room`: bytes for row buffers."""
        self.nest, self.strategy = nest, strategy
        self.vector = strategy.vector
        lanes_of_rows = 1 if self.along_columns else max(strategy.lanes, 1)
        self.passes, self.last = plan_passes(nest, room // lanes_of_rows)
        self.column = linear(
            [Index.of(a) for a in nest.reduction], [a.size for a in nest.reduction]
        )
        self.wide = nest.columns > (WIDE_ACROSS if self.along_columns else WIDE_ROWS)
        self.outer = [a for a in nest.parallel if a != self.vector]
        self.blocks = 1
        if self.vector is not None and not self.vector.reduce:
            self.blocks = -(-self.vector.size // strategy.block)

    @property
    def along_columns(self) -> bool:
        """Whether the lanes are columns of one row."""
        return self.vector is not None and self.vector.reduce

    @property
    def tasks(self) -> int:
        """How many tasks there are: rows, or blocks of the vector axis in each."""
        return int(numel(a.size for a in self.outer)) * self.blocks

    def places(self, b: Builder, task: Value) -> Iterator[Place]:
        """The rows of task number `task`, or its vectors of rows; what is written for one lies in a
        loop."""
        row, block = task, const(I64, 0)
        if self.blocks > 1:
            count = const(I64, self.blocks)
            row, block = b.binary("udiv", task, count), b.binary("urem", task, count)
        axes = digits(b, row, self.outer)
        if self.vector is None or self.vector.reduce:
            yield Place(axes, 0, None)
            return
        for at, lanes, mask, part in self._vectors(b, block):
            yield Place({**axes, self.vector: at}, lanes, mask, part)

    def _vectors(
        self, b: Builder, block: Value
    ) -> Iterator[tuple[Value, int, Value | None, LoopNest | None]]:
        """The vectors of a block of the vector axis: whole ones in a loop, then what is left."""
        assert self.vector is not None
        size, lanes, step = self.vector.size, self.strategy.lanes, self.strategy.block
        start = b.mul(block, step)
        whole = size // lanes * lanes
        stop = const(I64, min(whole, step))
        if self.blocks > 1:
            stop = b.intrinsic("llvm.smin", I64, b.add(start, step), const(I64, whole))
        cut: list[tuple[int, int, LoopNest | None]] = [(0, size, None)]
        if not self.nest.reduction:
            cut = [*parts(self.nest, self.vector, lanes)]
        for first, end, nest in cut:
            if first < whole:
                here = self._between(b, first, start, "llvm.smax") if first else start
                until = self._between(b, end, stop, "llvm.smin") if end < whole else stop
                with b.loop(here, until, lanes, str(self.vector)) as at:
                    yield at, lanes, None, nest
        rest = size - whole
        if rest:
            last = b.icmp("eq", block, self.blocks - 1)
            with maybe(b, last, self.blocks > 1):
                for piece in pieces(whole, rest, lanes, self.strategy.narrow):
                    yield *piece, nest

    def _between(self, b: Builder, border: int, limit: Value, which: str) -> Value:
        """A border of a part, or the block's where that is the nearer one."""
        known = const(I64, border)
        return b.intrinsic(which, I64, limit, known) if self.blocks > 1 else known

    def evaluator(
        self, b: Builder, pointers: Mapping[str, Value], place: Place, known: Mapping[int, Value]
    ) -> MakeEvaluator:
        """A function from further axes' values to an evaluator there."""
        vector = None if self.along_columns else self.vector

        def make(more: Mapping[Axis, Value], **change: Any) -> Evaluator:
            given = {"vector": vector, "lanes": place.lanes, "mask": place.mask, **change}
            axes = {**place.axes, **more}
            aligned = self.strategy.lanes or 1
            ahead = self.strategy.ahead
            nest = place.part or self.nest
            return Evaluator(
                b, nest, pointers, axes, bound=known, aligned=aligned, ahead=ahead, **given
            )

        return make

    def write(self, b: Builder, pointers: Mapping[str, Value], task: Value) -> None:
        """The work of task number `task`: all passes over each of its rows."""
        for place in self.places(b, task):
            known: dict[int, Value] = {}
            buffers: dict[int, Value] = {}
            make = self.evaluator(b, pointers, place, known)
            for now in self.passes:
                for scalar, found in Walk(self, b, make, now, buffers, place.lanes).run().items():
                    known[scalar.key] = finished(b, scalar, found, self.wide)
            here = make({})
            for store in self.last if place.part is None else place.part.stores:
                here.store(store)


@dataclass
class Walk:
    """One pass over the columns of a row (or of the rows in a vector)."""

    rows: Rows
    b: Builder
    evaluator: MakeEvaluator
    now: Pass
    buffers: dict[int, Value]
    row_lanes: int  # lanes that are rows of their own; 0 if lanes are columns, or there are none

    def __post_init__(self) -> None:
        strategy, vector = self.rows.strategy, self.rows.vector
        across = self.rows.along_columns
        self.lanes = strategy.lanes if across else self.row_lanes
        left = vector.size % self.lanes if across and vector is not None else 0
        whole = vector is None or vector.size >= self.lanes
        self.main = self._accumulators(self.lanes) if whole or not across else []
        self.rest = self._accumulators(strategy.narrow) if left else []
        scans = {s.key: s for root in self.now.roots() for s in in_order((root,)) if s.op == "scan"}
        self.scanners = {
            key: Scanner(self.b, scan, self.lanes, across)
            for key, scan in scans.items()
            if scan not in self.now.kept
        }

    def run(self, first: tuple[Value, Value] | None = None) -> dict[Scalar, list[Value]]:
        """Write it; the parts of each reduction. `first`: the range of the first reduction axis, if
        not the whole."""
        order = list(self.rows.nest.reduction)
        if self.rows.along_columns and first is None:
            assert self.rows.vector is not None
            order.remove(self.rows.vector)
            order.append(self.rows.vector)
        self._loops(order, {}, first)
        if not self.rows.along_columns:
            return dict(zip(self.now.reduces, (a.parts() for a in self.main), strict=True))
        for main, rest in zip(self.main, self.rest, strict=False):
            main.merge(rest)
        whole = self.rest or self.main
        return dict(zip(self.now.reduces, (a.across() for a in whole), strict=True))

    def _accumulators(self, lanes: int) -> list[Accumulator]:
        rows = self.rows
        return [accumulator(self.b, s, lanes, rows.column, rows.wide) for s in self.now.reduces]

    def _loops(
        self, order: Sequence[Axis], at: dict[Axis, Value], first: tuple[Value, Value] | None
    ) -> None:
        """Loops over reduction axes, the first outermost."""
        b, across = self.b, self.rows.along_columns
        if not order:
            self._step(at, self.main, {})
            return
        axis, *inner = order
        if across and axis == self.rows.vector:
            self._across(at, first)
            return
        start, stop = first or (const(I64, 0), const(I64, axis.size))
        if not inner and not across and axis.size > FEW and self._folds:
            size = BLOCK if self.rows.wide else FEW
            with b.loop(start, stop, size, f"{axis}_block") as block:
                end = b.intrinsic("llvm.smin", I64, b.add(block, size), stop)
                with b.loop(block, end, name=str(axis)) as value:
                    self._step({**at, axis: value}, self.main, {})
                self._fold()
            return
        with b.loop(start, stop, name=str(axis)) as value:
            self._loops(inner, {**at, axis: value}, None)
            if inner or across:
                self._fold()

    @property
    def _folds(self) -> bool:
        return any(a.total is not None for a in self.main)

    def _fold(self) -> None:
        for each in (*self.main, *self.rest):
            each.fold()

    def _across(self, at: dict[Axis, Value], first: tuple[Value, Value] | None) -> None:
        """The vectors of the vector axis: whole ones in a loop, then what is left over."""
        b, vector = self.b, self.rows.vector
        assert vector is not None
        lanes, size = self.lanes, vector.size
        whole = size // lanes * lanes
        start, stop = const(I64, 0), const(I64, whole)
        if first is not None:
            start = first[0]
            stop = b.intrinsic("llvm.smin", I64, first[1], const(I64, whole))
        if whole:
            self._whole(at, start, stop, whole // lanes)
        if size > whole:
            narrow = self.rows.strategy.narrow
            last = b.icmp("eq", first[1], size) if first else Value("true", Type("i1"))
            with maybe(b, last, first is not None):
                for place, count, mask in pieces(whole, size - whole, lanes, narrow, apart=True):
                    change = {"lanes": count, "mask": mask}
                    self._step({**at, vector: place}, self.rest, change)

    def _whole(self, at: dict[Axis, Value], start: Value, stop: Value, steps: int) -> None:
        b, vector, lanes = self.b, self.rows.vector, self.lanes
        assert vector is not None
        change = {"lanes": lanes, "mask": None}
        if steps > CASCADE and self._folds:
            with b.loop(start, stop, BLOCK * lanes, f"{vector}_block") as block:
                end = b.intrinsic("llvm.smin", I64, b.add(block, BLOCK * lanes), stop)
                with b.loop(block, end, lanes, str(vector)) as place:
                    self._step({**at, vector: place}, self.main, change)
                self._fold()
            return
        with b.loop(start, stop, lanes, str(vector)) as place:
            self._step({**at, vector: place}, self.main, change)

    def _step(
        self, at: dict[Axis, Value], into: list[Accumulator], change: Mapping[str, Any]
    ) -> None:
        """One vector of columns (or one column of a vector of rows)."""
        if change:
            change = {**change, "vector": self.rows.vector}
        here = self.evaluator(at, **change)
        here.running = lambda scalar, element: self._scan(scalar, element, here)
        for scalar in self.now.kept:
            here.known[scalar.key] = self._buffered(scalar, here)
        for each in into:
            each.add(here)
        for store in self.now.stores:
            here.store(store)
        for scalar in self.now.keep:
            self._put(scalar, here)

    def _scan(self, scalar: Scalar, element: Value, here: Evaluator) -> Value:
        return self.scanners[scalar.key].step(element, here.mask)

    # Row buffers hold what a register holds, so that a half is kept as it is.

    def _slot_of(self, scalar: Scalar, here: Evaluator) -> tuple[Value, Type]:
        """The address of this place in the buffer of an expression, and its type there."""
        b = self.b
        element = Type(words.memory_kind(scalar.dtype), here.lanes)
        count = self.rows.nest.columns * max(self.row_lanes, 1)
        if scalar.key not in self.buffers:
            self.buffers[scalar.key] = b.alloca(element.scalar, count, name="kept")
        column = here.place(self.rows.column).base
        if self.row_lanes:
            column = b.mul(column, self.row_lanes)
        return b.gep(self.buffers[scalar.key], element.scalar, column), element

    def _put(self, scalar: Scalar, here: Evaluator) -> None:
        address, _ = self._slot_of(scalar, here)
        value = words.to_memory(self.b, here.wide(scalar))
        if here.mask is None or self.row_lanes:
            self.b.store(value, address)
            return
        self.b.masked_store(value, address, here.mask)

    def _buffered(self, scalar: Scalar, here: Evaluator) -> Value:
        address, element = self._slot_of(scalar, here)
        if here.mask is None or self.row_lanes:
            loaded = self.b.load(address, element)
        else:
            loaded = here.load_row(address, element.scalar, None)
        return words.from_memory(self.b, loaded, scalar.dtype)


@contextmanager
def maybe(b: Builder, condition: Value, needed: bool) -> Iterator[None]:
    """`when` the condition holds; always, if it need not be asked."""
    if not needed:
        yield
        return
    with b.when(condition):
        yield


def pieces(
    start: int, count: int, lanes: int, narrow: int, apart: bool = False
) -> Iterator[tuple[Value, int, Value | None]]:
    """Vectors for the `count` < lanes elements from `start` on: (place, lanes, mask).

    `apart`: registers of `narrow` lanes, one by one; else one vector of as many as it takes.
    """
    at, left = start, count
    width = narrow
    while not apart and width < count:
        width *= 2
    while left > 0:
        mask = some_lanes(width, left)
        yield const(I64, at), width, mask
        at, left = at + width, left - width


def digits(b: Builder, position: Value, axes: Sequence[Axis]) -> dict[Axis, Value]:
    """Each axis's value at a row-major position."""
    found: dict[Axis, Value] = {}
    rest = position
    for k, axis in reversed(list(enumerate(axes))):
        if k == 0:
            found[axis] = rest
        else:
            size = const(I64, axis.size)
            found[axis] = b.binary("urem", rest, size)
            rest = b.binary("udiv", rest, size)
    return found
