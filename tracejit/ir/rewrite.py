"""The one driver that rewrites graphs: a rule looks at a node and may say what stands for it.

A graph is never changed by a pass. The new one shares what stayed as it was, so that a pass costs
little: nodes and values are not altered once their graph is built.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any, Union

import torch

from tracejit.ir.dtypes import TORCH
from tracejit.ir.execute import call, values_of
from tracejit.ir.graph import Arg, Graph, Node, Size, Value, map_values, values_in
from tracejit.ops.table import OPS, Kind, kind_of

# What stands for a node's results; None leaves the node. A result that nobody needs may be None.
Result = Union[Value, tuple["Value | None", ...], None]
Strides = tuple[Size, ...]


class RewriteError(Exception):
    """A rule gave a result that cannot stand for the node's; the message names the node."""


class Builder:
    """Appends operations to a graph on behalf of one node: its origin and device are theirs too.

    `free` are the results of the node whose strides nobody sees.
    """

    def __init__(self, graph: Graph, node: Node, free: Collection[Value] = ()) -> None:
        self.graph, self.node, self.free = graph, node, free
        self.made: set[Value] = set()
        values = node.outputs or node.inputs
        self.device = values[0].device if values else "cpu"

    def __call__(self, op: str, *args: Arg, **kwargs: Arg) -> Any:
        """The Value (or tuple of Values) of `op`; its row says dtype and sizes.

        Raises RewriteError for an op without a row.
        """
        if op not in OPS:
            raise RewriteError(f"{describe(self.node)} becomes {op}, which has no row")
        args, kwargs = tupled(args), {k: tupled(v) for k, v in kwargs.items()}
        metas = metas_of(OPS[op].shape(*args, **kwargs))
        values = self.add(op, args, kwargs, metas, strides_of(op, args, kwargs, len(metas)))
        return values[0] if len(values) == 1 else values

    def add(
        self,
        op: str,
        args: tuple[Arg, ...],
        kwargs: dict[str, Arg],
        metas: Iterable[tuple[str, tuple[Size, ...]]],
        strides: Iterable[Strides | None],
    ) -> tuple[Value, ...]:
        """The results of `op`, appended; strides of None are contiguous."""
        if self.device != "cpu" and not any(values_in((args, tuple(kwargs.values())))):
            kwargs = {**kwargs, "device": torch.device(self.device)}  # a factory's result lies here
        full = [(d, sizes, st, self.device) for (d, sizes), st in zip(metas, strides, strict=True)]
        node = self.graph.add(op, args, kwargs, full, self.node.origin)
        node.part_of = self.node.part_of or self.node.op
        self.made.update(node.outputs)
        return node.outputs

    def like(self, op: str, *args: Arg, **kwargs: Arg) -> Value:
        """The result of `op`, which looks as the node's own only result does."""
        out = self.node.out
        meta = [(out.dtype, out.sizes)]
        return self.add(op, tupled(args), kwargs, meta, [out.strides])[0]

    def stand_in(self, old: Value, found: Value | None) -> Value | None:
        """The value that stands for `old`: `found`, with the name, strides and device of `old`.

        Raises RewriteError if `found` has another dtype or other sizes.
        """
        if found is None or found is old:
            return found
        if (found.dtype, found.sizes) != (old.dtype, old.sizes):
            raise RewriteError(f"{describe(self.node)} gave {old!r} and was rewritten to {found!r}")
        if found in self.made and (found.strides == old.strides or not _is_view(found)):
            self.made.discard(found)  # one value stands for one
            found.name, found.strides, found.device = old.name, old.strides, old.device
            return found
        if self.agree(found, old):
            return found
        meta = [(old.dtype, old.sizes)]
        return self.stand_in(old, self.add("aten.clone", (found,), {}, meta, [old.strides])[0])

    def agree(self, found: Value, old: Value) -> bool:
        """Whether `found` can stand for the result `old` as it is: all alike that anyone sees."""
        alike = (found.dtype, found.sizes, found.device) == (old.dtype, old.sizes, old.device)
        return alike and (found.strides == old.strides or old in self.free)


Rule = Callable[[Builder, Node], Result]


def rewrite(graph: Graph, rule: Rule, free: Collection[Value] = ()) -> Graph:
    """The graph with each node replaced as `rule` says, in one sweep; the same object if none was.

    `free` are values whose strides nobody sees, so that others may stand for them.
    """
    new = Graph(inputs=list(graph.inputs), together=graph.together, _count=graph._count)
    swap: dict[Value, Value | None] = {}
    changed = False
    for old in graph.nodes:
        node = with_inputs(old, swap)
        unseen = [n for o, n in zip(old.outputs, node.outputs, strict=True) if o in free]
        builder = Builder(new, node, unseen)
        result = rule(builder, node)
        if result is None:
            new.nodes.append(node)
            if node is not old:
                swap.update(zip(old.outputs, node.outputs, strict=True))
            continue
        changed = True
        found = result if isinstance(result, tuple) else (result,)
        if len(found) != len(old.outputs):
            raise RewriteError(f"{describe(old)} has {len(old.outputs)} results, not {len(found)}")
        stand_ins = [builder.stand_in(o, f) for o, f in zip(node.outputs, found, strict=True)]
        swap.update(zip(old.outputs, stand_ins, strict=True))
    return _finish(new, graph, swap) if changed else graph


def with_inputs(node: Node, swap: dict[Value, Value | None]) -> Node:
    """The node reading what `swap` has for its inputs; itself if it reads none of those."""
    if not any(v in swap for v in node.inputs):
        return node

    def new(value: Value) -> Value:
        found = swap.get(value, value)
        if found is None:
            raise RewriteError(f"{describe(node)} needs %{value.name}, which a rule left out")
        return found

    kwargs = {k: map_values(v, new) for k, v in node.kwargs.items()}
    moved = Node(node.op, map_values(node.args, new), kwargs, (), node.origin, node.part_of)
    moved.outputs = tuple(replace(v, node=moved) for v in node.outputs)
    return moved


def describe(node: Node) -> str:
    """A node for an error message: op, first result, place."""
    names = ", ".join(f"%{v.name}" for v in node.outputs)
    return f"{node.op}{f' ({names})' if names else ''} at {node.origin}"


def metas_of(shape: Any) -> tuple[tuple[str, tuple[Size, ...]], ...]:
    """What a shape rule returned, as one meta (dtype, sizes) a result."""
    metas = (shape,) if isinstance(shape[0], str) else shape
    return tuple((dtype, tuple(sizes)) for dtype, sizes in metas)


def strides_of(
    op: str, args: tuple[Arg, ...], kwargs: dict[str, Arg], count: int
) -> list[Strides | None]:
    """Strides of the results of an op made by a rewrite; None where they are ours to choose.

    Kernels write what they are told, so only views and library calls are asked, on meta tensors.
    """
    unknown: list[Strides | None] = [None] * count
    if OPS[op].kind not in (Kind.VIEW, Kind.EXTERN):
        return unknown
    try:
        found = values_of(on_meta(op, args, kwargs))
    except (RuntimeError, NotImplementedError, TypeError):  # symbolic sizes; a view that must copy
        return unknown
    return [None if t is None else tuple(t.stride()) for t in found]


def on_meta(op: str, args: tuple[Arg, ...], kwargs: dict[str, Arg]) -> Any:
    """The op called on meta tensors that look like the values among its arguments."""

    def meta(value: Value) -> torch.Tensor:
        return torch.empty_strided(
            value.sizes, value.strides, dtype=TORCH[value.dtype], device="meta"
        )

    return call(op, map_values(args, meta), {k: map_values(v, meta) for k, v in kwargs.items()})


def tupled(tree: Any) -> Any:
    """Arguments with tuples in place of lists and torch.Size."""
    return tuple(map(tupled, tree)) if isinstance(tree, (list, tuple)) else tree


def _is_view(value: Value) -> bool:
    return value.node is not None and kind_of(value.node) is Kind.VIEW


def _finish(new: Graph, old: Graph, swap: dict[Value, Value | None]) -> Graph:
    def result(value: Value) -> Value:
        found = swap.get(value, value)
        if found is None:
            raise RewriteError(f"a rule left out %{value.name}, a result of the graph")
        return found

    new.outputs = [result(v) for v in old.outputs]
    new.writes = [(target, result(v)) for target, v in old.writes]
    return new
