"""Largest elements of windows (max_pool), as a reduction over a padded image, which is fused with
what surrounds it. Where the places of the elements are wanted, too, ATen is called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tracejit.ir.convolutions import windowed
from tracejit.ir.dtypes import COMPUTED, FLOATS
from tracejit.ir.graph import Graph, Node, Value
from tracejit.ir.rewrite import Builder, Result, rewrite
from tracejit.ops.externs import each

POOLS = {"aten.max_pool2d_with_indices": 2, "aten.max_pool3d_with_indices": 3}


def open_pools(graph: Graph) -> Graph:
    """The graph with each max_pool of floats as a reduction, unless its second result is used."""
    used = {v.name for v in (*(v for node in graph.nodes for v in node.inputs), *graph.results())}

    def rule(builder: Builder, node: Node) -> Result:
        if node.op not in POOLS or node.outputs[1].name in used:
            return None
        (x,) = node.inputs
        sizes = (*x.sizes, *node.outputs[0].sizes)
        plain = all(isinstance(n, int) for n in sizes) and 0 not in sizes
        return (_opened(builder, node, x), None) if plain and x.dtype in FLOATS & COMPUTED else None

    return rewrite(graph, rule)


def _opened(builder: Builder, node: Node, x: Value) -> Value:
    ndim = POOLS[node.op]
    size = each(_numbers(node, 1, ()), ndim)
    stride = each(_numbers(node, 2, ()) or size, ndim)
    padding, dilation = (each(_numbers(node, k, (n,)), ndim) for k, n in ((3, 0), (4, 1)))
    places, image = node.outputs[0].sizes[-ndim:], x.sizes[-ndim:]
    reach = ((n - 1) * step for n, step in zip(places, stride, strict=True))
    spans = ((n - 1) * apart + 1 for n, apart in zip(size, dilation, strict=True))
    # Windows that begin inside may end beyond the padding (ceil_mode).
    sides: list[int] = []
    for *ends, pad, n in zip(reach, spans, padding, image, strict=True):
        sides = [pad, max(sum(ends) - pad - n, 0), *sides]
    if any(sides):
        x = builder("aten.constant_pad_nd", x, tuple(sides), -math.inf)
    lead = x.ndim - ndim
    for k, n in enumerate(places):
        x = windowed(builder, x, lead + k, n, size[k], stride[k], dilation[k])
    found: Value = builder("aten.amax", x, tuple(range(lead + ndim, lead + 2 * ndim)))
    return found


def _numbers(node: Node, place: int, otherwise: Sequence[int]) -> Sequence[int]:
    """An argument of one or more numbers."""
    given = node.args[place] if len(node.args) > place else otherwise
    assert isinstance(given, (int, tuple))
    return (given,) if isinstance(given, int) else given
