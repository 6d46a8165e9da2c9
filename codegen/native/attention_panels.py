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

from tracejit.codegen.native.attention_blocks import Blocks, Step
from tracejit.codegen.native.attention_frame import grain, up
from tracejit.codegen.native.builder import Builder, define
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.places import at, plus, times
from tracejit.codegen.native.source import Work
from tracejit.codegen.native.types import F32, I1, I64, PTR, Value, const, named

SPEED = {64: 100.0, 32: 50.0, 16: 25.0}  # bytes of a register: operations in a ns, a low guess


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
        return up(self.width, self.lanes) * self.cut.panel

    @property
    def scores_size(self) -> int:
        """Scores of a panel and a block of keys, and what is made of them."""
        return self.cut.keys * self.cut.panel

    def __str__(self) -> str:
        cut = self.cut
        return (
            f"online softmax over blocks of {cut.keys} keys, tasks of {cut.panels}×{cut.panel} "
            f"query rows, tiles of {cut.tile}×{cut.panel}"
        )

    @property
    def task_count(self) -> int:
        batch, heads, _, _ = self.nest.query.sizes
        return batch * heads // self.stacked * self.cut.blocks

    @property
    def work_ns(self) -> float:
        """What the whole costs on one thread, estimated."""
        return self.nest.operations / SPEED[self.level.bytes]

    def write(self) -> Work:
        """All functions, and how the work is shared out."""
        self.functions()
        add_body(self.module, "tasks", list(self.nest.operands), self.tasks)
        phase = Phase("tasks", self.task_count, grain(self.task_count, self.work_ns))
        return Work([phase], self.work_ns, str(self))

    def functions(self) -> None:
        """The functions of a task's steps."""
        self._define("queries", self._queries, named(PTR, "from packed"), named(I64, "first"))
        pointers = named(PTR, "keys values mask packed scores sums state")
        places = [*named(I64, "count first key"), *named(I1, "hidden")]
        self._define("block", lambda b, *given: self._block(b, Step(*given)), pointers, places)
        if not self.module.has("finish"):
            parameters = [*named(PTR, "sums state to"), *named(I64, "first")]
            define(self.module, "finish", parameters, self._finish)
        for name in ("key", "value"):
            if self._staged(self.nest.operands[name]):
                write = self._widening(self.nest.operands[name])
                self._define(f"widen.{name}", write, named(PTR, "from to"), named(I64, "count"))

    def _define(self, name: str, write: Callable[..., None], *parameters: list[Value]) -> None:
        every = [value for some in parameters for value in some]
        define(self.module, self.prefix + name, every, write, self.attributes)

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
            head, block = b.divmod(task, cut.blocks)
            first = times(b, block, cut.panel * cut.panels)
            places = self.places(b, pointers, head)
            left = b.sub(cut.rows + cut.panel - 1, first)
            there = b.smin(b.binary("udiv", left, cut.panel), cut.panels)
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

    def _limit(self, b: Builder, stop: Value) -> Value:
        """How many keys rows before `stop` may see."""
        if not self.nest.causal:
            return const(I64, self.keys)
        if self.stacked > 1:
            return const(I64, min(self.keys, self.rows))
        return b.smin(stop, self.keys)

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
        mask = places.get("mask", Value("null", PTR))
        most = b.smin(b.sub(self.keys, key), self.cut.keys)
        keys, values = self._blocks(b, places, memory, key, most)
        with b.loop(0, there, 1, "panel") as panel:
            packed, sums, state, row = self._of_panel(b, memory, first, panel)
            count, hidden = self._seen(b, row, key, most)
            with b.when(b.icmp("sgt", count, 0), "seen"):
                inside = (keys, values, mask, packed, memory.scores, sums, state)
                b.call_void(f"{self.prefix}block", *inside, count, row, key, hidden)

    def _seen(self, b: Builder, row: Value, key: Value, most: Value) -> tuple[Value, Value]:
        """How many keys of a block a panel needs, in whole tiles; whether some are hidden."""
        cut = self.cut
        if not self.nest.causal:
            return most, const(I1, 0)
        seen = b.sub(self._limit(b, b.add(row, cut.panel)), key)
        tiles = b.binary("sdiv", b.add(seen, cut.tile - 1), cut.tile)
        count = b.smin(times(b, tiles, cut.tile), most)
        least = const(I64, 0) if self.stacked > 1 else row
        return count, b.icmp("sgt", b.add(key, count), b.add(least, 1))

    def _blocks(
        self, b: Builder, places: dict[str, Value], memory: Scratch, key: Value, most: Value
    ) -> list[Value]:
        """Where a block's keys and values are; copied first if they are not used as they lie."""
        found = []
        for name in ("key", "value"):
            place = self._key_address(b, name, places[name], key)
            if name in memory.staged:
                b.call_void(f"{self.prefix}widen.{name}", place, memory.staged[name], most)
            found.append(memory.staged.get(name, place))
        return found
