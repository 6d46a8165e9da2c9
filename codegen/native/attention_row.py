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

from functools import partial

from tracejit.codegen.native.attention_exp import DEGREES, exp2
from tracejit.codegen.native.attention_frame import INFINITY, KEYS, Kernel, grain, up
from tracejit.codegen.native.attention_tiles import greater, load_row, store_row
from tracejit.codegen.native.builder import Builder, define
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.lanes import across, added_up, first_lanes
from tracejit.codegen.native.places import at, parts, plus, times
from tracejit.codegen.native.source import Work
from tracejit.codegen.native.types import F32, I8, I32, I64, PTR, Value, const, named
from tracejit.fuse.attention import Attention
from tracejit.runtime.cpu import Level

# With more rows, a panel of them in the lanes is quicker (of bf16, with the matrix unit).
MOST_ROWS = {"f32": 8, "f16": 8, "bf16": 4}
MOST_COLUMNS = 16  # vectors of columns: those of a row of sums stay in registers
MOST_SUMS = 16  # vectors of sums of all rows that are done together
BYTES_A_NS = 15.0  # that one core reads
TASKS = 8  # tasks that there should be at least
LEAST_RUN = 2 * KEYS  # keys in a run at least
LINE = 64  # bytes of a cache line


def suits(nest: Attention, level: Level) -> bool:
    """Whether these kernels are the ones to take."""
    rows, columns = nest.query.sizes[2] * nest.group, max(nest.query.sizes[3], nest.value.sizes[3])
    contiguous = all(o.strides[3] == 1 or o.sizes[3] == 1 for o in (nest.key, nest.value))
    few = rows <= MOST_ROWS[nest.query.dtype] and columns <= MOST_COLUMNS * level.lanes()
    return few and contiguous and (not nest.causal or nest.query.sizes[2] == 1)


class Rows(Kernel):
    """Writes the functions of one kernel. A `record` is what a row of a run keeps: sums, their
    factor, a vector of the total's parts, the maximum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stacked = self.nest.group
        if self.nest.causal:
            self.keys = 1
        self.all_rows = self.rows * self.stacked
        self.pairs = self.nest.key.sizes[0] * self.nest.key.sizes[1]
        runs = max(1, min(-(-TASKS // self.pairs), self.keys // LEAST_RUN))
        blocks = -(-self.keys // KEYS)
        self.run = -(-blocks // runs) * KEYS
        self.runs = -(-self.keys // self.run)
        self.record = up(self.columns, self.lanes) + 3 * self.lanes
        vectors, most = -(-self.columns // self.lanes), self.all_rows
        self.batch = next(n for n in (4, 2, 1) if n == 1 or n <= most and n * vectors <= MOST_SUMS)
        self.padded = up(self.all_rows, self.batch)

    def write(self) -> Work:
        """All functions, and how the work is shared out."""
        numbers = named(I64, "row count")
        weigh = named(PTR, "keys mask query scores record soon")
        define(self.module, "weigh", [*weigh, *numbers], self._weigh)
        define(
            self.module, "add", [*named(PTR, "values scores records later"), *numbers], self._add
        )
        define(self.module, "leave", named(PTR, "record to"), self._leave)
        tasks, names = self.pairs * self.runs, list(self.nest.operands)
        work_ns = sum(self.nest.bytes_moved()) / BYTES_A_NS
        phases = [Phase("tasks", tasks, grain(tasks, work_ns))]
        words = f"rows of queries against blocks of {KEYS} keys, as they are read"
        if self.runs == 1:
            add_body(self.module, "tasks", names, self._tasks)
            return Work(phases, work_ns, words)
        add_body(self.module, "tasks", [*names, "scratch"], self._tasks)
        add_body(self.module, "together", [*names, "scratch"], self._together)
        phases.append(Phase("together", self.pairs, self.pairs))
        words += f", {self.runs} runs of keys put together at the end"
        return Work(phases, work_ns, words, tasks * self.padded * self.record * 4)

    def _tasks(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        padded = up(self.width, self.lanes)
        query = b.alloca(F32, self.padded * padded, name="query_rows")
        scores = b.alloca(F32, self.padded * KEYS, name="scores")
        records = b.alloca(F32, self.padded * self.record, name="records")
        with b.loop(begin, end, 1, "task") as task:
            pair, run = b.divmod(task, self.runs)
            places = self.places(b, pointers, pair)
            if self.runs > 1:
                records = at(b, pointers[-1], times(b, task, self.padded * self.record))
            with b.loop(0, self.padded, 1, "row") as row:
                self._read_query(b, self._row(b, places, "query", row), _of(b, query, row, padded))
                self._begin(b, _of(b, records, row, self.record))
            start = times(b, run, self.run)
            stop = b.smin(b.add(start, self.run), self.keys)
            with b.loop(start, stop, KEYS, "key") as key:
                count = b.smin(b.sub(stop, key), KEYS)
                keys, values = (self._key_address(b, n, places[n], key) for n in ("key", "value"))
                following = self._key_address(b, "key", places["key"], b.add(key, KEYS))
                with b.loop(0, self.padded, 1, "row") as row:
                    mask = self._mask(b, places, row, key)
                    ours, weights = _of(b, query, row, padded), _of(b, scores, row, KEYS)
                    record = _of(b, records, row, self.record)
                    b.call_void("weigh", keys, mask, ours, weights, record, values, row, count)
                with b.loop(0, self.padded, self.batch, "row") as row:
                    weights, record = _of(b, scores, row, KEYS), _of(b, records, row, self.record)
                    b.call_void("add", values, weights, record, following, row, count)
            if self.runs == 1:
                self._put(b, places, records)

    def _row(self, b: Builder, places: dict[str, Value], name: str, row: Value) -> Value:
        """The address of an operand's row."""
        return self._row_address(b, self.nest.operands[name], places[name], row)

    def _mask(self, b: Builder, places: dict[str, Value], row: Value, key: Value) -> Value:
        """Where a row's mask is."""
        mask = self.nest.mask
        if mask is None:
            return Value("null", PTR)
        place = self._row(b, places, "mask", row)
        return b.gep(place, self._element(mask), times(b, key, mask.strides[3]))

    def _put(self, b: Builder, places: dict[str, Value], records: Value) -> None:
        with b.loop(0, self.all_rows, 1, "row") as row:
            record = _of(b, records, row, self.record)
            b.call_void("leave", record, self._row(b, places, "out", row))

    def _read_query(self, b: Builder, source: Value, to: Value) -> None:
        query = self.nest.query
        for first, many in self._chunks(self.width):
            place = at(b, source, first * query.strides[3], self._element(query))
            vector = load_row(b, place, query.dtype, self.lanes, many, query.strides[3])
            b.store(self._signed(b, vector), at(b, to, first))

    def _begin(self, b: Builder, record: Value) -> None:
        """Nothing seen."""
        for first in range(0, self.record - self.lanes, self.lanes):
            b.store(const(self.wide, 0.0), at(b, record, first))
        b.store(const(self.wide, -INFINITY), at(b, record, self.record - self.lanes))

    def _chunks(self, width: int) -> list[tuple[int, int]]:
        """Vectors of a row: the first column, and how many there are."""
        return [(k, min(self.lanes, width - k)) for k in range(0, width, self.lanes)]

    # Weights of one row

    def _weigh(
        self,
        b: Builder,
        keys: Value,
        mask: Value,
        query: Value,
        scores: Value,
        record: Value,
        soon: Value,
        row: Value,
        count: Value,
    ) -> None:
        """The weights of a row, its new maximum and total, and by what its sums shrink."""
        state = at(b, record, self.record - 3 * self.lanes)  # the factor, total's parts, maximum
        total_place, best_place = (at(b, state, k * self.lanes) for k in (1, 2))
        best = b.slot(const(self.wide, -INFINITY), "best")
        ours = [b.load(at(b, query, first), self.wide) for first, _ in self._chunks(self.width)]
        b.comment("scores = K · q")
        for key, many in parts(b, count, self.lanes, "key", self.keys % self.lanes):
            share = b.binary("udiv", plus(b, (row, KEYS), (key, 1)), self.padded)
            self._ask(b, soon, "value", share, -(-many // self.padded))
            found = self._scores(b, keys, ours, key, many)
            found = self._masked(b, mask, found, key, many)
            b.store(found, at(b, scores, key))
            best.set(greater(b, found, best.get()))
        old = b.load(best_place, self.wide)
        new = greater(b, across(b, partial(greater, b), best.get()), old)
        b.store(new, best_place)
        safe = self._finite(b, new)
        shrunk = self._shrunk(b, old, safe)
        b.store(shrunk, state)
        total = b.slot(b.fmul(b.load(total_place, self.wide), shrunk), "total")
        b.comment("weights = 2^((scores - maximum) · factor)")
        for key, _ in parts(b, count, self.lanes, "key", self.keys % self.lanes):
            place = at(b, scores, key)
            power = b.fmul(b.fsub(b.load(place, self.wide), safe), self.factor)
            weight = exp2(b, self.level, power, DEGREES[self.nest.query.dtype])
            b.store(weight, place)
            total.set(b.fadd(total.get(), weight))
        b.store(total.get(), total_place)

    def _scores(self, b: Builder, keys: Value, query: list[Value], key: Value, many: int) -> Value:
        """The scores of `many` keys, -inf behind them."""
        operand, products = self.nest.key, []
        place = self._key_address(b, "key", keys, key)
        for k in range(self.lanes):
            total = const(self.wide, 0.0)
            for vector, (first, width) in zip(query, self._chunks(self.width) if k < many else []):
                one = at(b, place, k * operand.strides[2] + first, self._element(operand))
                row = load_row(b, one, operand.dtype, self.lanes, width)
                total = b.fma(row, vector, total)
            products.append(total)
        found = added_up(b, products)
        if many == self.lanes:
            return found
        return b.select(first_lanes(self.lanes, many), found, -INFINITY)

    def _masked(self, b: Builder, mask: Value, scores: Value, key: Value, many: int) -> Value:
        operand = self.nest.mask
        if operand is None:
            return scores
        scores = self._scaled(b, scores)
        place = b.gep(mask, self._element(operand), times(b, key, operand.strides[3]))
        row = load_row(b, place, operand.dtype, self.lanes, many, operand.strides[3])
        return b.fadd(scores, row)

    def _ask(self, b: Builder, base: Value, name: str, key: Value, many: int) -> None:
        """Ask for the rows of `many` keys or values: into the second cache, to be read."""
        operand = self.nest.operands[name]
        element, place = self._element(operand), self._key_address(b, name, base, key)
        reading, locality, data = (const(I32, n) for n in (0, 2, 1))
        for k in range(many):
            row = at(b, place, k * operand.strides[2], element)
            for byte in range(0, operand.sizes[3] * max(element.bits // 8, 1), LINE):
                line = at(b, row, byte, I8)
                b.call_void("llvm.prefetch.p0", line, reading, locality, data)

    # Sums of a batch of rows

    def _add(
        self,
        b: Builder,
        values: Value,
        weights: Value,
        records: Value,
        later: Value,
        row: Value,
        count: Value,
    ) -> None:
        """Weighted values are added to the sums of a batch of rows."""
        operand, chunks = self.nest.value, self._chunks(self.columns)
        sums = [[b.slot(const(self.wide, 0.0), "sum") for _ in chunks] for _ in range(self.batch)]
        before = times(b, b.binary("udiv", row, self.batch), KEYS)
        with b.loop(0, count, 1, "k") as k:
            share = b.binary("udiv", b.add(before, k), self.padded // self.batch)
            self._ask(b, later, "key", share, 1)
            place = self._key_address(b, "value", values, k)
            row_of = []
            for first, width in chunks:
                one = at(b, place, first, self._element(operand))
                row_of.append(load_row(b, one, operand.dtype, self.lanes, width))
            for i, slots in enumerate(sums):
                weight = b.splat(b.load(at(b, at(b, weights, i * KEYS), k), F32), self.lanes)
                for slot, vector in zip(slots, row_of):
                    slot.set(b.fma(weight, vector, slot.get()))
        for i, slots in enumerate(sums):
            record = at(b, records, i * self.record)
            shrunk = b.load(at(b, record, self.record - 3 * self.lanes), self.wide)
            for slot, (first, _) in zip(slots, chunks):
                place = at(b, record, first)
                b.store(b.fma(b.load(place, self.wide), shrunk, slot.get()), place)

    # Results

    def _leave(self, b: Builder, record: Value, to: Value) -> None:
        """out = sums / total; zeros for a row that saw no key."""
        out = self.nest.out
        state = at(b, record, self.record - 2 * self.lanes)  # the total's parts
        total = across(b, b.fadd, b.load(state, self.wide))
        share = self._share(b, total)
        for first, many in self._chunks(self.columns):
            value = b.fmul(b.load(at(b, record, first), self.wide), share)
            place = at(b, to, first * out.strides[3], self._element(out))
            store_row(b, value, place, out.dtype, many, out.strides[3])

    def _together(self, b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        """The runs of each row, in order, into the first one's record."""
        each = self.padded * self.record
        with b.loop(begin, end, 1, "pair") as pair:
            records = _of(b, pointers[-1], pair, self.runs * each)
            with b.loop(0, self.all_rows, 1, "row") as row:
                first = _of(b, records, row, self.record)
                with b.loop(1, self.runs, 1, "run") as run:
                    self._merge(b, first, _of(b, first, run, each))
            self._put(b, self.places(b, pointers, pair), records)

    def _merge(self, b: Builder, mine: Value, other: Value) -> None:
        """Add another run's sums and total, both under the greater maximum."""
        end = self.record - self.lanes
        old, new = (b.load(at(b, r, end), self.wide) for r in (mine, other))
        best = greater(b, new, old)
        safe = self._finite(b, best)
        left, right = (self._shrunk(b, most, safe) for most in (old, new))
        b.store(best, at(b, mine, end))
        with b.loop(0, end, self.lanes, "k") as k:
            place = at(b, mine, k)
            added = b.fmul(b.load(at(b, other, k), self.wide), right)
            b.store(b.fma(b.load(place, self.wide), left, added), place)


def _of(b: Builder, base: Value, row: Value, size: int) -> Value:
    """What a row has of rows of so many f32."""
    return at(b, base, times(b, row, size))
