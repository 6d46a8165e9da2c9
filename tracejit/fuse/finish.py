"""From a schedule to a Program: axes merged and put in memory order, equal nests shared, names
given, views made.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from tracejit.fuse.index import Axis, FloorDiv, Index, Mod
from tracejit.fuse.loopnest import Buffer, LoopNest
from tracejit.fuse.program import (
    Alias,
    CheckIndex,
    Expect,
    Program,
    Ref,
    RunExtern,
    RunKernel,
    Slot,
    op_name,
)
from tracejit.fuse.regroup import rewrite
from tracejit.fuse.schedule import Group, Schedule, schedule
from tracejit.fuse.views import geometry, view_base
from tracejit.ir.dtypes import TORCH
from tracejit.ir.graph import Graph, Node, Value, map_values, numel


def simplify_axes(nest: LoopNest) -> LoopNest:
    """Drop axes of one step, order parallel axes by the first store's strides, merge neighbours
    that run as one.
    """
    axes = [a for a in nest.axes if a.size != 1]
    if nest.stores:
        first = nest.stores[0].index
        order = {a: -first.coefficient(a) for a in axes}
        parallel = [a for a in axes if not a.reduce]
        if all(order[a] for a in parallel):
            parallel.sort(key=lambda a: order[a])
        axes = parallel + [a for a in axes if a.reduce]
    found = nest.indices()
    k = 0
    while k + 1 < len(axes):
        outer, inner = axes[k], axes[k + 1]
        merged = _merged(outer, inner, found) if outer.reduce == inner.reduce else None
        if merged is None:
            k += 1
            continue
        axis, places = merged
        nest = rewrite(nest, places=places)
        found = nest.indices()
        axes[k : k + 2] = [axis]
        k = 0
    return _renamed_axes(replace(nest, axes=tuple(axes)))


def _merged(outer: Axis, inner: Axis, found: list[Index]) -> tuple[Axis, dict[Axis, Index]] | None:
    """One axis for two, if no index then needs to take it apart again; and where they are on it."""
    axis = Axis(outer.name + inner.name, outer.size * inner.size, outer.reduce)
    whole = Index.of(axis)
    places = {outer: whole // inner.size, inner: whole % inner.size}
    for index in found:
        new = index.replace(lambda atom: places.get(atom) if isinstance(atom, Axis) else None)
        if _splits(new, axis) > _splits(index, outer) + _splits(index, inner):
            return None
    return axis, places


def _splits(index: Index, axis: Axis) -> int:
    """How many divisions and modulos of the axis the index contains."""
    count = 0
    for atom, _ in index.terms:
        if isinstance(atom, (FloorDiv, Mod)):
            count += axis in atom.index.axes()
    return count


def _renamed_axes(nest: LoopNest) -> LoopNest:
    """Axes as a person names them: i, j, k … and r, s …"""
    parallel, reduction = iter("ijklmnop"), iter("rstuvw")
    names = {
        a: Axis(next(reduction if a.reduce else parallel, f"{a.name}_"), a.size, a.reduce)
        for a in nest.axes
    }
    return rewrite(nest, list(names.values()), {a: Index.of(new) for a, new in names.items()})


# Operations that say little about what a kernel does.
DULL = frozenset({"to_copy", "clone", "full", "view", "expand", "arange", "scalar_tensor", "where"})


class Finisher:
    """Turns one schedule into a Program."""

    def __init__(self, graph: Graph, plan: Schedule) -> None:
        self.graph, self.plan = graph, plan
        self.program = Program(inputs=[slot(v) for v in graph.inputs], decisions=plan.decisions)
        self.shared: dict[object, LoopNest] = {}
        self.names: dict[str, int] = {}
        self.place = {id(n): k for k, n in enumerate(graph.nodes)}
        self.made: set[Value] = set(graph.inputs)
        self.checked: set[tuple[Value, int, bool]] = set()

    def run(self) -> Program:
        for step in self.plan.steps:
            if isinstance(step, Group):
                self._kernel(step)
            else:
                self._extern(step)
        self.program.outputs = [self.name_of(v) for v in self.graph.outputs]
        self.program.writes = [(target.name, self.name_of(v)) for target, v in self.graph.writes]
        self.program.together = [[v.name for v in group] for group in self.graph.together]
        return self.program

    def name_of(self, value: Value) -> str:
        """The variable that holds `value`; a view of something in memory is made on first use."""
        if value in self.made:
            return value.name
        base = self.plan.part.holder(value)
        if base is value:
            if numel(value.sizes) == 0:  # nothing is ever stored in it
                kwargs = {"dtype": TORCH[value.dtype], "device": torch.device(value.device)}
                empty = ("aten.empty_strided", (value.sizes, value.strides), kwargs)
                self.program.steps.append(RunExtern(*empty, (slot(value),)))
                self.made.add(value)
                return value.name
            raise AssertionError(f"{value} is used before it is computed")
        found = geometry(value, base)
        assert found is not None
        strides, offset = found
        name = self.name_of(base)
        self.program.steps.append(Alias(name, replace(slot(value), strides=strides), offset))
        self.made.add(value)
        return value.name

    def _kernel(self, group: Group) -> None:
        for (value, size, wrap), origin in group.body.checks.items():
            if (value, size, wrap) not in self.checked:
                self.checked.add((value, size, wrap))
                self.program.steps.append(CheckIndex(self.name_of(value), size, wrap, origin))
        stored = [v for v in group.roots if v in group.stored]
        names = [*(self.name_of(v) for v in group.body.loads), *(v.name for v in stored)]
        nest = self._shared_nest(group, [*group.body.loads, *stored])
        args = {buffer.name: name for buffer, name in zip(nest.buffers, names, strict=True)}
        outs = tuple(slot(v) for v in stored)
        self.made.update(stored)
        origins = tuple(dict.fromkeys(n.origin for n in group.body.nodes.values()))
        self.program.steps.append(RunKernel(nest, args, outs, origins))

    def _named(self, nest: LoopNest, group: Group, order: list[Value]) -> LoopNest:
        """Names for a person: buffers after what they hold, the kernel after its operations."""
        taken: set[str] = set()
        names = {}
        for buffer, value in zip(nest.buffers, order, strict=True):
            names[buffer.name] = _unique(_holds(value, buffer), taken)
        named = rewrite(nest, names=names)
        origins = tuple(dict.fromkeys(n.origin for n in group.body.nodes.values()))
        return replace(named, name=self._kernel_name(group), origins=origins)

    def _shared_nest(self, group: Group, order: list[Value]) -> LoopNest:
        """The final nest of a group; one for all that are equal, before or after simplification."""
        before = _key(group.nest)
        final = self.shared.get(before)
        if final is None:
            nest = simplify_axes(group.nest)
            after = _key(nest)
            final = self.shared.get(after) or self._named(nest, group, order)
            self.shared[before] = self.shared[after] = final
        return final

    def _kernel_name(self, group: Group) -> str:
        nodes = sorted(group.body.nodes.values(), key=lambda n: self.place[id(n)])
        ops = dict.fromkeys(op_name(n.part_of or n.op) for n in nodes)
        kept = [op for op in ops if op not in DULL] or list(ops) or ["copy"]
        base = "_".join([*kept[:4], *(["more"] if len(kept) > 4 else [])])
        count = self.names[base] = self.names.get(base, -1) + 1
        return f"{base}_{count}" if count else base

    def _extern(self, node: Node) -> None:
        if node.op == "tj.expect":
            value, number = node.args
            self.program.steps.append(Expect(self.name_of(value), number, node.origin))
            return
        args = map_values(tuple(node.args), lambda v: Ref(self.name_of(v)))
        kwargs = {k: map_values(v, lambda v: Ref(self.name_of(v))) for k, v in node.kwargs.items()}
        outs = tuple(slot(v) for v in node.outputs)
        self.made.update(node.outputs)
        self.program.steps.append(RunExtern(node.op, args, kwargs, outs, node.origin))


def _key(nest: LoopNest) -> object:
    return nest.axes, nest.buffers, nest.stores


def slot(value: Value) -> Slot:
    """The plan's variable for a value."""
    return Slot(value.name, value.dtype, value.sizes, value.strides, value.device)


def _holds(value: Value, buffer: Buffer) -> str:
    """A name for a buffer: an input's own, else the op that made it."""
    if buffer.written:
        return "out"
    if value.node is None:
        return re.sub(r"\W", "_", value.name.rsplit(".", 1)[-1])
    return op_name(value.node.part_of or value.node.op)


def _unique(name: str, taken: set[str]) -> str:
    name = name if name.isidentifier() else f"b_{name}"
    found, k = name, 1
    while found in taken:
        found, k = f"{name}_{k}", k + 1
    taken.add(found)
    return found


def finish(graph: Graph) -> Program:
    """Schedule `graph` and lay the result out as a Program."""
    graph = own_storage(graph)
    return Finisher(graph, schedule(graph)).run()


def own_storage(graph: Graph) -> Graph:
    """Give each output and written value memory of its own: a copy where it would share an input's
    or another output's, and for an output that is a part of memory that nobody else sees.
    """
    graph = replace(graph, nodes=list(graph.nodes))
    used: set[Value] = set(graph.inputs)

    def own(value: Value, part: bool = False) -> Value:
        base = view_base(value)
        if base not in used and (part or numel(value.sizes) == numel(base.sizes)):
            used.add(base)
            return value
        meta = (value.dtype, value.sizes, value.strides, value.device)
        return graph.add("aten.clone", (value,), {}, [meta]).out

    graph.outputs = [own(v) for v in graph.outputs]
    graph.writes = [(target, own(v, part=True)) for target, v in graph.writes]
    return graph
