"""Pools (max_pool, avg_pool) as reductions over windows of a padded image, which are fused with
what surrounds them. ATen is called where the places of largest elements are wanted, too, or where
windows differ in how many elements they are the mean of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracejit.ir.convolutions import padded, windows
from tracejit.ir.dtypes import COMPUTED, FLOATS
from tracejit.ir.graph import Graph, Node, Value, numel
from tracejit.ir.rewrite import Builder, Result, rewrite
from tracejit.ops.compose import apply, convert, wide
from tracejit.ops.externs import each

LARGEST = {"aten.max_pool2d_with_indices": 2, "aten.max_pool3d_with_indices": 3}
MEAN = {"aten.avg_pool2d": 2, "aten.avg_pool3d": 3}


def open_pools(graph: Graph) -> Graph:
    """The graph with each pool of floats as a reduction, but for those of the library."""
    if not any(node.op in LARGEST or node.op in MEAN for node in graph.nodes):
        return graph
    used = {v.name for v in (*(v for node in graph.nodes for v in node.inputs), *graph.results())}

    def rule(builder: Builder, node: Node) -> Result:
        if node.op not in LARGEST and node.op not in MEAN:
            return None
        (x,), y = node.inputs, node.outputs[0]
        plain = all(isinstance(n, int) for n in (*x.sizes, *y.sizes)) and 0 not in y.sizes
        if not plain or x.dtype not in FLOATS & COMPUTED:
            return None
        if node.op in MEAN:
            return _mean(builder, node)
        return None if node.outputs[1].name in used else (_largest(builder, node), None)

    return rewrite(graph, rule)


def _largest(b: Builder, node: Node) -> Value:
    x, size, stride, padding, dilation, _ = _given(node, (), 0, 1, False)
    pool = Pool.of(node, LARGEST[node.op], size, stride, padding, dilation)
    return pool.reduced(b, x, "amax", -math.inf)


def _mean(b: Builder, node: Node) -> Value | None:
    x, size, stride, padding, _, counts_padding, divisor = _given(node, (), 0, False, True, None)
    pool = Pool.of(node, MEAN[node.op], size, stride, padding, 1)
    if not divisor:
        if pool.beyond or (any(pool.padding) and not counts_padding):
            return None
        divisor = numel(pool.size)
    total = pool.reduced(b, wide(b, x), "sum.dim_IntList", 0.0)
    return convert(b, apply(b, "div.Scalar", total, divisor), x.dtype)


def _given(node: Node, *defaults: Any) -> tuple[Any, ...]:
    """The arguments, from the third on with their defaults."""
    return (*node.args, *defaults[len(node.args) - 2 :])


@dataclass(frozen=True)
class Pool:
    """The windows of one pool, a number a dim. `ends`: how far the last one reaches beyond the
    image, or how much it leaves (below 0)."""

    places: Sequence[int]
    ends: Sequence[int]
    size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]

    @classmethod
    def of(cls, node: Node, ndim: int, size: Any, stride: Any, padding: Any, dilation: Any) -> Pool:
        """The windows of a node; a single number, or none for the stride, counts for all dims."""
        given = (size, stride or size, padding, dilation)
        numbers = [each((n,) if isinstance(n, int) else n, ndim) for n in given]
        image, places = (v.sizes[-ndim:] for v in (node.inputs[0], node.outputs[0]))
        ends = [
            (count - 1) * step + (size - 1) * apart + 1 - pad - whole
            for whole, count, size, step, pad, apart in zip(image, places, *numbers, strict=True)
        ]
        return cls(places, ends, *numbers)

    @property
    def beyond(self) -> bool:
        """Whether windows end beyond the padding (ceil_mode)."""
        return any(end > pad for end, pad in zip(self.ends, self.padding, strict=True))

    def reduced(self, b: Builder, x: Value, op: str, outside: float) -> Value:
        """The reduction `op` of each window; what is not in the image is `outside`."""
        x = padded(b, x, self.padding, [max(end, 0) for end in self.ends], outside)
        x = windows(b, x, self.places, self.size, self.stride, self.dilation)
        return apply(b, op, x, tuple(range(x.ndim - len(self.size), x.ndim)))
