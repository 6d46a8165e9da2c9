"""A nest with few, long rows: the columns are shared out to threads in chunks of a fixed size, so
that the order of sums does not depend on the number of threads.

For each pass over the columns there are two phases: every chunk's partial results go to scratch
memory, then they are combined, chunk after chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracejit.codegen.native import words
from tracejit.codegen.native.accumulate import (
    Accumulator,
    accumulator,
    finished,
    part_types,
)
from tracejit.codegen.native.builder import I64, Builder, Module, Type, Value, const
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.rows import Pass, Place, Rows, Walk
from tracejit.codegen.native.strategy import CHUNK_NS, GRAIN_NS, Strategy
from tracejit.fuse.index import Index, linear
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.scalar import Scalar
from tracejit.ir.graph import numel

SCRATCH = "scratch"


@dataclass(frozen=True)
class Room:
    """Where a part of a reduction lies in scratch: bytes to the partial results (chunk by chunk, in
    each all rows) and to the final ones."""

    type: Type
    partial: int
    final: int


def add_split(
    module: Module, nest: LoopNest, strategy: Strategy, name: str
) -> tuple[int, list[Phase]]:
    """Write the phases' functions. Gives the bytes of scratch they need, and the phases."""
    split = Split(nest, strategy)
    phases: list[Phase] = []
    pointers = [*(f"{b.name}_" for b in nest.buffers), SCRATCH]
    for number, now in enumerate(split.rows.passes):
        body = f"{name}.chunks.{number}"
        add_body(module, body, pointers, lambda b, p, i, j, now=now: split.chunk(b, p, i, j, now))
        tasks = split.rows.tasks * split.chunks
        phases.append(Phase(body, tasks, max(int(GRAIN_NS / CHUNK_NS), 1)))
        final = number == len(split.rows.passes) - 1
        if not now.reduces and not final:
            continue
        body = f"{name}.combined.{number}"
        add_body(
            module,
            body,
            pointers,
            lambda b, p, i, j, now=now, final=final: split.combine(b, p, i, j, now, final),
        )
        phases.append(Phase(body, split.rows.tasks, max(split.rows.tasks, 1)))
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
        return Room(type, partial, partial + each * self.chunks)

    def _each(self, room: Room) -> int:
        """Bytes from one chunk's partial results to the next one's."""
        return (room.final - room.partial) // self.chunks

    def _named(self, pointers: list[Value]) -> dict[str, Value]:
        return {b.name: p for b, p in zip(self.nest.buffers, pointers, strict=False)}

    def _known(self, b: Builder, scratch: Value, place: Place, before: Pass) -> dict[int, Value]:
        """The reductions of earlier passes."""
        known: dict[int, Value] = {}
        for now in self.rows.passes:
            if now is before:
                break
            for scalar in now.reduces:
                rooms = self.rooms[scalar.key]
                parts = [
                    self._load(b, scratch, place, r, const(I64, r.final), scalar) for r in rooms
                ]
                known[scalar.key] = finished(b, scalar, parts, self.rows.wide)
        return known

    def chunk(self, b: Builder, pointers: list[Value], begin: Value, end: Value, now: Pass) -> None:
        """Partial results of one pass over chunks begin … end-1 of all rows' chunks."""
        scratch = pointers[-1]
        with b.loop(begin, end, name="task") as task:
            count = const(I64, self.chunks)
            which = b.binary("urem", task, count)
            low = b.mul(which, const(I64, self.strategy.chunk))
            high = b.intrinsic(
                "llvm.smin",
                I64,
                b.add(low, const(I64, self.strategy.chunk)),
                const(I64, self.first.size),
            )
            row = b.binary("udiv", task, count)
            if self.strategy.stride:
                self._abreast(b, pointers, now, row, which, (low, high))
            else:
                for place in self.rows.places(b, row):
                    for scalar, parts in self._walk(b, pointers, place, now, (low, high)).items():
                        self._put(b, scratch, place, scalar, which, parts)

    def _abreast(
        self,
        b: Builder,
        pointers: list[Value],
        now: Pass,
        row: Value,
        which: Value,
        steps: tuple[Value, Value],
    ) -> None:
        """A chunk, a few steps for each vector of rows in turn; their totals are in scratch."""
        scratch = pointers[-1]
        for place in self.rows.places(b, row):
            for scalar in now.reduces:
                parts = self._total(b, place, scalar).parts()
                self._put(b, scratch, place, scalar, which, parts)
        stride = self.strategy.stride
        with b.loop(*steps, stride, "step") as step:
            stop = b.intrinsic("llvm.smin", I64, b.add(step, const(I64, stride)), steps[1])
            for place in self.rows.places(b, row):
                for scalar, parts in self._walk(b, pointers, place, now, (step, stop)).items():
                    total = self._total(b, place, scalar)
                    total.take(self._got(b, scratch, place, scalar, which))
                    total.take(parts)
                    self._put(b, scratch, place, scalar, which, total.parts())

    def _total(self, b: Builder, place: Place, scalar: Scalar) -> Accumulator:
        return accumulator(b, scalar, place.lanes, self.rows.column, self.rows.wide)

    def _walk(
        self,
        b: Builder,
        pointers: list[Value],
        place: Place,
        now: Pass,
        steps: tuple[Value, Value],
    ) -> dict[Scalar, list[Value]]:
        """What a pass gives over some steps of the first reduction axis."""
        known = self._known(b, pointers[-1], place, now)
        make = self.rows.evaluator(b, self._named(pointers), place, known)
        return Walk(self.rows, b, make, now, {}, place.lanes).run(steps)

    def _offset(self, b: Builder, room: Room, which: Value) -> Value:
        """Bytes to the partial results of chunk `which`."""
        return b.add(b.mul(which, const(I64, self._each(room))), const(I64, room.partial))

    def _put(
        self,
        b: Builder,
        scratch: Value,
        place: Place,
        scalar: Scalar,
        which: Value,
        parts: list[Value],
    ) -> None:
        """Keep a chunk's partial results."""
        for room, part in zip(self.rooms[scalar.key], parts, strict=True):
            self._store(b, scratch, place, room, self._offset(b, room, which), part)

    def _got(
        self, b: Builder, scratch: Value, place: Place, scalar: Scalar, which: Value
    ) -> list[Value]:
        """A chunk's partial results."""
        return [
            self._load(b, scratch, place, room, self._offset(b, room, which), scalar)
            for room in self.rooms[scalar.key]
        ]

    def combine(
        self,
        b: Builder,
        pointers: list[Value],
        begin: Value,
        end: Value,
        now: Pass,
        final: bool,
    ) -> None:
        """Final results of one pass, from its chunks; after the last pass also the rows' stores."""
        scratch = pointers[-1]
        with b.loop(begin, end, name="row") as task:
            for place in self.rows.places(b, task):
                known = self._known(b, scratch, place, now)
                for scalar in now.reduces:
                    known[scalar.key] = self._combined(b, scratch, place, scalar, final)
                if final:
                    here = self.rows.evaluator(b, self._named(pointers), place, known)({})
                    for store in self.rows.last:
                        here.store(store)

    def _combined(
        self, b: Builder, scratch: Value, place: Place, scalar: Scalar, final: bool
    ) -> Value:
        rooms = self.rooms[scalar.key]
        total = self._total(b, place, scalar)
        with b.loop(const(I64, 0), const(I64, self.chunks), name="chunk") as chunk:
            total.take(self._got(b, scratch, place, scalar, chunk))
        parts = total.parts()
        for room, part in zip(rooms, parts, strict=True):
            if not final:
                self._store(b, scratch, place, room, const(I64, room.final), part)
        return finished(b, scalar, parts, self.rows.wide)

    def _address(
        self, b: Builder, scratch: Value, place: Place, room: Room, offset: Value
    ) -> Value:
        at = self.rows.evaluator(b, {}, place, {})({}).place(self.row).base
        return b.gep(b.gep(scratch, Type("i8"), offset), room.type, at)

    def _load(
        self, b: Builder, scratch: Value, place: Place, room: Room, offset: Value, scalar: Scalar
    ) -> Value:
        address = self._address(b, scratch, place, room, offset)
        loaded = b.load(address, Type(room.type.kind, place.lanes))
        flag = scalar.arg in ("any", "all") and room.type.kind == "i8"
        return words.from_memory(b, loaded, "bool") if flag and _is_bool(scalar) else loaded

    def _store(
        self,
        b: Builder,
        scratch: Value,
        place: Place,
        room: Room,
        offset: Value,
        value: Value,
    ) -> None:
        address = self._address(b, scratch, place, room, offset)
        b.store(words.to_memory(b, value), address)


def _is_bool(scalar: Scalar) -> bool:
    return scalar.args[0].dtype == "bool"
