"""A nest with few, long rows: the columns are shared out to threads in chunks of a fixed size, so
that the order of sums does not depend on the number of threads.

For each pass over the columns there are two phases: every chunk's partial results go to scratch
memory, then they are combined, chunk after chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from tracejit.codegen.native import words
from tracejit.codegen.native.accumulate import (
    Accumulator,
    accumulator,
    finished,
    part_types,
)
from tracejit.codegen.native.builder import Builder, Module
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.passes import Pass
from tracejit.codegen.native.rows import MakeEvaluator, Place, Rows, Walk
from tracejit.codegen.native.strategy import CHUNK_NS, GRAIN_NS, Strategy
from tracejit.codegen.native.types import I64, Type, Value, const
from tracejit.fuse.index import Index, linear
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.scalar import Scalar
from tracejit.ir.graph import numel

SCRATCH = "scratch"
Steps = tuple[Value, Value]  # of the first reduction axis: begin and end


@dataclass(frozen=True)
class Room:
    """Where a part of a reduction lies in scratch: bytes to the partial results (chunk by chunk, in
    each all rows) and to the final ones; `each`: from one chunk's to the next one's."""

    type: Type
    partial: int
    final: int
    each: int


def add_split(
    module: Module, nest: LoopNest, strategy: Strategy, name: str
) -> tuple[int, list[Phase]]:
    """Write the phases' functions. Gives the bytes of scratch they need, and the phases."""
    split = Split(nest, strategy)
    phases: list[Phase] = []
    pointers = [*(f"{b.name}_" for b in nest.buffers), SCRATCH]
    rows, passes = split.rows.tasks, split.rows.passes
    for number, now in enumerate(passes):
        body = f"{name}.chunks.{number}"
        add_body(module, body, pointers, partial(split.chunk, now=now))
        phases.append(Phase(body, rows * split.chunks, max(int(GRAIN_NS / CHUNK_NS), 1)))
        final = now is passes[-1]
        if now.reduces or final:
            body = f"{name}.combined.{number}"
            add_body(module, body, pointers, partial(split.combine, now=now, final=final))
            phases.append(Phase(body, rows, max(rows, 1)))
    return split.size, phases


class Split:
    """Writes the phases of one nest."""

    def __init__(self, nest: LoopNest, strategy: Strategy) -> None:
        self.nest, self.strategy = nest, strategy
        self.rows = Rows(nest, strategy, room=0)
        self.first = nest.reduction[0]
        self.chunks = -(-self.first.size // strategy.chunk)
        order = [*self.rows.outer]
        sizes = [a.size for a in order]
        if self.rows.vector is not None and not self.rows.vector.reduce:
            order.append(self.rows.vector)  # whole vectors are stored: what they pass over is ours
            sizes.append(-(-self.rows.vector.size // strategy.lanes) * strategy.lanes)
        self.row = linear([Index.of(a) for a in order], sizes)
        self.padded = int(numel(sizes))
        self.rooms: dict[int, list[Room]] = {}
        self.size = 0
        for now in self.rows.passes:
            for scalar in now.reduces:
                self.rooms[scalar.key] = [self._room(t) for t in part_types(scalar, self.rows.wide)]

    def _room(self, type: Type) -> Room:
        each = -(-self.padded * type.bits // 8 // 64) * 64
        partial = self.size
        self.size += each * (self.chunks + 1)
        return Room(type, partial, partial + each * self.chunks, each)

    def _spots(self, b: Builder, pointers: list[Value], row: Value) -> Iterator[Spot]:
        """The rows of task number `row`, or its vectors of rows."""
        return (Spot(self, b, pointers, place) for place in self.rows.places(b, row))

    def chunk(self, b: Builder, pointers: list[Value], begin: Value, end: Value, now: Pass) -> None:
        """Partial results of one pass over chunks begin … end-1 of all rows' chunks."""
        with b.loop(begin, end, name="task") as task:
            count, step = const(I64, self.chunks), const(I64, self.strategy.chunk)
            which = b.binary("urem", task, count)
            low = b.mul(which, step)
            high = b.intrinsic("llvm.smin", I64, b.add(low, step), const(I64, self.first.size))
            row = b.binary("udiv", task, count)
            if self.strategy.stride:
                self._abreast(b, pointers, now, row, which, (low, high))
                return
            for spot in self._spots(b, pointers, row):
                for scalar, parts in spot.walk(now, (low, high)).items():
                    spot.put(scalar, which, parts)

    def _abreast(
        self, b: Builder, pointers: list[Value], now: Pass, row: Value, which: Value, steps: Steps
    ) -> None:
        """A chunk, a few steps for each vector of rows in turn; their totals are in scratch."""
        for spot in self._spots(b, pointers, row):
            for scalar in now.reduces:
                spot.put(scalar, which, spot.total(scalar).parts())
        stride = self.strategy.stride
        with b.loop(*steps, stride, "step") as step:
            stop = b.intrinsic("llvm.smin", I64, b.add(step, stride), steps[1])
            for spot in self._spots(b, pointers, row):
                for scalar, parts in spot.walk(now, (step, stop)).items():
                    total = spot.total(scalar)
                    total.take(spot.got(scalar, which))
                    total.take(parts)
                    spot.put(scalar, which, total.parts())

    def combine(
        self, b: Builder, pointers: list[Value], begin: Value, end: Value, now: Pass, final: bool
    ) -> None:
        """Final results of one pass, from its chunks; after the last pass also the rows' stores."""
        with b.loop(begin, end, name="row") as task:
            for spot in self._spots(b, pointers, task):
                known = spot.known(now)
                for scalar in now.reduces:
                    known[scalar.key] = spot.combined(scalar, final)
                if final:
                    here = spot.evaluator(known)({})
                    for store in self.rows.last:
                        here.store(store)


@dataclass
class Spot:
    """A row, or a vector of rows, in one phase: what it computes, and keeps in scratch."""

    split: Split
    b: Builder
    pointers: list[Value]
    place: Place

    def evaluator(self, known: dict[int, Value]) -> MakeEvaluator:
        named = {b.name: p for b, p in zip(self.split.nest.buffers, self.pointers, strict=False)}
        return self.split.rows.evaluator(self.b, named, self.place, known)

    def known(self, before: Pass) -> dict[int, Value]:
        """The reductions of earlier passes."""
        known: dict[int, Value] = {}
        for now in takewhile(lambda now: now is not before, self.split.rows.passes):
            for scalar in now.reduces:
                rooms = self.split.rooms[scalar.key]
                parts = [self._load(r, const(I64, r.final), scalar) for r in rooms]
                known[scalar.key] = finished(self.b, scalar, parts, self.split.rows.wide)
        return known

    def total(self, scalar: Scalar) -> Accumulator:
        rows = self.split.rows
        return accumulator(self.b, scalar, self.place.lanes, rows.column, rows.wide)

    def walk(self, now: Pass, steps: Steps) -> dict[Scalar, list[Value]]:
        """What a pass gives over some steps of the first reduction axis."""
        make = self.evaluator(self.known(now))
        return Walk(self.split.rows, self.b, make, now, {}, self.place.lanes).run(steps)

    def _offset(self, room: Room, which: Value) -> Value:
        """Bytes to the partial results of chunk `which`."""
        b = self.b
        return b.add(b.mul(which, room.each), room.partial)

    def put(self, scalar: Scalar, which: Value, parts: list[Value]) -> None:
        """Keep a chunk's partial results."""
        for room, part in zip(self.split.rooms[scalar.key], parts, strict=True):
            self._store(room, self._offset(room, which), part)

    def got(self, scalar: Scalar, which: Value) -> list[Value]:
        """A chunk's partial results."""
        rooms = self.split.rooms[scalar.key]
        return [self._load(room, self._offset(room, which), scalar) for room in rooms]

    def combined(self, scalar: Scalar, final: bool) -> Value:
        """The reduction, from all chunks; kept unless it is the `final` pass that wants it."""
        total = self.total(scalar)
        with self.b.loop(0, self.split.chunks, name="chunk") as chunk:
            total.take(self.got(scalar, chunk))
        parts = total.parts()
        for room, part in zip(self.split.rooms[scalar.key], parts, strict=True):
            if not final:
                self._store(room, const(I64, room.final), part)
        return finished(self.b, scalar, parts, self.split.rows.wide)

    def _address(self, room: Room, offset: Value) -> Value:
        b = self.b
        here = self.split.rows.evaluator(b, {}, self.place, {})({})
        at = here.place(self.split.row).base
        return b.gep(b.gep(self.pointers[-1], Type("i8"), offset), room.type, at)

    def _load(self, room: Room, offset: Value, scalar: Scalar) -> Value:
        address = self._address(room, offset)
        loaded = self.b.load(address, Type(room.type.kind, self.place.lanes))
        flag = scalar.arg in ("any", "all") and scalar.args[0].dtype == "bool"
        return words.from_memory(self.b, loaded, "bool") if flag else loaded

    def _store(self, room: Room, offset: Value, value: Value) -> None:
        address = self._address(room, offset)
        self.b.store(words.to_memory(self.b, value), address)
