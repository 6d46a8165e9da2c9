"""Matrix products by provider: as sums of products, which the native generator recognises
(fuse.product) and fuses with what follows them; as calls of oneDNN; or as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracejit.ir.dtypes import HALVES
from tracejit.ir.graph import Graph, Node, Value
from tracejit.ir.rewrite import Builder, Result, rewrite
from tracejit.ops.compose import add, apply, convert, multiply, wide

GENERATED, LIBRARY, ONEDNN = "generated", "aten", "onednn"

# Op -> places of the bias and of the two factors among its arguments.
PRODUCTS: dict[str, tuple[int | None, int, int]] = {
    "aten.mm": (None, 0, 1),
    "aten.bmm": (None, 0, 1),
    "aten.addmm": (0, 1, 2),
    "aten.baddbmm": (0, 1, 2),
}


@dataclass(frozen=True)
class Sizes:
    """One product, `batch` times [m, k] by [k, n], of a dtype."""

    dtype: str
    batch: int
    m: int
    n: int
    k: int


def sizes_of(node: Node) -> Sizes | None:
    """The product that a node is; None if it is none, or empty, or not of floats."""
    places = PRODUCTS.get(node.op)
    if places is None:
        return None
    left, right = (node.args[k] for k in places[1:])
    assert isinstance(left, Value) and isinstance(right, Value)
    if left.dtype not in ("f32", "f64", *HALVES) or right.dtype != left.dtype:
        return None
    sizes = (*left.sizes, *right.sizes)
    if not all(isinstance(n, int) for n in sizes) or 0 in sizes or left.sizes[-1] == 1:
        return None
    batch = left.sizes[0] if len(left.sizes) == 3 else 1
    return Sizes(left.dtype, batch, left.sizes[-2], right.sizes[-1], left.sizes[-1])


def open_products(graph: Graph, choose: Callable[[Sizes], str]) -> Graph:
    """The graph with each product as the provider that is chosen for it takes it.

    GENERATED is a sum; halves are multiplied and added up in f32, and rounded once. ONEDNN is
    `mkldnn._linear_pointwise` (also `Inductor's choice for linear layers
    <https://github.com/pytorch/pytorch/blob/main/torch/_inductor/fx_passes/mkldnn_fusion.py>`_),
    for products of two matrices, with a bias of one row or none. All others stay calls of ATen.
    """

    def rule(builder: Builder, node: Node) -> Result:
        sizes = sizes_of(node)
        way = LIBRARY if sizes is None else choose(sizes)
        if way == GENERATED:
            return _opened(builder, node)
        return _linear(builder, node) if way == ONEDNN else None

    return rewrite(graph, rule)


def _linear(builder: Builder, node: Node) -> Value | None:
    """The product by oneDNN, which takes the right factor's transpose; None if it does not fit."""
    bias, left, right = (None if k is None else node.args[k] for k in PRODUCTS[node.op])
    assert isinstance(left, Value) and isinstance(right, Value)
    out = node.out
    if len(left.sizes) != 2 or (node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)) != (1, 1):
        return None
    if isinstance(bias, Value) and bias.sizes != (out.sizes[1],):
        return None
    weight = builder("aten.permute", right, (1, 0))
    meta = [(out.dtype, out.sizes)]
    strides = [(out.sizes[1], 1)]
    args = (left, weight, bias, "none", (), "")
    return builder.add("mkldnn._linear_pointwise", args, {}, meta, strides)[0]


def _opened(b: Builder, node: Node) -> Value:
    added, first, second = PRODUCTS[node.op]
    left, right = wide(b, node.args[first]), wide(b, node.args[second])
    dims = left.ndim
    terms = multiply(b, apply(b, "unsqueeze", left, dims), apply(b, "unsqueeze", right, dims - 2))
    total = apply(b, "sum.dim_IntList", terms, (dims - 1,))
    if added is not None:
        total = _with_bias(b, total, wide(b, node.args[added]), node)
    return convert(b, total, node.args[first].dtype)


def _with_bias(b: Builder, total: Value, bias: Value, node: Node) -> Value:
    """beta·bias + alpha·total; a beta of 0 leaves the bias out, whatever it holds."""
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    if alpha != 1:
        total = multiply(b, total, alpha)
    if beta == 0:
        return total
    if beta != 1:
        bias = multiply(b, bias, beta)
    return add(b, total, bias)
