"""Tiles of a bf16 product: 32×32 sums of f32 from rows of the left factor and pairs of k of the
right one, with the matrix unit, or the same on vectors of f32.
"""

from __future__ import annotations

from tracejit.codegen.native import matrix_unit as unit
from tracejit.codegen.native.builder import Builder, Module, define
from tracejit.codegen.native.matrix_unit import BYTES, DEPTH, SIDE, TILE, WORDS
from tracejit.codegen.native.types import F32, I8, I16, I32, I64, PTR, Type, Value, const

WIDTH = 2 * SIDE  # rows and columns of a tile of sums
WIDE = Type("float", SIDE)
ROWS = 8  # of the left factor that are multiplied together on vectors
# Of each four lanes the first two, or the last, of two vectors: lane by lane, and pair by pair.
WORDS_BY_TURNS, PAIRS_BY_TURNS = (
    [
        [four + start + lane + part for four in range(0, SIDE, 4) for lane, part in order]
        for start in (0, 2)
    ]
    for order in ([(0, 0), (0, SIDE), (1, 0), (1, SIDE)], [(0, 0), (1, 0), (0, SIDE), (1, SIDE)])
)
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


def add_tile(module: Module, way: str, attributes: str) -> str:
    """Define `@{way}.tile(a, bytes from row to row, b, c, chunks, rows)`, which computes a tile of
    sums, of 16 rows if there are no more, else of 32; its name. `way`: "unit" or "plain"."""
    name = f"{way}.tile"
    if not module.has(name):
        write = {"unit": _on_unit, "plain": _on_vectors}[way]
        define(module, name, KERNEL, lambda b, *_: write(b), attributes)
    return name


def _on_unit(b: Builder) -> None:
    """Tiles 0 … 3 are sums, 4 and 5 left of them, 6 and 7 above."""
    for more in b.either(b.icmp("sgt", KERNEL[-1], SIDE), "two", "one"):
        _tiles(b, 2 if more else 1)


def _tiles(b: Builder, many: int) -> None:
    """`many` tiles above each other, by two beside each other."""
    a, step, panel, sums, chunks, _ = KERNEL
    places = [(i, v) for i in range(many) for v in range(2)]
    for i, v in places:
        unit.zero(b, 2 * i + v)
    with b.loop(0, chunks, name="chunk") as chunk:
        ours = b.gep(a, I8, b.mul(chunk, BYTES))
        theirs = b.gep(panel, I16, b.mul(chunk, 2 * TILE))
        left = [b.gep(ours, I8, b.mul(step, i * SIDE)) for i in range(many)]
        above = [b.gep(theirs, I16, v * TILE) for v in range(2)]
        unit.add_products(b, (left, step), (above, BYTES))
    for i, v in places:
        place = b.gep(sums, F32, i * SIDE * WIDTH + v * SIDE)
        unit.store(b, 2 * i + v, place, 4 * WIDTH)


def _on_vectors(b: Builder) -> None:
    """The same on vectors: a pair of each of eight rows at a time."""
    a, step, panel, sums, chunks, rows = KERNEL
    zero, high = const(I64, 0), const(WORDS, -65536)
    more = b.icmp("sgt", rows, SIDE)
    count = b.select(more, const(I64, WIDTH), const(I64, SIDE))
    with b.loop(zero, count, ROWS, "row") as row:
        totals = [[b.slot(const(WIDE, 0.0), "sum") for _ in range(2)] for _ in range(ROWS)]
        line = b.gep(a, I8, b.mul(row, step))
        with b.loop(zero, chunks, name="chunk") as chunk, b.loop(zero, SIDE, name="pair") as pair:
            place = b.add(b.mul(chunk, 2 * TILE), b.mul(pair, DEPTH))
            theirs = []
            for v in range(2):
                address = b.gep(panel, I16, b.add(place, v * TILE))
                pairs = b.load(address, WORDS)
                low = b.binary("shl", pairs, 16)
                theirs.append([b.bitcast(w, "float") for w in (low, b.binary("and", pairs, high))])
            column = b.add(b.mul(chunk, SIDE), pair)
            for k in range(ROWS):
                address = b.gep(b.gep(line, I8, b.mul(step, k)), I32, column)
                both = b.splat(b.load(address, I32), SIDE)
                low = b.bitcast(b.binary("shl", both, 16), "float")
                upper = b.bitcast(b.binary("and", both, high), "float")
                for v in range(2):
                    total = b.fma(low, theirs[v][0], totals[k][v].get())
                    totals[k][v].set(b.fma(upper, theirs[v][1], total))
        for k in range(ROWS):
            start = b.mul(b.add(row, k), WIDTH)
            for v in range(2):
                place = b.gep(sums, F32, b.add(start, v * SIDE))
                b.store(totals[k][v].get(), place)


def turn(b: Builder, tile: Value, into: Value) -> None:
    """A tile of sums, its rows as columns."""
    for i in range(2):
        for v in range(2):
            place = [(i * SIDE + k) * WIDTH + v * SIDE for k in range(SIDE)]
            rows = [b.gep(tile, F32, p) for p in place]
            for k, column in enumerate(columns_of(b, rows)):
                to = const(I64, (v * SIDE + k) * WIDTH + i * SIDE)
                b.store(b.cast("bitcast", column, WIDE), b.gep(into, F32, to))


def columns_of(b: Builder, rows: list[Value]) -> list[Value]:
    """The columns of 16 rows of 16 words in memory: quarters of rows are loaded to where they
    belong, and turned by fours."""
    quarter, found = Type("i32", SIDE // 4), []
    for q in range(4):
        parts = [b.load(b.gep(row, I32, 4 * q), quarter, 2) for row in rows]
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
