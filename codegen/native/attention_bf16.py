"""Attention of bf16: one kernel with two ways to compute it, which runs on every processor of its
level. Where there is a matrix unit it is used (attention_matrix.py; whether there is, is asked
once); elsewhere panels of f32 (attention_panels.py). Values are put in pairs for the unit, and keys
copied where need be, by a phase before the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tracejit.codegen.native import matrix_unit as unit
from tracejit.codegen.native.attention_frame import GRAIN_NS, grain
from tracejit.codegen.native.attention_matrix import Matrix, load
from tracejit.codegen.native.attention_panels import Panels
from tracejit.codegen.native.attention_tiles import transpose
from tracejit.codegen.native.builder import Builder, Module, define
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.matrix_unit import BYTES, DEPTH, SIDE, TILE, WORDS
from tracejit.codegen.native.places import at, parts, plus, times
from tracejit.codegen.native.source import Work
from tracejit.codegen.native.types import I16, I32, I64, PTR, Type, Value, const, named
from tracejit.fuse.attention import Attention
from tracejit.runtime.cpu import Level

SPEEDUP = 4  # of the matrix unit over panels of f32, a low guess
PACK_NS = 0.1  # of an element that is put in its place


def suits(nest: Attention, level: Level) -> bool:
    """Whether there may be such kernels."""
    operands = (nest.query, nest.key, nest.value)
    return unit.may_have(level) and all(o.dtype == "bf16" and o.strides[3] == 1 for o in operands)


def write(module: Module, nest: Attention, level: Level) -> Work:
    """All functions of a kernel, and how its work is shared out."""
    plain, matrix = Panels(module, nest, level), Matrix(module, nest, level)
    names = [*nest.operands, "scratch"]
    for way in (plain, matrix):
        way.functions()
        _add_range(way, names)
    add_body(module, "pack", names, _Packing(matrix).write)
    add_body(module, "tasks", names, partial(_best_way, matrix, plain))
    heads, tasks = nest.key.sizes[0] * nest.key.sizes[1], matrix.task_count
    chunk_ns = PACK_NS * DEPTH * (matrix.padded_columns + matrix.copied * matrix.padded_width)
    phases = [
        Phase("pack", heads * matrix.chunks, max(1, round(GRAIN_NS / chunk_ns))),
        Phase("tasks", tasks, grain(tasks, plain.work_ns / SPEEDUP)),
    ]
    words = f"{matrix} of the matrix unit; without one, {plain}"
    return Work(phases, plain.work_ns, words, 2 * heads * matrix.head_size)


def _add_range(way: Panels, names: list[str]) -> None:
    """The function of a way that does a range of tasks."""

    def write(b: Builder, *given: Value) -> None:
        *pointers, begin, end = given
        way.tasks(b, pointers, begin, end)

    parameters = [*named(PTR, " ".join(names)), *named(I64, "begin end")]
    define(way.module, f"{way.prefix}range", parameters, write, way.attributes)


def _best_way(
    matrix: Matrix, plain: Panels, b: Builder, pointers: list[Value], begin: Value, end: Value
) -> None:
    """The tasks, one way or the other."""
    for some in b.either(unit.available(b), "with", "without"):
        prefix = (matrix if some else plain).prefix
        b.call_void(f"{prefix}range", *pointers, begin, end)


@dataclass(frozen=True)
class _Packing:
    """Puts keys and values where the matrix unit's way wants them."""

    way: Matrix

    def write(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """A task is a chunk of a head's keys."""
        way, operands = self.way, self.way.nest.operands
        given = dict(zip(operands, pointers))
        with b.when(unit.available(b), "some"), b.loop(begin, end, 1, "task") as task:
            pair, chunk = b.divmod(task, way.chunks)
            batch, head = b.divmod(pair, way.nest.key.sizes[1])
            kept = at(b, pointers[-1], times(b, pair, way.head_size), I16)
            first, places = times(b, chunk, DEPTH), {}
            for name in ("key", "value"):
                steps = zip((batch, head, first), operands[name].strides)
                places[name] = b.gep(given[name], I16, plus(b, *steps))
            values = at(b, kept, times(b, first, way.padded_columns), I16)
            keys = at(b, kept, way.value_size, I16)
            keys = at(b, keys, times(b, first, way.padded_width), I16)
            whole, rest = divmod(way.keys, DEPTH)
            for test, many in (("slt", DEPTH), ("eq", rest)):
                if many:
                    with b.when(b.icmp(test, chunk, whole), "chunk"):
                        self._values(b, places["value"], values, many)
                        if way.copied:
                            self._keys(b, places["key"], keys, many)

    def _values(self, b: Builder, source: Value, to: Value, many: int) -> None:
        """The first `many` values of a chunk in pairs, transposed, zeros behind them."""
        step = self.way.nest.value.strides[2]
        square = b.alloca(I32, TILE // 2, name="square")
        for first, width in parts(b, self.way.columns, SIDE, "column"):
            place = at(b, source, first, I16)
            for pair in range(SIDE):
                low, high = (
                    b.cast("zext", load(b, at(b, place, k * step, I16), SIDE, width), WORDS)
                    if k < many
                    else const(WORDS, 0)
                    for k in (2 * pair, 2 * pair + 1)
                )
                words = b.binary("or", low, b.binary("shl", high, 16))
                b.store(words, at(b, square, pair * SIDE), align=BYTES)
            transpose(b, SIDE, square, SIDE, at(b, to, times(b, first, DEPTH), I16), SIDE)

    def _keys(self, b: Builder, source: Value, to: Value, many: int) -> None:
        """Keys as they are, zeros behind their columns and behind the last one."""
        way = self.way

        def rows(start: int, stop: int, row: Callable[[Value, int], Value]) -> None:
            with b.loop(start, stop, 1, "k") as k:
                for first in range(0, way.padded_width, DEPTH):
                    place = at(b, at(b, to, times(b, k, way.padded_width), I16), first, I16)
                    b.store(row(k, first), place, align=BYTES)

        def key(k: Value, first: int) -> Value:
            row = at(b, source, times(b, k, way.nest.key.strides[2]), I16)
            return load(b, at(b, row, first, I16), DEPTH, min(DEPTH, way.width - first))

        rows(0, many, key)
        if many < DEPTH:
            rows(many, DEPTH, lambda k, first: const(Type("i16", DEPTH), 0))
