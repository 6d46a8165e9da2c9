"""Memory layout of images on the CPU: convolutions read and write channels last, and so does what
lies between them.

Libraries compute convolutions on images whose channels are neighbours, and lay others out anew at
every call (oneDNN, "Understanding Memory Formats"). Nobody sees the strides of a value that is not
returned.
"""

from __future__ import annotations

from tracejit.ir.convolutions import CONVOLUTION
from tracejit.ir.graph import Graph, Node, Origin, Size, Value, numel
from tracejit.ir.rewrite import with_inputs
from tracejit.ops.table import Kind, kind_of

# Library calls that keep the layout of the image that they read.
KEEP = frozenset({"aten.max_pool2d_with_indices"})
READS_ANYWHERE = frozenset({Kind.REDUCTION, Kind.SCAN, Kind.PULL, Kind.VIEW})
AS_STRIDED = "aten.as_strided"  # asks for places in memory
FLOATS = frozenset({"f32", "f16", "bf16"})
# Weights are laid out anew at every call: where that is most of what is read, nothing is gained.
MOST_WEIGHTS = 3  # times the elements of both images


def channels_last_strides(sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    """Strides of an image [n, c, h, w] whose channels are neighbours."""
    _, c, h, w = sizes
    return (h * w * c, 1, w * c, c)


def channels_last(graph: Graph) -> Graph:
    """The graph with its convolutions on images that are channels last; results look as before."""
    if not any(_gains(node) for node in graph.nodes):
        return graph
    return _Pass(graph).run()


def _gains(node: Node) -> bool:
    """Whether a node is a convolution of images that gains from the layout."""
    if node.op != CONVOLUTION:
        return False
    x, weight, transposed = node.args[0], node.args[1], node.args[6]
    assert isinstance(x, Value) and isinstance(weight, Value)
    sizes = (*x.sizes, *weight.sizes, *node.out.sizes)
    if len(x.sizes) != 4 or transposed or x.dtype not in FLOATS:
        return False
    if not all(isinstance(n, int) for n in sizes) or 0 in sizes:
        return False
    images = numel(x.sizes) + numel(node.out.sizes)
    return not weights_are_most(numel(weight.sizes), images)


def weights_are_most(weights: int, images: int) -> bool:
    """Whether weights are most of the elements that a convolution of such images reads."""
    return weights > MOST_WEIGHTS * images


class _Pass:
    """`swap` has the new value for each that is computed anew."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.new = Graph(inputs=list(graph.inputs), together=graph.together, _count=graph._count)
        self.swap: dict[Value, Value | None] = {}
        self.copies: dict[tuple[Value, tuple[Size, ...]], Value] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self._node(node)
        origin = self.graph.nodes[-1].origin
        self.new.outputs = [self._as_before(v, origin) for v in self.graph.outputs]
        writes = self.graph.writes
        self.new.writes = [(target, self._as_before(v, origin)) for target, v in writes]
        return self.new

    def _node(self, node: Node) -> None:
        kind = kind_of(node)
        if _gains(node):
            x = node.args[0]
            now = self.swap.get(x) or x
            image = self._copy(now, channels_last_strides(now.sizes), node.origin)
            self._append(node, {x: image}, True)
        elif node.op in KEEP:
            self._append(node, {}, self._is_last(node.inputs[0]))
        elif kind is Kind.POINTWISE:
            images = [v for v in node.inputs if v.sizes == node.out.sizes]
            self._append(node, {}, any(map(self._is_last, images)))
        elif kind in READS_ANYWHERE and node.op != AS_STRIDED:
            self._append(node, {}, False)
        else:
            before = {v: self._as_before(v, node.origin) for v in node.inputs}
            self._append(node, before, False)

    def _append(self, node: Node, instead: dict[Value, Value], last: bool) -> None:
        """The node, on the values that there are now and on those of `instead`; whether its results
        are channels last."""
        moved = with_inputs(node, {**self.swap, **instead})
        if last and moved is node:
            moved = with_inputs(node, {v: v for v in node.inputs})
        self.new.nodes.append(moved)
        if moved is not node:
            self.swap.update(zip(node.outputs, moved.outputs, strict=True))
        if last:
            for value in moved.outputs:
                value.strides = channels_last_strides(value.sizes)

    def _is_last(self, value: Value) -> bool:
        """Whether a value is an image that is channels last now, and was not before."""
        now = self.swap.get(value)
        return now is not None and len(now.sizes) == 4 and now.strides != value.strides

    def _as_before(self, value: Value, origin: Origin) -> Value:
        """A value with the strides that it had."""
        now, base = self.swap.get(value) or value, value
        while base.node is not None and kind_of(base.node) is Kind.VIEW:
            base = base.node.inputs[0]
        changed = self.swap.get(base)
        if changed is None or changed.strides == base.strides:
            return now
        return self._copy(now, value.strides, origin)

    def _copy(self, value: Value, strides: tuple[Size, ...], origin: Origin) -> Value:
        """The value with these strides; one copy for all that ask for it."""
        if value.strides == strides and (value.node is None or kind_of(value.node) != Kind.VIEW):
            return value
        found = self.copies.get((value, strides))
        if found is None:
            meta = (value.dtype, value.sizes, strides, value.device)
            found = self.new.add("aten.clone", (value,), {}, [meta], origin).out
            self.copies[value, strides] = found
        return found
