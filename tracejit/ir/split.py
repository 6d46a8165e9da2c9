"""Long reductions in two stages: with few rows, one program a row would leave a GPU idle.

A row of columns becomes chunks of equal width; each chunk is reduced to one number, then those. The
numbers in between have the dtype that the row accumulates in, so nothing is rounded twice.
"""

from __future__ import annotations

from tracejit.ir.dtypes import TORCH
from tracejit.ir.graph import Graph, Node, Value, numel
from tracejit.ir.rewrite import Builder, Result, rewrite
from tracejit.ops.table import OPS, Kind, kind_of

FEW = 128  # rows below which a reduction is too few programs
LONG = 1 << 17  # columns above which a second stage is worth a launch
PROGRAMS = 512  # chunks that keep a GPU busy
NARROWEST = 1024  # columns of a chunk, at least
# How a row combines -> the op that combines one dim.
STAGE = {
    "sum": "aten.sum.dim_IntList",
    "prod": "aten.prod.dim_int",
    "max": "aten.amax",
    "min": "aten.amin",
    "any": "aten.any.dim",
    "all": "aten.all.dim",
}


def split_reductions(graph: Graph) -> Graph:
    """The graph with each long reduction of few rows in two stages."""
    return rewrite(graph, _rule)


def _rule(builder: Builder, node: Node) -> Result:
    if kind_of(node) is not Kind.REDUCTION:
        return None
    row, x = OPS[node.op], node.inputs[0]
    if row.reduction not in STAGE or row.dims is None or row.accumulate is None:
        return None
    dims = row.dims(*node.args, **node.kwargs)
    if not dims or dims != tuple(range(dims[0], dims[-1] + 1)):
        return None
    columns = numel(x.sizes[d] for d in dims)
    chunks = chunks_of(numel(node.out.sizes), columns)
    if not chunks:
        return None
    before, after = x.sizes[: dims[0]], x.sizes[dims[-1] + 1 :]
    found: Value = builder("aten.view", x, (*before, chunks, columns // chunks, *after))
    for dim in (len(before) + 1, len(before)):
        found = _stage(builder, row.reduction, found, dim, row.accumulate(node))
    if found.dtype != node.out.dtype:
        found = builder("aten._to_copy", found, dtype=TORCH[node.out.dtype])
    if found.sizes != node.out.sizes:
        found = builder("aten.view", found, node.out.sizes)
    return found


def _stage(builder: Builder, word: str, x: Value, dim: int, dtype: str) -> Value:
    """`x` combined over one dim; sums and products in `dtype`."""
    kwargs = {"dtype": TORCH[dtype]} if word in ("sum", "prod") else {}
    where = dim if word in ("prod", "any", "all") else (dim,)
    found: Value = builder(STAGE[word], x, where, **kwargs)
    return found


def chunks_of(rows: int, columns: int) -> int:
    """Into how many chunks to cut each row; 0 to leave it whole, also where nothing near divides
    it.
    """
    if not 0 < rows < FEW or columns <= LONG:
        return 0
    most = columns // NARROWEST
    wanted = min(-(-PROGRAMS // rows), most)
    near = (*range(wanted, min(4 * wanted, most) + 1), *range(wanted, max(wanted // 8, 1), -1))
    return next((n for n in near if columns % n == 0), 0)
