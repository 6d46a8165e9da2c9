"""Attention of a few query rows against many keys (decoding with a cache of keys): each key and
value is used a few times only, so the time is that of reading them once.

A task is one head, or a run of keys of one head where there are too few heads to share out; runs
are put together afterwards, in order, so the result is the same for every number of threads. Rows
of one group of heads are done together, block of keys by block, so that keys are read once for all
of them.

    for each block of keys:
        for each row:
            scores = K · q           columns in the lanes; lanes of many keys are summed at once
            weights, new maximum m and total
        for each batch of rows:
            sums = sums · 2^(old m - m) + weights · V

What the next step reads is asked for ahead (prefetch), a whole block before it is needed: one core
reads at its full rate only with many lines under way.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracejit.codegen.native.attention_exp import exp2
from tracejit.codegen.native.attention_frame import INFINITY, up
from tracejit.codegen.native.attention_row_steps import KEYS, Steps
from tracejit.codegen.native.attention_tiles import across, at, load_row, plus, store_row, times
from tracejit.codegen.native.builder import F32, I64, PTR, Builder, Type, Value, const, define
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.words import memory_kind
from tracejit.fuse.attention import Attention
from tracejit.runtime.cpu import Level

# With more rows, a panel of them in the lanes is quicker (of bf16, with the matrix unit).
MOST_ROWS = {"f32": 8, "f16": 8, "bf16": 4}
MOST_COLUMNS = 16  # vectors of columns: those of a row of sums stay in registers
GRAIN_NS = 30_000.0  # work that is worth a thread


def suits(nest: Attention, level: Level) -> bool:
    """Whether these kernels are the ones to take."""
    rows, columns = nest.query.sizes[2] * nest.group, max(nest.query.sizes[3], nest.value.sizes[3])
    contiguous = all(o.strides[3] == 1 or o.sizes[3] == 1 for o in (nest.key, nest.value))
    few = rows <= MOST_ROWS[nest.query.dtype] and columns <= MOST_COLUMNS * level.lanes()
    return few and contiguous and (not nest.causal or nest.query.sizes[2] == 1)


class Rows(Steps):
    """Writes the functions of one kernel."""

    def write(self, work_ns: float) -> tuple[list[Phase], dict[str, int], str]:
        """All functions; the phases, constants, and the strategy in words."""
        row, count = Value("%row", I64), Value("%count", I64)
        names = ["keys", "mask", "query", "scores", "record", "soon"]
        inside = [*(Value(f"%{n}", PTR) for n in names), row, count]
        define(self.module, "weigh", inside, self._weigh)
        names = ["values", "scores", "records", "later"]
        inside = [*(Value(f"%{n}", PTR) for n in names), row, count]
        define(self.module, "add", inside, self._add)
        leave = [Value("%record", PTR), Value("%to", PTR)]
        define(self.module, "leave", leave, self._leave)
        tasks = self.pairs * self.runs
        grain = max(1, min(tasks, round(tasks * GRAIN_NS / max(work_ns, 1.0))))
        names = list(self.nest.operands)
        words = f"rows of queries against blocks of {KEYS} keys, as they are read"
        if self.runs == 1:
            add_body(self.module, "tasks", names, self._tasks)
            return [Phase("tasks", tasks, grain)], {}, words
        add_body(self.module, "tasks", [*names, "scratch"], self._tasks)
        add_body(self.module, "together", [*names, "scratch"], self._together)
        size = tasks * self.padded * self.record * 4
        phases = [Phase("tasks", tasks, grain), Phase("together", self.pairs, self.pairs)]
        return (
            phases,
            {"scratch": size},
            f"{words}, {self.runs} runs of keys put together at the end",
        )

    def _places(self, b: Builder, given: Sequence[Value], pair: Value) -> dict[str, Value]:
        """Where each operand of a batch element and head of the keys begins."""
        heads = const(I64, self.nest.key.sizes[1])
        batch, head = b.binary("udiv", pair, heads), b.binary("urem", pair, heads)
        found = {}
        for pointer, (name, operand) in zip(given, self.nest.operands.items()):
            ours = head if name in ("key", "value") else times(b, head, self.nest.group)
            offset = plus(b, (batch, operand.strides[0]), (ours, operand.strides[1]))
            found[name] = b.gep(pointer, Type(memory_kind(operand.dtype)), offset)
        return found

    def _row(self, b: Builder, places: dict[str, Value], name: str, row: Value) -> Value:
        """The address of a row of a group's heads; behind the last one, that one again."""
        operand = self.nest.operands[name]
        rows = const(I64, self.nest.query.sizes[2])
        row = b.smin(row, self.rows - 1)
        head, inside = b.binary("udiv", row, rows), b.binary("urem", row, rows)
        offset = plus(b, (head, operand.strides[1]), (inside, operand.strides[2]))
        return b.gep(places[name], Type(memory_kind(operand.dtype)), offset)

    def _tasks(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        padded = up(self.width, self.lanes)
        query = b.alloca(F32, self.padded * padded, name="query_rows")
        scores = b.alloca(F32, self.padded * KEYS, name="scores")
        mine = b.alloca(F32, self.padded * self.record, name="records")
        with b.loop(begin, end, 1, "task") as task:
            runs = const(I64, self.runs)
            pair, run = b.binary("udiv", task, runs), b.binary("urem", task, runs)
            places = self._places(b, pointers, pair)
            records = mine
            if self.runs > 1:
                records = at(b, pointers[-1], times(b, task, self.padded * self.record))
            with b.loop(0, self.padded, 1, "row") as row:
                ours = at(b, query, times(b, row, padded))
                self._read_query(b, self._row(b, places, "query", row), ours)
                self._begin(b, at(b, records, times(b, row, self.record)))
            start = times(b, run, self.run)
            stop = b.add(start, self.run)
            stop = b.smin(stop, self.keys)
            with b.loop(start, stop, KEYS, "key") as key:
                count = b.smin(b.sub(stop, key), KEYS)
                keys, values = (self._behind(b, places, n, key) for n in ("key", "value"))
                following = self._behind(b, places, "key", b.add(key, KEYS))
                with b.loop(0, self.padded, 1, "row") as row:
                    mask = self._mask(b, places, row, key)
                    kept = (query, padded), (scores, KEYS), (records, self.record)
                    of_row = [at(b, base, times(b, row, size)) for base, size in kept]
                    b.call_void("weigh", keys, mask, *of_row, values, row, count)
                with b.loop(0, self.padded, self.batch, "row") as row:
                    of_row = [
                        at(b, base, times(b, row, size))
                        for base, size in ((scores, KEYS), (records, self.record))
                    ]
                    b.call_void("add", values, *of_row, following, row, count)
            if self.runs == 1:
                self._put(b, places, records)

    def _mask(self, b: Builder, places: dict[str, Value], row: Value, key: Value) -> Value:
        """Where a row's mask is."""
        mask = self.nest.mask
        if mask is None:
            return Value("null", PTR)
        place, element = self._row(b, places, "mask", row), Type(memory_kind(mask.dtype))
        return b.gep(place, element, times(b, key, mask.strides[3]))

    def _behind(self, b: Builder, places: dict[str, Value], name: str, key: Value) -> Value:
        """Where a key's row (or its value's) lies."""
        operand = self.nest.operands[name]
        return b.gep(
            places[name], Type(memory_kind(operand.dtype)), times(b, key, operand.strides[2])
        )

    def _put(self, b: Builder, places: dict[str, Value], records: Value) -> None:
        with b.loop(0, self.rows, 1, "row") as row:
            record = at(b, records, times(b, row, self.record))
            b.call_void("leave", record, self._row(b, places, "out", row))

    def _read_query(self, b: Builder, source: Value, to: Value) -> None:
        query = self.nest.query
        element = Type(memory_kind(query.dtype))
        for first, many in self._chunks(self.width):
            place = at(b, source, first * query.strides[3], element)
            vector = load_row(b, place, query.dtype, self.lanes, many, query.strides[3])
            b.store(b.fneg(vector) if self.nest.scale < 0 else vector, at(b, to, first))

    def _begin(self, b: Builder, record: Value) -> None:
        for first in range(0, self.record - self.lanes, self.lanes):
            b.store(const(self.wide, 0.0), at(b, record, first))
        b.store(const(self.wide, -INFINITY), at(b, record, self.record - self.lanes))

    def _leave(self, b: Builder, record: Value, to: Value) -> None:
        """out = sums / total; zeros for a row that saw no key."""
        out = self.nest.out
        element = Type(memory_kind(out.dtype))
        state = at(b, record, self.record - 2 * self.lanes)  # the total's parts
        total = across(b, lambda b, x, y: b.fadd(x, y), b.load(state, self.wide))
        share = b.fdiv(1.0, total)
        zero = const(self.wide, 0.0)
        share = b.select(b.fcmp("oeq", total, zero), zero, share)
        for first, many in self._chunks(self.columns):
            value = b.fmul(b.load(at(b, record, first), self.wide), share)
            place = at(b, to, first * out.strides[3], element)
            store_row(b, value, place, out.dtype, many, out.strides[3])

    def _together(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """The runs of each row, in order, into the first one's record."""
        each = self.padded * self.record
        with b.loop(begin, end, 1, "pair") as pair:
            records = at(b, pointers[-1], times(b, pair, self.runs * each))
            with b.loop(0, self.rows, 1, "row") as row:
                first = at(b, records, times(b, row, self.record))
                with b.loop(1, self.runs, 1, "run") as run:
                    self._merge(b, first, at(b, first, times(b, run, each)))
            self._put(b, self._places(b, pointers, pair), records)

    def _merge(self, b: Builder, mine: Value, other: Value) -> None:
        """Add another run's sums and total, both under the greater maximum."""
        end = self.record - self.lanes
        old, new = (b.load(at(b, r, end), self.wide) for r in (mine, other))
        best = self._max(b, new, old)
        none = b.fcmp("oeq", best, -INFINITY)
        safe = b.select(none, 0.0, best)
        factor = const(self.wide, self.factor)
        left, right = (exp2(b, self.level, b.fmul(b.fsub(m, safe), factor)) for m in (old, new))
        b.store(best, at(b, mine, end))
        with b.loop(0, end, self.lanes, "k") as k:
            place = at(b, mine, k)
            added = b.fmul(b.load(at(b, other, k), self.wide), right)
            b.store(b.fma(b.load(place, self.wide), left, added), place)
