"""Scheduling: which values share a kernel, in which order kernels and extern calls run.

Every value that must be in memory starts as a kernel of its own; kernels are merged, a later one
into an earlier one, when one nest can compute both, no cycle appears, and fewer bytes move. Each
trial really builds the merged nest, so the saving is counted, not guessed, and what cannot be
merged says why (`Decision`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.lower import (
    Body,
    CannotFuse,
    Domain,
    Inside,
    MustMaterialise,
    build,
    reduced_dims,
)
from tracejit.fuse.partition import LAUNCH_BYTES, Partition, is_product, partition
from tracejit.fuse.product import as_product
from tracejit.fuse.program import Decision, Made, op_name
from tracejit.fuse.scalar import Load, in_order
from tracejit.fuse.views import ROW_KINDS, kind_of, view_base
from tracejit.ir.dtypes import itemsize
from tracejit.ir.graph import Graph, Node, Value, numel
from tracejit.ir.passes import is_effect

MAX_BUFFERS = 24  # parameters of one kernel: more would not fit its registers
MAX_BODY = 600  # expressions in one kernel
MOST_IDLE = 8  # how many times larger one of two kernels run side by side may be
NEIGHBOURHOOD = 32  # latest kernels among which neighbours are looked for
NEIGHBOURS = 8  # earlier kernels tried for sharing a load


@dataclass(eq=False)
class Group:
    """Values computed by one kernel."""

    roots: tuple[Value, ...]
    nest: LoopNest
    body: Body
    order: int
    stored: frozenset[Value]
    cost: int

    @property
    def reads(self) -> Iterable[Value]:
        """What must be in memory before: what is loaded, and indices that are checked first."""
        if not self.body.checks:
            return self.body.loads
        return dict.fromkeys([*self.body.loads, *(view_base(v) for v, *_ in self.body.checks)])

    @property
    def made(self) -> tuple[Made, ...]:
        """What it computes, for people."""
        return tuple(_made(value) for value in self.roots)


@dataclass
class Schedule:
    """The result: kernels and extern calls in order, the partition and every decision taken."""

    steps: list[Group | Node]
    part: Partition
    decisions: list[Decision] = field(default_factory=list)


def schedule(graph: Graph) -> Schedule:
    """Partition and fuse `graph`. A value found to need memory only while building starts the
    choice anew.
    """
    forced: set[Value] = set()
    as_extern: set[int] = set()
    while True:
        fuser = Fuser(graph, partition(graph, forced, as_extern))
        try:
            return fuser.run()
        except MustMaterialise as need:
            if need.value in forced:
                as_extern |= {id(n) for n in graph.nodes if need.value in n.inputs}
            forced.add(need.value)
        except Unlowerable as failed:
            as_extern.add(id(failed.node))


class Unlowerable(Exception):
    """A node that no nest can compute even alone: it becomes an extern call."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.op)
        self.node = node


class Fuser:
    """Merges the kernels of one partition."""

    def __init__(self, graph: Graph, part: Partition) -> None:
        self.part = part
        self.order = {id(n): k for k, n in enumerate(graph.nodes)}
        self.group_of: dict[Value, Group] = {}
        self.extern_of: dict[Value, Node] = {v: n for n in part.extern_nodes for v in n.outputs}
        self.kernels: dict[int, Group] = {}  # by id, latest last
        self.readers: dict[Value, set[Value]] = {}
        self.decisions: list[Decision] = []
        self.effects = _effects(part.extern_nodes)
        self._reads_of: dict[int, list[Value]] = {}

    def run(self) -> Schedule:
        alone = [self._alone(root) for root in self.part.roots]
        for group in alone:
            self.group_of[group.roots[0]] = group
            for value in group.reads:
                self.readers.setdefault(value, set()).add(group.roots[0])
        for group in alone:
            self.kernels[id(group)] = group
            self._merge_into_earlier(group)
        kept = [g for g in self.kernels.values() if g.stored]
        return Schedule(self._sorted(kept), self.part, self.decisions)

    def _alone(self, root: Value) -> Group:
        assert root.node is not None
        domain = _domain_of(root)
        inside = Inside(self.part.memory, (root,))
        try:
            nest, body = build((root,), (root,), inside, domain)
        except CannotFuse as why:
            raise Unlowerable(root.node) from why
        return Group((root,), nest, body, self.order[id(root.node)], frozenset((root,)), cost(nest))

    def _stored(self, roots: tuple[Value, ...]) -> frozenset[Value]:
        """Those of a kernel's values that someone else reads."""
        members = set(roots)
        return frozenset(
            v for v in roots if v in self.part.needed or not self.readers.get(v, set()) <= members
        )

    def _built(self, roots: tuple[Value, ...], domain: Domain) -> tuple[LoopNest, Body]:
        return build(roots, self._stored(roots), Inside(self.part.memory, set(roots)), domain)

    def _merge_into_earlier(self, group: Group) -> None:
        """Merge `group` with the kernels it reads from, latest first, then with neighbours that
        read the same.
        """
        producers = {id(g): g for v in group.reads if (g := self.group_of.get(v)) is not None}
        shared = {v for v in group.reads if v not in self.group_of}
        latest = sorted(producers.values(), key=lambda g: -g.order)
        near = itertools.islice(reversed(self.kernels.values()), 1, 1 + NEIGHBOURHOOD)
        neighbours = [g for g in near if id(g) not in producers and not shared.isdisjoint(g.reads)]
        for other in [*latest, *neighbours[:NEIGHBOURS]]:
            current = self.group_of[other.roots[0]]
            if current is not group:
                group = self._try(current, group)

    def _try(self, first: Group, second: Group) -> Group:
        """The merged group, or `second` if they stay apart."""
        between = (first.made, second.made)
        try:
            merged = self._merged(first, second)
        except CannotFuse as why:
            self.decisions.append(Decision(between, False, str(why)))
            return second
        for value in merged.roots:
            self.group_of[value] = merged
        del self.kernels[id(first)], self.kernels[id(second)]
        self.kernels[id(merged)] = merged
        saved = first.cost + second.cost - merged.cost + LAUNCH_BYTES
        self.decisions.append(Decision(between, True, "one pass moves fewer bytes", saved))
        return merged

    def _merged(self, first: Group, second: Group) -> Group:
        """One kernel for both. Raises CannotFuse if they stay apart."""
        self._check_order(first, second)
        both = {*first.roots, *second.roots}
        roots = tuple(sorted(both, key=lambda v: self.order[id(v.node)]))
        nest, body = self._best(roots, first, second)
        _check_product(roots, nest)
        _check_size(nest)
        moved = cost(nest)
        loss = moved - first.cost - second.cost - LAUNCH_BYTES
        if loss >= 0:
            raise CannotFuse(f"one kernel would move {loss} bytes more than a launch is worth")
        order = max(first.order, second.order)
        return Group(roots, nest, body, order, self._stored(roots), moved)

    def _check_order(self, first: Group, second: Group) -> None:
        """Raise CannotFuse for a reason that needs no building."""
        a, b = first.body.domain, second.body.domain
        beside = not (a.dims or b.dims) and _near(a, b)
        if not _same_space(a, b) and not (beside and set(first.roots).isdisjoint(second.reads)):
            raise CannotFuse(f"they iterate over {list(a.sizes)} and {list(b.sizes)}")
        if self._depends(second, first) or self._depends(first, second):
            raise CannotFuse("another step lies between them")

    def _best(self, roots: tuple[Value, ...], *groups: Group) -> tuple[LoopNest, Body]:
        """Build over the domain of either group, one with a reduction first."""
        domains = dict.fromkeys(sorted((g.body.domain for g in groups), key=lambda d: not d.dims))
        reason: CannotFuse | None = None
        for domain in domains:
            try:
                return self._built(roots, domain)
            except CannotFuse as why:
                reason = reason or why
        assert reason is not None
        raise reason

    def _depends(self, later: Group, earlier: Group) -> bool:
        """Whether `later` needs `earlier` through a step outside both."""
        stack: list[Group | Node] = [
            s for s in self._sources(later) if s is not earlier and s is not later
        ]
        visited: set[int] = set()
        first = min(self.order[id(v.node)] for v in earlier.roots)  # nothing before it needs it
        while stack:
            step = stack.pop()
            if step is earlier:
                return True
            if id(step) in visited or step is later or self._place(step) < first:
                continue
            visited.add(id(step))
            stack.extend(self._sources(step))
        return False

    def _place(self, step: Group | Node) -> int:
        return step.order if isinstance(step, Group) else self.order[id(step)]

    def _sources(self, step: Group | Node) -> list[Group | Node]:
        """Steps that must run before this one."""
        if isinstance(step, Group):
            values = list(step.reads)
            before: list[Group | Node] = []
        else:
            values = self._extern_reads(step)
            previous = self.effects.get(id(step))
            before = [previous] if previous is not None else []
        for value in values:
            found = self.group_of.get(value) or self.extern_of.get(value)
            if found is not None and found is not step:
                before.append(found)
        return before

    def _extern_reads(self, node: Node) -> list[Value]:
        """The values in memory that an extern call reads."""
        found = self._reads_of.get(id(node))
        if found is None:
            found = list(dict.fromkeys(self.part.holder(v) for v in node.inputs))
            self._reads_of[id(node)] = found
        return found

    def _sorted(self, groups: list[Group]) -> list[Group | Node]:
        """Depth-first topological order, by place in the program where that leaves a choice."""
        steps: list[Group | Node] = sorted([*groups, *self.part.extern_nodes], key=self._place)
        done: set[int] = set()
        ordered: list[Group | Node] = []
        for step in steps:
            stack: list[tuple[Group | Node, bool]] = [(step, False)]
            while stack:
                current, ready = stack.pop()
                if id(current) in done:
                    continue
                if ready:
                    done.add(id(current))
                    ordered.append(current)
                else:
                    stack.append((current, True))
                    stack.extend((s, False) for s in self._sources(current) if id(s) not in done)
        return ordered


def _check_product(roots: tuple[Value, ...], nest: LoopNest) -> None:
    """Raise CannotFuse for a matrix product in a kernel that must not be more than that."""
    if not any(v.node is not None and is_product(v.node) for v in roots):
        return
    product = as_product(nest)
    if product is None:
        raise CannotFuse(
            "a matrix product is a kernel of its own, with what follows it element by element"
        )
    factors = in_order((product.left, product.right))
    if any(s.op not in ("load", "cast") for s in factors):
        raise CannotFuse("the factors of a matrix product are computed before it, once")


def _check_size(nest: LoopNest) -> None:
    if len(nest.buffers) > MAX_BUFFERS:
        raise CannotFuse(f"{len(nest.buffers)} buffers in one kernel are too many")
    if sum(1 for _ in nest.body()) > MAX_BODY:
        raise CannotFuse("the kernel would be too long")


def _made(value: Value) -> Made:
    node = value.node
    assert node is not None
    return Made(value.name, op_name(node.part_of or node.op), node.op, node.origin)


def _domain_of(root: Value) -> Domain:
    node = root.node
    assert node is not None
    if kind_of(node) in ROW_KINDS:
        return Domain(node.inputs[0].sizes, reduced_dims(node))
    return Domain(root.sizes)


def _same_space(a: Domain, b: Domain) -> bool:
    """Whether one has an element, or a row, for each element of the other."""
    all_a, all_b = numel(a.sizes), numel(b.sizes)
    return bool(all_a == all_b or numel(a.row_sizes) == all_b or numel(b.row_sizes) == all_a)


def _near(a: Domain, b: Domain) -> bool:
    """Whether sizes allow to run side by side, the smaller one masked: saves a launch."""
    counts = numel(a.sizes), numel(b.sizes)
    return bool(max(counts) <= MOST_IDLE * min(counts))


def _effects(nodes: list[Node]) -> dict[int, Node]:
    """For each node with an effect (random numbers, checks) the one before it, so that their order
    stays.
    """
    found: dict[int, Node] = {}
    previous: Node | None = None
    for node in nodes:
        if is_effect(node):
            if previous is not None:
                found[id(node)] = previous
            previous = node
    return found


def cost(nest: LoopNest) -> int:
    """Bytes moved: each distinct load counts, at most its buffer's span; each store its buffer."""
    total = sum(b.span * itemsize(b.dtype) for b in nest.buffers if b.written)
    iterations = nest.rows * nest.columns
    spans = {b.name: b.span for b in nest.buffers}
    for scalar in nest.body():
        if isinstance(scalar.arg, Load):
            reach = min(iterations, spans[scalar.arg.buffer])
            total += reach * itemsize(scalar.dtype)
    return total
