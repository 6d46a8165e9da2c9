"""Attention of many query rows: FlashAttention-2's algorithm (Dao 2023) with the online softmax of
Milakov and Gimelshein ("Online normalizer calculation for softmax", 2018). Scores are never stored.

A task is some panels of query rows of one head. A panel's rows are the lanes of a few vectors, and
everything is computed transposed: scores[key, row] and sums[column, row]. So keys and values are
read in place, an element at a time for all lanes (no packing, any strides); maxima and sums over
keys are lane by lane; only the panel of queries and the result are transposed, once.

    for each block of keys:                              (up to the last one that a row may see)
        for each panel of rows:
            scores = K · Qᵀ                              register tiles
            scores += mask                               where there is one
            new maximum m of each row; weights = 2^((scores - m)·scale·log2 e)
            sums = sums · 2^((old m - m)·scale·log2 e) + Vᵀ · weights
    out = (sums / total of the weights)ᵀ

Half types are widened to f32 block by block; all arithmetic is f32. A few rows alone
(decoding) are attention_row.py's; bf16 is attention_bf16.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracejit.codegen.native.attention_blocks import Blocks
from tracejit.codegen.native.attention_frame import up
from tracejit.codegen.native.attention_tiles import at, plus, times
from tracejit.codegen.native.builder import F32, I1, I64, PTR, Builder, Type, Value, const, define
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.words import memory_kind

GRAIN_NS = 30_000.0  # work that is worth a thread


@dataclass(frozen=True)
class Scratch:
    """Memory of a task: for each panel its queries, sums and state (maxima, totals); scores of one
    panel and one block of keys; blocks of keys and values that are copied before they are used."""

    packed: Value
    sums: Value
    state: Value
    scores: Value
    staged: dict[str, Value]


class Panels(Blocks):
    """Writes the functions of one kernel. `prefix` of their names; sizes are in f32 elements."""

    prefix = ""
    attributes = ""

    @property
    def packed_size(self) -> int:
        """A panel's queries."""
        return up(self.width, self.cut.lanes) * self.cut.panel

    @property
    def scores_size(self) -> int:
        """Scores of a panel and a block of keys, and what is made of them."""
        return self.cut.keys * self.cut.panel

    def write(self, work_ns: float) -> tuple[list[Phase], dict[str, int], str]:
        """All functions; the phases, constants, and the strategy in words."""
        self.functions()
        add_body(self.module, "tasks", list(self.nest.operands), self.tasks)
        return [Phase("tasks", self.task_count, self.grain(work_ns))], {}, self.words()

    def grain(self, work_ns: float) -> int:
        """Tasks that are worth a thread."""
        return max(1, min(self.task_count, round(self.task_count * GRAIN_NS / max(work_ns, 1.0))))

    def words(self) -> str:
        """The strategy."""
        cut = self.cut
        return (
            f"online softmax over blocks of {cut.keys} keys, tasks of {cut.panels}×{cut.panel} "
            f"query rows, tiles of {cut.tile}×{cut.panel}"
        )

    @property
    def task_count(self) -> int:
        batch, heads, _, _ = self.nest.query.sizes
        return batch * heads // self.cut.stacked * self.cut.blocks

    def functions(self) -> None:
        """The functions of a task's steps."""
        first, key = Value("%first", I64), Value("%key", I64)
        self._function("queries", self._queries, "from", "packed", more=[first])
        names = ["keys", "values", "mask", "packed", "scores", "sums", "state"]
        more = [Value("%count", I64), first, key, Value("%hidden", I1)]
        self._function("block", self._block, *names, more=more)
        if not self.module.has("finish"):
            parameters = [*(Value(f"%{n}", PTR) for n in ("sums", "state", "to")), first]
            define(self.module, "finish", parameters, self._finish)
        for name in ("key", "value"):
            if self._staged(self.nest.operands[name]):
                write = self._widening(self.nest.operands[name])
                self._function(f"widen.{name}", write, "from", "to", more=[Value("%count", I64)])

    def _function(
        self, name: str, write: Callable[..., None], *pointers: str, more: list[Value]
    ) -> None:
        parameters = [*(Value(f"%{n}", PTR) for n in pointers), *more]
        define(self.module, self.prefix + name, parameters, write, self.attributes)

    # Tasks

    def scratch(self, b: Builder) -> Scratch:
        """A task's memory, on the stack."""
        cut, operands = self.cut, self.nest.operands
        sizes = {
            "packed": cut.panels * self.packed_size,
            "sums": cut.panels * self.sum_rows * cut.panel,
            "state": cut.panels * 2 * cut.panel,
            "scores": self.scores_size,
        }
        memory = {name: b.alloca(F32, size, name=name) for name, size in sizes.items()}
        staged = {
            name: b.alloca(F32, cut.keys * operands[name].sizes[3], name=f"{name}_block")
            for name in ("key", "value")
            if self._staged(operands[name])
        }
        return Scratch(**memory, staged=staged)

    def tasks(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """Tasks begin … end-1."""
        cut, memory = self.cut, self.scratch(b)
        with b.loop(begin, end, 1, "task") as task:
            blocks = const(I64, cut.blocks)
            first = times(b, b.binary("urem", task, blocks), cut.panel * cut.panels)
            places = self.places(b, pointers, b.binary("udiv", task, blocks))
            left = b.sub(cut.rows + cut.panel - 1, first)
            there = b.binary("udiv", left, cut.panel)
            there = b.smin(there, cut.panels)
            with b.loop(0, there, 1, "panel") as panel:
                packed, sums, state, row = self._of_panel(b, memory, first, panel)
                b.call_void(f"{self.prefix}queries", places["query"], packed, row)
                self._begin(b, sums, state)
            last = plus(b, (first, 1), (there, cut.panel))
            with b.loop(0, self._limit(b, last), cut.keys, "key") as key:
                self._key_block(b, places, memory, key, first, there)
            with b.loop(0, there, 1, "panel") as panel:
                packed, sums, state, row = self._of_panel(b, memory, first, panel)
                b.call_void("finish", sums, state, places["out"], row)

    def _of_panel(
        self, b: Builder, memory: Scratch, first: Value, panel: Value
    ) -> tuple[Value, Value, Value, Value]:
        """A panel's queries, sums, state, and its first row."""
        size = self.cut.panel
        return (
            at(b, memory.packed, times(b, panel, self.packed_size)),
            at(b, memory.sums, times(b, panel, self.sum_rows * size)),
            at(b, memory.state, times(b, panel, 2 * size)),
            plus(b, (first, 1), (panel, size)),
        )

    def places(self, b: Builder, pointers: list[Value], pair: Value) -> dict[str, Value]:
        """Where each operand of a batch element and head (the first of stacked ones) begins."""
        nest, stacked = self.nest, self.cut.stacked
        heads = const(I64, nest.query.sizes[1] // stacked)
        batch, head = b.binary("udiv", pair, heads), b.binary("urem", pair, heads)
        shared = b.binary("udiv", head, nest.group // stacked)
        found = {}
        for pointer, (name, operand) in zip(pointers, nest.operands.items()):
            ours = shared if name in ("key", "value") else times(b, head, stacked)
            offset = plus(b, (batch, operand.strides[0]), (ours, operand.strides[1]))
            found[name] = b.gep(pointer, Type(memory_kind(operand.dtype)), offset)
        return found

    def _key_block(
        self,
        b: Builder,
        places: dict[str, Value],
        memory: Scratch,
        key: Value,
        first: Value,
        there: Value,
    ) -> None:
        """All panels against one block of keys."""
        cut, mask = self.cut, places.get("mask", Value("null", PTR))
        left = b.sub(self.keys, key)
        most = b.smin(left, cut.keys)
        blocks = self._blocks(b, places, memory, key, most)
        with b.loop(0, there, 1, "panel") as panel:
            packed, sums, state, row = self._of_panel(b, memory, first, panel)
            count, hidden = self._seen(b, row, key, most)
            with b.when(b.icmp("sgt", count, 0), "seen"):
                inside = (*blocks, mask, packed, memory.scores, sums, state)
                b.call_void(f"{self.prefix}block", *inside, count, row, key, hidden)

    def _seen(self, b: Builder, row: Value, key: Value, most: Value) -> tuple[Value, Value]:
        """How many keys of a block a panel needs, in whole tiles; whether some are hidden."""
        cut = self.cut
        if not self.nest.causal:
            return most, const(I1, 0)
        seen = b.sub(self._limit(b, b.add(row, cut.panel)), key)
        tiles = b.binary("sdiv", b.add(seen, cut.tile - 1), cut.tile)
        count = b.smin(times(b, tiles, cut.tile), most)
        least = const(I64, 0) if cut.stacked > 1 else row
        return count, b.icmp("sgt", b.add(key, count), b.add(least, 1))

    def _blocks(
        self, b: Builder, places: dict[str, Value], memory: Scratch, key: Value, most: Value
    ) -> list[Value]:
        """Where a block's keys and values are; widened first if they are half types."""
        found = []
        for name in ("key", "value"):
            operand = self.nest.operands[name]
            element = Type(memory_kind(operand.dtype))
            place = b.gep(places[name], element, times(b, key, operand.strides[2]))
            if name in memory.staged:
                b.call_void(f"{self.prefix}widen.{name}", place, memory.staged[name], most)
            found.append(memory.staged.get(name, place))
        return found
