"""The heart of every matrix product: a tile of C in registers, C = A·B over one run of k.

    name = add_microkernel(module, level, rows, columns, kind)

defines the internal function `@tile.{rows}x{columns}.{kind}` once for a module, and gives its name:

    void @tile.14x32.float(ptr a, i64 a_row, i64 a_k, ptr b, i64 b_k,
                           ptr c, i64 c_row, i64 k, i1 more)

    c[i·c_row + j]  =  sum over p < k of  a[i·a_row + p·a_k] · b[p·b_k + j]      (more: +=)

for i < rows and j < columns. All strides count elements of `kind` ("float" or "double"). A row of B
and of C is `columns` neighbours, a multiple of the vector's lanes; nothing needs to be aligned.
    A  in place (a_k = 1, a_row its rows' stride; or any other two strides), or packed: a_row = 1,
       a_k = rows, which reads one cache line a step and never two rows that share a cache set.
    B  packed in panels (b_k = columns), or in place where its rows are contiguous.
    C  the output, or a scratch tile (c_row = columns).
    k  may be 0. Sums are chains of at most 192 fused multiply-adds in the order of k, each begun at
       0 and then added to C: the error grows with the length of a chain and with their number.
Constants given for strides are folded into the addresses, so give constants where there are any.

`tile_shape(level, kind)` is the largest tile that stays in registers; every smaller one does too:
fewer rows for the last rows of A, fewer vectors of columns for the last columns of B.

The scheme (broadcast an element of A, multiply it with vectors of a row of B, keep all of C's tile
in registers) is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication"
(2008), with the outer-product kernel of BLIS (Van Zee and van de Geijn, 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

from tracejit.codegen.native.builder import Builder, Module, Slot
from tracejit.codegen.native.types import I1, I64, PTR, Type, Value, const, named
from tracejit.runtime.cpu import Level

CHAIN = 192  # multiply-adds that follow each other: MKL's chains on AVX2 are as long

_ARGUMENTS = (
    *(Value("%a", PTR), *named(I64, "a_row a_k")),
    *(Value("%b", PTR), *named(I64, "b_k")),
    *(Value("%c", PTR), *named(I64, "c_row k"), Value("%more", I1)),
)
# Rows and vectors of columns: rows·vectors accumulators, `vectors` of B and an element of A fit.
_SHAPES: dict[str, tuple[int, int]] = {"avx512": (14, 2), "avx2": (6, 2), "neon": (8, 3)}


def tile_shape(level: Level, kind: str = "float") -> tuple[int, int]:
    """Rows and columns of the largest tile that stays in registers."""
    rows, vectors = _SHAPES[level.name]
    return rows, vectors * level.lanes(Type(kind).bits)


def add_microkernel(
    module: Module, level: Level, rows: int, columns: int, kind: str = "float"
) -> str:
    """Define the function for such tiles, unless the module has it; its name. Raises ValueError for
    columns that are no whole vectors."""
    lanes = level.lanes(Type(kind).bits)
    if columns % lanes or not columns or rows < 1:
        raise ValueError(f"no tile has {rows}×{columns} elements with {lanes} lanes")
    name = f"tile.{rows}x{columns}.{kind}"
    if not module.has(name):
        b = Builder(module)
        _write(b, rows, columns // lanes, Type(kind, lanes))
        spelled = ", ".join(map(str, _ARGUMENTS))
        head = f"define internal void @{name}({spelled}) {{"
        module.add(name, "\n".join([head, *b.text(), "}"]))
    return name


def _write(b: Builder, rows: int, vectors: int, wide: Type) -> None:
    """Chains of products, each put into C or added to it."""
    *_, k, more = _ARGUMENTS
    chains = b.smax(b.binary("udiv", b.add(k, CHAIN - 1), CHAIN), 1)
    length = b.binary("udiv", b.sub(b.add(k, chains), 1), chains)
    with b.loop(0, chains, name="chain") as chain:
        begin = b.mul(chain, length)
        end = b.smin(b.add(begin, length), k)
        sums = [[b.slot(const(wide, 0), "sum") for _ in range(vectors)] for _ in range(rows)]
        with b.loop(begin, end, name="p") as p:
            _step(b, sums, wide, p)
        adds = b.binary("or", more, b.icmp("ne", chain, 0))
        _finish(b, [[slot.get() for slot in row] for row in sums], wide, adds)
    b.line("ret void")


def _step(b: Builder, sums: Sequence[Sequence[Slot]], wide: Type, p: Value) -> None:
    """One step of k: a row of B's panel times one element of each of A's rows."""
    left, a_row, a_k, right, b_k, *_ = _ARGUMENTS
    element = wide.scalar
    column = b.gep(left, element, b.mul(p, a_k))
    line = b.gep(right, element, b.mul(p, b_k))
    ours = [b.load(b.gep(line, element, v * wide.lanes), wide) for v in range(len(sums[0]))]
    for i, row in enumerate(sums):
        one = b.splat(b.load(b.gep(column, element, b.mul(a_row, i)), element), wide.lanes)
        for vector, total in zip(ours, row):
            total.set(b.fma(one, vector, total.get()))


def _finish(b: Builder, sums: Sequence[Sequence[Value]], wide: Type, more: Value) -> None:
    """Put the tile into C, or add it."""
    *_, c, c_row, _, _ = _ARGUMENTS
    for adds in b.either(more, "add", "put"):
        for i, row in enumerate(sums):
            for v, value in enumerate(row):
                line = b.gep(c, wide.scalar, b.mul(c_row, i))
                address = b.gep(line, wide.scalar, v * wide.lanes)
                if adds:
                    value = b.fadd(b.load(address, wide), value)
                b.store(value, address)
