"""Which values have to be in memory, and which are recomputed where they are used.

Costs are in bytes moved. A heavy function (exp, sin, erf, …) counts as HEAVY_BYTES for each element
it is evaluated on, a kernel launch as LAUNCH_BYTES: about what an H100 moves in the time that they
take.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tracejit.fuse.index import Index
from tracejit.fuse.lower import Body, CannotFuse, Domain, Inside, MustMaterialise
from tracejit.fuse.scalar import FUNCTIONS, in_order
from tracejit.fuse.views import ROW_KINDS, in_memory, kind_of, view_base
from tracejit.ir.convolutions import CONVOLUTION
from tracejit.ir.dtypes import itemsize
from tracejit.ir.graph import Graph, Node, Value, numel
from tracejit.ir.products import PRODUCTS
from tracejit.ops.table import COMPUTES, Kind

SUMS = frozenset({*PRODUCTS, CONVOLUTION})  # what becomes a sum of products
HEAVY_BYTES = 8
LAUNCH_BYTES = 1 << 16
HEAVY = frozenset({*FUNCTIONS, "pow", "atan2", "hypot", "fmod", "idiv", "imod", "philox"})


@dataclass
class Partition:
    """The choice. `memory`: values kept in memory; `roots`: those that kernels compute, in order;
    `externs`: the rest.
    """

    memory: set[Value] = field(default_factory=set)
    roots: list[Value] = field(default_factory=list)
    needed: set[Value] = field(default_factory=set)  # read by extern calls, outputs and writes
    extern_nodes: list[Node] = field(default_factory=list)
    _holders: dict[Value, Value] = field(default_factory=dict)

    def holder(self, value: Value) -> Value:
        """The value in memory that holds `value`: itself, or what it is a plain view of."""
        found = self._holders.get(value)
        if found is None:
            found = self._holders[value] = in_memory(value, self.memory)
        return found


def partition(graph: Graph, forced: set[Value], as_extern: set[int]) -> Partition:
    """Decide for every value. `forced` must be in memory; nodes whose id is in `as_extern` may not
    be lowered.
    """
    part = Partition(memory=set(graph.inputs) | forced)
    kinds = {id(n): Kind.EXTERN if id(n) in as_extern else kind_of(n) for n in graph.nodes}
    for node in graph.nodes:
        if kinds[id(node)] is Kind.EXTERN:
            part.extern_nodes.append(node)
            part.memory.update(node.outputs)
        elif kinds[id(node)] in ROW_KINDS:
            part.memory.update(node.outputs)
    wanted = [v for n in part.extern_nodes for v in n.inputs] + list(graph.results())
    for value in wanted:
        part.needed.add(in_memory(value, part.memory))
    part.memory |= part.needed
    for node in graph.nodes:
        if is_product(node):  # each element of a factor is read often
            part.memory.update(in_memory(_uncast(v), part.memory) for v in _factors(node))
    users = _users_through_views(graph, kinds)
    for node in graph.nodes:
        if kinds[id(node)] not in COMPUTES:
            continue
        for value in node.outputs:
            if value not in part.memory and _worth_storing(
                value, users.get(value, []), part.memory
            ):
                part.memory.add(value)
    for node in graph.nodes:
        if kinds[id(node)] is not Kind.EXTERN:
            part.roots += [v for v in node.outputs if v in part.memory and numel(v.sizes) != 0]
    return part


def is_product(node: Node) -> bool:
    """Whether the node is the sum of the terms of a matrix product or a convolution."""
    return node.part_of in SUMS and kind_of(node) is Kind.REDUCTION


def _factors(node: Node) -> tuple[Value, ...]:
    """The factors of a product's sum, before they were given more dims or cut into windows."""
    terms = node.inputs[0].node
    assert terms is not None
    return tuple(_before_views(v, node.part_of) for v in terms.inputs)


def _before_views(value: Value, part_of: str) -> Value:
    """What a value was before it was viewed as a part of this operation."""
    node = value.node
    while node is not None and kind_of(node) is Kind.VIEW and node.part_of == part_of:
        value = node.inputs[0]
        node = value.node
    return value


def _uncast(value: Value) -> Value:
    """What a value was before it was widened."""
    node = value.node
    return node.inputs[0] if node is not None and node.op == "aten._to_copy" else value


def _users_through_views(graph: Graph, kinds: dict[int, Kind]) -> dict[Value, list[Node]]:
    """For each non-view value the nodes that compute with it, directly or through views."""
    found: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        if kinds[id(node)] is not Kind.VIEW:
            for base in dict.fromkeys(view_base(v) for v in node.inputs):
                found.setdefault(base, []).append(node)
    return found


def _worth_storing(value: Value, users: list[Node], memory: set[Value]) -> bool:
    """Whether one write and a read per user costs less than recomputing for each user."""
    size = numel(value.sizes)
    evaluations = [
        max(numel(u.outputs[0].sizes), numel(u.inputs[0].sizes)) if u.outputs else size
        for u in users
    ]
    if not users or (len(users) == 1 and evaluations[0] <= size):
        return False
    body = Body(Domain(value.sizes), Inside(memory))
    try:
        scalar = body.value(value, tuple(Index.of(a) for a in body.domain.axes))
    except (CannotFuse, MustMaterialise):
        return True
    heavy = sum(s.op in HEAVY for s in in_order((scalar,)))
    leaves = sum(min(numel(v.sizes), size) * itemsize(v.dtype) for v in body.loads)
    own = size * itemsize(value.dtype)
    inline = sum(leaves + HEAVY_BYTES * heavy * max(e, size) for e in evaluations)
    stored = leaves + HEAVY_BYTES * heavy * size + own + own * len(users)
    if len(users) == 1 or leaves <= own:
        stored += LAUNCH_BYTES  # it could become a kernel of its own
    return bool(stored < inline)
