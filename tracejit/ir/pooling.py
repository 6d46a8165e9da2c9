"""Pools (max_pool, avg_pool) as reductions over windows of a padded image, which are fused with
what surrounds them. ATen is called where the places of largest elements are wanted, too, or where
windows differ in how many elements they are the mean of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracejit.ir.convolutions import windowed
from tracejit.ir.dtypes import COMPUTED, FLOATS
from tracejit.ir.graph import Graph, Node, Size, Value, numel
from tracejit.ir.products import cast, widened
from tracejit.ir.rewrite import Builder, Result, rewrite
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


def _largest(builder: Builder, node: Node) -> Value:
    x, size, stride, padding, dilation, _ = _given(node, (), 0, 1, False)
    pool = Pool(node, LARGEST[node.op], size, stride, padding, dilation)
    return pool.reduced(builder, x, "aten.amax", -math.inf)


def _mean(builder: Builder, node: Node) -> Value | None:
    x, size, stride, padding, _, counts_padding, divisor = _given(node, (), 0, False, True, None)
    pool = Pool(node, MEAN[node.op], size, stride, padding, 1)
    if not divisor:
        if pool.beyond or (any(pool.padding) and not counts_padding):
            return None
        divisor = numel(pool.size)
    total = pool.reduced(builder, widened(builder, x), "aten.sum.dim_IntList", 0.0)
    return cast(builder, builder("aten.div.Scalar", total, divisor), x.dtype)


def _given(node: Node, *defaults: Any) -> tuple[Any, ...]:
    """The arguments, from the third on with their defaults."""
    return (*node.args, *defaults[len(node.args) - 2 :])


@dataclass
class Pool:
    """The windows of one pool; a number counts for all dims."""

    node: Node
    ndim: int
    size: Any
    stride: Any
    padding: Any
    dilation: Any

    def __post_init__(self) -> None:
        self.size = self._each(self.size)
        self.stride = self._each(self.stride or self.size)
        self.padding, self.dilation = self._each(self.padding), self._each(self.dilation)
        self.places = self.node.outputs[0].sizes[-self.ndim :]
        self.image = self.node.inputs[0].sizes[-self.ndim :]

    def _each(self, given: Any) -> Sequence[Size]:
        return each((given,) if isinstance(given, int) else given, self.ndim)

    @property
    def ends(self) -> list[int]:
        """How far the last window reaches beyond the image, or how much it leaves (below 0)."""
        steps = zip(self.places, self.stride, self.size, self.dilation, strict=True)
        reach = [(places - 1) * step + (size - 1) * apart for places, step, size, apart in steps]
        sides = zip(reach, self.padding, self.image, strict=True)
        return [last + 1 - pad - image for last, pad, image in sides]

    @property
    def beyond(self) -> bool:
        """Whether windows end beyond the padding (ceil_mode)."""
        return any(end > pad for end, pad in zip(self.ends, self.padding, strict=True))

    def reduced(self, builder: Builder, x: Value, op: str, outside: float) -> Value:
        """The reduction `op` of each window; what is not in the image is `outside`."""
        sides = [n for pad, end in zip(self.padding, self.ends) for n in (max(end, 0), pad)]
        if any(sides):
            x = builder("aten.constant_pad_nd", x, tuple(reversed(sides)), outside)
        lead = x.ndim - self.ndim
        geometry = zip(self.places, self.size, self.stride, self.dilation, strict=True)
        for k, numbers in enumerate(geometry):
            x = windowed(builder, x, lead + k, *numbers)
        found: Value = builder(op, x, tuple(range(lead + self.ndim, lead + 2 * self.ndim)))
        return found
