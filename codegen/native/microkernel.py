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

from tracejit.codegen.native.builder import I1, I64, PTR, Builder, Module, Slot, Type, Value, const
from tracejit.runtime.cpu import Level

CHAIN = 192  # multiply-adds that follow each other: MKL's chains on AVX2 are as long

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
        module.add(name, _Tile(module, rows, columns // lanes, Type(kind, lanes)).text(name))
    return name


class _Tile:
    """Writes one function."""

    def __init__(self, module: Module, rows: int, vectors: int, wide: Type) -> None:
        self.builder = Builder(module)
        self.rows, self.vectors, self.wide = rows, vectors, wide
        self.a, self.b, self.c = (Value(f"%{n}", PTR) for n in "abc")
        self.a_row, self.a_k, self.b_k, self.c_row, self.k = (
            Value(f"%{n}", I64) for n in ("a_row", "a_k", "b_k", "c_row", "k")
        )
        self.more = Value("%more", I1)

    def text(self, name: str) -> str:
        b = self.builder
        zero, one = const(I64, 0), const(I64, 1)
        chains = b.binary("udiv", b.add(self.k, CHAIN - 1), CHAIN)
        chains = b.smax(chains, one)
        length = b.binary("udiv", b.sub(b.add(self.k, chains), one), chains)
        with b.loop(zero, chains, name="chain") as chain:
            begin = b.mul(chain, length)
            end = b.smin(b.add(begin, length), self.k)
            sums = [b.slot(const(self.wide, 0), "sum") for _ in range(self.rows * self.vectors)]
            with b.loop(begin, end, name="p") as p:
                self._step(sums, p)
            more = b.binary("or", self.more, b.icmp("ne", chain, zero))
            self._finish([s.get() for s in sums], more)
        b.line("ret void")
        arguments = (self.a, self.a_row, self.a_k, self.b, self.b_k)
        spelled = ", ".join(map(str, (*arguments, self.c, self.c_row, self.k, self.more)))
        return "\n".join([f"define internal void @{name}({spelled}) {{", *b.text(), "}"])

    def _step(self, sums: Sequence[Slot], p: Value) -> None:
        """One step of k: a row of B's panel times one element of each of A's rows."""
        b, element = self.builder, self.wide.scalar
        column = b.gep(self.a, element, b.mul(p, self.a_k))
        row = b.gep(self.b, element, b.mul(p, self.b_k))
        ours = [b.load(b.gep(row, element, self._lane(v)), self.wide) for v in range(self.vectors)]
        for i in range(self.rows):
            one = b.load(b.gep(column, element, self._times(self.a_row, i)), element)
            left = b.splat(one, self.wide.lanes)
            for v in range(self.vectors):
                place = sums[i * self.vectors + v]
                place.set(b.fma(left, ours[v], place.get()))

    def _finish(self, sums: Sequence[Value], more: Value) -> None:
        """Put the tile into C, or add it."""
        b = self.builder
        b.branch(more, "add", "put")
        for label in ("add", "put"):
            b.label(label)
            for place, value in enumerate(sums):
                address = self._c_address(*divmod(place, self.vectors))
                if label == "add":
                    value = b.fadd(b.load(address, self.wide), value)
                b.store(value, address)
            b.jump("done")
        b.label("done")

    def _c_address(self, i: int, v: int) -> Value:
        b, element = self.builder, self.wide.scalar
        row = b.gep(self.c, element, self._times(self.c_row, i))
        return b.gep(row, element, self._lane(v))

    def _lane(self, v: int) -> Value:
        return const(I64, v * self.wide.lanes)

    def _times(self, stride: Value, factor: int) -> Value:
        return self.builder.mul(stride, factor)
