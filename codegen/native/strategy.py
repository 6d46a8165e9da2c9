"""How a nest is laid over vectors and threads, chosen before a line is written.

One axis becomes the lanes of vectors: the one along which most accesses are neighbours. If it is
parallel, each lane is an element or a row of its own; if it is a reduction axis, lanes hold partial
results. Rows are shared out to threads; where there are few of them, their columns are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tracejit.fuse.index import Axis, FloorDiv, Index, Mod
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.partition import HEAVY
from tracejit.fuse.scalar import Load, Scalar
from tracejit.ir.dtypes import HALVES, itemsize
from tracejit.runtime.cpu import Level

# Nanoseconds on one core, for choosing only.
VECTOR_NS = 0.3  # an instruction on a register
ACCESS_NS = 1.0  # a load or store of neighbours
GATHER_NS = 12.0  # of elements that lie apart
HEAVY_NS = 6.0  # a transcendental function
ROW_NS = 8.0  # around the loops of a row
GRAIN_NS = 12_000  # work that is worth a thread
SPLIT_NS = 60_000  # work for which the columns of few rows are shared out
CHUNK_NS = 10_000
LIGHT = 24  # expressions of a body that is repeated for independent accumulators
MOST_CHUNKS = 256
# The processor's own prefetching stops at each page, which costs a loop that also computes up to
# half its time, and is best left alone by one that does not. Measured on one AVX-512 host: 1 to
# 4 KiB serve equally well, 512 bytes less.
AHEAD = 2048
FROM_MEMORY = 4 << 20  # bytes moved, above which they are taken to come from memory
LONG = 8 << 10  # bytes of a row that is worth it
TILE = 64  # elements of a tile along each of two axes
LEAST = 8  # elements of an axis that is worth tiles
ABREAST = 16  # steps that a vector of rows takes before the next one does
WIDEST = 1024  # rows abreast


@dataclass(frozen=True)
class Turn:
    """`loads` whose neighbours lie along the axis `across`, and not along that of the lanes."""

    across: Axis
    loads: tuple[Scalar, ...]


@dataclass(frozen=True)
class Strategy:
    """`vector`: the axis of the lanes (None: scalar code). `lanes`: in the main loop; `narrow`: in
    what is left over, a register's. `block`: elements of a parallel vector axis in a task. `chunk`:
    steps of the first reduction axis in a task, where rows are split (0: they are not). `ahead`:
    bytes by which what comes next is fetched ahead. `turn`: see Turn. `stride`: steps of the first
    reduction axis for each vector of a block in turn (0: all of them)."""

    vector: Axis | None
    lanes: int
    narrow: int
    block: int = 0
    chunk: int = 0
    row_ns: float = 0.0  # estimate for a task
    ahead: int = 0
    turn: Turn | None = None
    stride: int = 0

    def __str__(self) -> str:
        if self.vector is None:
            return "scalar"
        what = f"vectors of {self.lanes} along {self.vector}"
        if self.turn is not None:
            names = ", ".join(str(load.arg.buffer) for load in self.turn.loads)
            return f"{what}, in tiles with {self.turn.across}, along which {names} is read"
        if self.vector.reduce:
            what += ", partial results in each lane"
        elif self.block:
            what += f", {self.block} a task"
        what += f", {self.stride} steps at a time" if self.stride else ""
        return what + (f", rows split in chunks of {self.chunk}" if self.chunk else "")


def choose(nest: LoopNest, level: Level) -> Strategy:
    """The strategy for a nest."""
    body = list(nest.body())
    turned = _turned(nest, body, level)
    if turned is not None:
        return turned
    vector = min(candidates(nest), key=lambda a: price(nest, body, a, level), default=None)
    if vector is None:
        return Strategy(None, 0, 0, row_ns=ROW_NS + nest.columns * len(body) * VECTOR_NS)
    narrow = level.lanes(element_bits(body, nest, vector))
    lanes = _lanes(nest, body, vector, narrow)
    step_ns = step_cost(nest, body, vector, narrow) * (lanes / narrow)
    ahead = AHEAD if len(body) > 2 and _streams(nest, vector) else 0
    if vector.reduce:
        row_ns = ROW_NS + step_ns * -(-nest.columns // lanes)
        return Strategy(
            vector, lanes, narrow, 0, _chunk(nest, vector, nest.rows, row_ns, lanes), row_ns, ahead
        )
    steps = step_ns * max(nest.columns, 1)
    stride = ABREAST if _abreast(nest, body, vector, lanes) else 0
    block = _block(vector.size, steps, lanes)
    if stride:
        block = max(block, min(-(-vector.size // lanes) * lanes, WIDEST))
    row_ns = ROW_NS + steps * -(-block // lanes)
    tasks = nest.rows // vector.size * -(-vector.size // block)
    chunk = _chunk(nest, vector, tasks, row_ns, 1)
    if stride and not chunk:
        chunk = nest.reduction[0].size
    return Strategy(vector, lanes, narrow, block, chunk, row_ns, ahead, stride=stride)


def _abreast(nest: LoopNest, body: list[Scalar], vector: Axis, lanes: int) -> bool:
    """Whether many rows are reduced, each a lane: then to go down one vector of them after the
    other would use a little of each page."""
    return (
        bool(nest.reduction)
        and nest.reduction[0].size >= 2 * ABREAST
        and vector.size >= 2 * lanes
        and nest.bytes_moved()[0] >= FROM_MEMORY // 4
        and not any(s.op == "scan" for s in body)
    )


def _streams(nest: LoopNest, vector: Axis) -> bool:
    """Whether a loop along the vector axis reads long rows from memory."""
    innermost = vector.reduce or not nest.reduction
    return innermost and sum(nest.bytes_moved()) >= FROM_MEMORY and 4 * vector.size >= LONG


def _turned(nest: LoopNest, body: list[Scalar], level: Level) -> Strategy | None:
    """Tiles, for a nest that reads along one axis and writes along another."""
    if nest.reduction:
        return None
    for vector in candidates(nest):
        if vector.size < LEAST or any(s.index.coefficient(vector) != 1 for s in nest.stores):
            continue
        narrow = level.lanes(element_bits(body, nest, vector))
        linear = [s for s in nest.stores if is_linear(s.index, vector, vector.size)]
        turns = [t for axis in nest.parallel if (t := _turn(nest, body, vector, axis)).loads]
        if len(linear) < len(nest.stores) or not turns:
            continue
        turn = max(turns, key=lambda t: len(t.loads))
        left = [s for s in body if s not in turn.loads]
        steps = TILE * TILE / narrow
        access = 2 * ACCESS_NS * len(turn.loads)
        rest = sum(
            access_cost(s.arg.index, vector, narrow)
            if isinstance(s.arg, Load)
            else HEAVY_NS
            if s.op in HEAVY
            else VECTOR_NS
            for s in left
        )
        return Strategy(vector, narrow, narrow, TILE, 0, ROW_NS + steps * (access + rest), 0, turn)
    return None


def _turn(nest: LoopNest, body: list[Scalar], vector: Axis, across: Axis) -> Turn:
    """The loads that lie along `across`; none if it is short."""
    loads = [
        s
        for s in body
        if isinstance(s.arg, Load)
        and not s.args
        and s.arg.index.coefficient(across) == 1
        and abs(s.arg.index.coefficient(vector)) > 1
        and all(isinstance(atom, Axis) for atom, _ in s.arg.index.terms)
    ]
    return Turn(across, tuple(loads) if across.size >= LEAST and across != vector else ())


def candidates(nest: LoopNest) -> list[Axis]:
    """Axes that can be lanes, empty ones left out. The scanned axis only if it is the only one of
    its kind."""
    parallel = [a for a in reversed(nest.parallel) if a.size]
    reduction = [a for a in reversed(nest.reduction) if a.size]
    scans = any(s.op == "scan" for s in nest.body())
    if scans and len(reduction) > 1:
        reduction = []
    return [*parallel, *reduction]


def element_bits(body: list[Scalar], nest: LoopNest, vector: Axis) -> int:
    """Bits of most of what is computed in the lanes, by which a register's lanes are counted."""
    found = [
        8 * max(itemsize(b.dtype), 4 if b.dtype in HALVES else 1) for b in nest.buffers if b.written
    ]
    for scalar in body:
        varies = vector in (
            scalar.arg.index.axes() if isinstance(scalar.arg, Load) else scalar.axes()
        )
        if varies and scalar.op not in ("const", "index") and scalar.dtype not in ("bool", "i64"):
            found.append(32 if scalar.dtype in HALVES else 8 * itemsize(scalar.dtype))
    return max(found, default=32)


def _lanes(nest: LoopNest, body: list[Scalar], vector: Axis, narrow: int) -> int:
    """Several registers where independent accumulators hide the latency of the sum, or where random
    words are drawn, which come in fours."""
    light = len(body) <= LIGHT and not any(s.op == "scan" for s in body)
    draws = any(s.op == "philox" for s in body)
    if not (light if nest.reduction else draws):
        return narrow
    return next((k * narrow for k in (4, 2) if vector.size >= k * narrow), narrow)


def price(nest: LoopNest, body: list[Scalar], vector: Axis, level: Level) -> float:
    """Nanoseconds an element, about, with this axis as lanes."""
    lanes = level.lanes(element_bits(body, nest, vector))
    filled = vector.size / (-(-vector.size // lanes) * lanes)
    each = step_cost(nest, body, vector, lanes) / lanes / filled
    across = sum(s.op in ("reduce", "scan") for s in body) if vector.reduce else 0
    return each + across * 6 * VECTOR_NS * 4 / vector.size


def step_cost(nest: LoopNest, body: list[Scalar], vector: Axis, lanes: int) -> float:
    """Nanoseconds of one vector step of the body."""
    total = sum(_store_cost(s.index, vector, lanes) for s in nest.stores)
    for scalar in body:
        if isinstance(scalar.arg, Load):
            total += access_cost(scalar.arg.index, vector, lanes)
        elif vector in scalar.axes():
            total += HEAVY_NS if scalar.op in HEAVY else VECTOR_NS
    return total


def _store_cost(index: Index, vector: Axis, lanes: int) -> float:
    """A row's store, once for all its columns, costs next to nothing."""
    return (
        0.0 if vector.reduce and vector not in index.axes() else access_cost(index, vector, lanes)
    )


def access_cost(index: Index, vector: Axis, lanes: int) -> float:
    """Of a load or store, by how far the lanes' elements lie apart."""
    if vector not in index.axes():
        return VECTOR_NS
    if is_linear(index, vector, lanes):
        return ACCESS_NS if abs(index.coefficient(vector)) == 1 else GATHER_NS
    return GATHER_NS


def is_linear(index: Index, vector: Axis, lanes: int) -> bool:
    """Whether neighbouring lanes lie a fixed distance apart."""
    return all(
        atom == vector
        or vector not in Index.of(atom).axes()
        or (isinstance(atom, (FloorDiv, Mod)) and atom.divisor % lanes == 0)
        for atom, _ in index.terms
    )


def _block(size: int, ns: float, lanes: int) -> int:
    """Elements of the vector axis for a task: about a thread's worth, whole vectors."""
    most = max(int(GRAIN_NS / max(ns, 0.01)), 1) * lanes
    return min(most, -(-size // lanes) * lanes)


def _chunk(nest: LoopNest, vector: Axis, tasks: int, row_ns: float, lanes: int) -> int:
    """Steps of the first reduction axis for a task, if there are too few rows to keep threads busy;
    0 if rows stay whole."""
    if not nest.reduction or tasks >= 16 or row_ns * tasks < SPLIT_NS:
        return 0
    if any(s.op == "scan" for s in nest.body()):
        return 0
    first = nest.reduction[0]
    unit = lanes if first == vector else 1
    count = 1 << max(int(row_ns / CHUNK_NS), 1).bit_length()  # even parts for any few threads
    chunk = -(-first.size // min(count, MOST_CHUNKS) // unit) * unit
    return chunk if chunk * 2 <= first.size else 0


def heavy(scalars: Iterable[Scalar]) -> bool:
    """Whether computing these again costs more than a store and a load."""
    kinds = [s.op for s in scalars]
    return any(k in HEAVY or k in ("scan", "div", "sqrt") for k in kinds) or len(kinds) > 8
