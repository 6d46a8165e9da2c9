"""Attention of bf16: one kernel with two ways to compute it, which runs on every processor of its
level. Where there is a matrix unit it is used (attention_amx.py; whether there is, is asked once);
elsewhere panels of f32 (attention_panels.py).
"""

from __future__ import annotations

from collections.abc import Callable

from tracejit.codegen.native import matrix_unit as unit
from tracejit.codegen.native.attention_amx import Matrix
from tracejit.codegen.native.attention_pairs import WORDS, Pairs
from tracejit.codegen.native.attention_panels import GRAIN_NS, Panels
from tracejit.codegen.native.attention_tiles import at, plus, times, transpose
from tracejit.codegen.native.builder import I16, I32, I64, PTR, Builder, Type, Value, const, define
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.matrix_unit import BYTES, DEPTH, SIDE, TILE

SPEEDUP = 4  # of the matrix unit over panels of f32, a low guess
PACK_NS = 0.1  # of an element that is put in its place


class Halves(Pairs):
    """Writes all functions of a kernel."""

    def write(self, work_ns: float) -> tuple[list[Phase], dict[str, int], str]:
        """All functions; the phases, constants, and the strategy in words."""
        given = (self.module, self.nest, self.level, self.factor, self.added)
        ways = [Panels(*given), Matrix(*given)]
        names = [*self.nest.operands, "scratch"]
        for way in ways:
            way.functions()
            self._range(way, names)
        add_body(self.module, "pack", names, self._pack)
        add_body(self.module, "tasks", names, self._best_way)
        heads = self.nest.key.sizes[0] * self.nest.key.sizes[1]
        chunk_ns = PACK_NS * DEPTH * (self.padded_columns + self.copied * self.padded_width)
        phases = [
            Phase("pack", heads * self.chunks, max(1, round(GRAIN_NS / chunk_ns))),
            Phase("tasks", self.task_count, self.grain(work_ns / SPEEDUP)),
        ]
        words = f"{ways[1].words()} of the matrix unit; without one, {ways[0].words()}"
        return phases, {"scratch": 2 * heads * self.head_size}, words

    def _range(self, way: Panels, names: list[str]) -> None:
        """The function of a way that does a range of tasks."""
        pointers = [Value(f"%{n}", PTR) for n in names]

        def write(b: Builder, *given: Value) -> None:
            way.tasks(b, list(given[:-2]), given[-2], given[-1])

        parameters = [*pointers, Value("%begin", I64), Value("%end", I64)]
        define(self.module, f"{way.prefix}range", parameters, write, way.attributes)

    def _best_way(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """The tasks, one way or the other."""
        b.branch(unit.available(b), "with", "without")
        for label, way in (("with", Matrix), ("without", Panels)):
            b.label(label)
            b.call_void(f"{way.prefix}range", *pointers, begin, end)
            b.jump("done")
        b.label("done")

    def _pack(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """A task is a chunk of a head's keys."""
        some = unit.available(b)
        given = dict(zip([*self.nest.operands, "scratch"], pointers))
        with b.when(some, "some"), b.loop(begin, end, 1, "task") as task:
            chunks, heads = const(I64, self.chunks), const(I64, self.nest.key.sizes[1])
            pair, chunk = b.binary("udiv", task, chunks), b.binary("urem", task, chunks)
            batch, head = b.binary("udiv", pair, heads), b.binary("urem", pair, heads)
            kept = at(b, given["scratch"], times(b, pair, self.head_size), I16)
            places = {}
            for name in ("key", "value"):
                operand = self.nest.operands[name]
                offset = plus(
                    b,
                    (batch, operand.strides[0]),
                    (head, operand.strides[1]),
                    (times(b, chunk, DEPTH), operand.strides[2]),
                )
                places[name] = b.gep(given[name], I16, offset)
            values = at(b, kept, times(b, chunk, DEPTH * self.padded_columns), I16)
            keys = at(b, kept, self.value_size, I16)
            keys = at(b, keys, times(b, chunk, DEPTH * self.padded_width), I16)
            rest = self.keys % DEPTH
            whole = const(I64, self.chunks - bool(rest))
            with b.when(b.icmp("slt", chunk, whole), "whole"):
                self._pack_chunk(b, places, keys, values, DEPTH)
            if rest:
                with b.when(b.icmp("eq", chunk, whole), "rest"):
                    self._pack_chunk(b, places, keys, values, rest)

    def _pack_chunk(
        self, b: Builder, places: dict[str, Value], keys: Value, values: Value, many: int
    ) -> None:
        """The first `many` keys of a chunk, zeros behind them."""
        value = self.nest.value
        square = b.alloca(I32, TILE // 2, name="square")

        def tile(first: Value, width: int) -> None:
            source = at(b, places["value"], first, I16)
            for pair in range(SIDE):
                rows = [
                    self._halves(b, at(b, source, k * value.strides[2], I16), width)
                    if k < many
                    else const(WORDS, 0)
                    for k in (2 * pair, 2 * pair + 1)
                ]
                high = b.binary("shl", rows[1], 16)
                b.store(b.binary("or", rows[0], high), at(b, square, pair * SIDE), align=BYTES)
            transpose(b, SIDE, square, SIDE, at(b, values, times(b, first, DEPTH), I16), SIDE)

        self._chunks(b, self.columns, SIDE, tile)
        if self.copied:
            self._copy_keys(b, places["key"], keys, many)

    def _halves(self, b: Builder, place: Value, width: int) -> Value:
        """16 bf16 in the low halves of words."""
        return b.cast("zext", self._load(b, place, SIDE, width), WORDS)

    def _copy_keys(self, b: Builder, source: Value, to: Value, many: int) -> None:
        """Keys as they are, zeros behind their columns and behind the last one."""

        def rows(start: int, stop: int, write: Callable[[Value, int], Value]) -> None:
            with b.loop(start, stop, 1, "k") as k:
                for first in range(0, self.padded_width, DEPTH):
                    place = at(b, at(b, to, times(b, k, self.padded_width), I16), first, I16)
                    b.store(write(k, first), place, align=BYTES)

        def key(k: Value, first: int) -> Value:
            row = at(b, source, times(b, k, self.nest.key.strides[2]), I16)
            return self._load(b, at(b, row, first, I16), DEPTH, min(DEPTH, self.width - first))

        rows(0, many, key)
        if many < DEPTH:
            rows(many, DEPTH, lambda k, first: const(Type("i16", DEPTH), 0))
