"""Runs one op through its row on real tensors: shape rule, decomposition and expression."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tracejit.ops  # noqa: F401  (registers the rows)
from tracejit.fuse.lower import Domain, Inside, build, reduced_dims
from tracejit.fuse.reference import run as run_nest
from tracejit.fuse.views import kind_of
from tracejit.ir.decompose import decompose
from tracejit.ir.dtypes import NAME, TORCH
from tracejit.ir.execute import run_node
from tracejit.ir.graph import Graph, Node, Value
from tracejit.ir.rewrite import metas_of
from tracejit.ops.table import OPS, Kind


def op_name(func: Any) -> str:
    """The graph's name of a torch op: `aten.add.Tensor`, `.default` left out."""
    return str(func).removesuffix(".default")


class Calls(TorchDispatchMode):
    """Records every call of an op that has a row: (name, args, kwargs, result)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known: dict[int, torch.Tensor] = {}
        before = snapshot((args, kwargs or {}), known)
        result = func(*args, **(kwargs or {}))
        if op_name(func) in OPS:
            self.found.append((op_name(func), *before, snapshot(result, {})))
        return result


def snapshot(tree: Any, known: dict[int, torch.Tensor]) -> Any:
    """The tree with each tensor replaced by one of the same geometry in memory of its own."""
    if isinstance(tree, torch.Tensor):
        if id(tree) not in known:
            memory = torch.tensor((), dtype=tree.dtype).set_(tree.untyped_storage().clone())
            known[id(tree)] = memory.as_strided(tree.size(), tree.stride(), tree.storage_offset())
        return known[id(tree)]
    if isinstance(tree, dict):
        return {k: snapshot(v, known) for k, v in tree.items()}
    return type(tree)(snapshot(t, known) for t in tree) if type(tree) in (tuple, list) else tree


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors(item)


def graph_of(name: str, args: Any, kwargs: Any, result: Any) -> tuple[Graph, list[torch.Tensor]]:
    """A graph of one node, and the tensors that are its inputs."""
    graph, inputs, known = Graph(), [], {}

    def value(tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            if id(tree) not in known:
                known[id(tree)] = graph.add_input(NAME[tree.dtype], tree.shape, tree.stride())
                inputs.append(tree)
            return known[id(tree)]
        if isinstance(tree, (tuple, list)):
            return tuple(map(value, tree))
        return tree

    metas = [(NAME[t.dtype], tuple(t.shape), t.stride(), "cpu") for t in tensors(result)]
    node = graph.add(name, value(args), {k: value(v) for k, v in kwargs.items()}, metas)
    graph.outputs = list(node.outputs)
    return graph, inputs


def shapes(node: Node) -> list[tuple[str, tuple[int, ...]]]:
    """What the row's shape rule says of the node."""
    return list(metas_of(OPS[node.op].shape(*node.args, **node.kwargs)))


def run(graph: Graph, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The graph's outputs, each node computed by its row in a nest of its own."""
    graph = decompose(graph)
    env = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        if kind_of(node) in (Kind.VIEW, Kind.EXTERN):
            env.update(zip(node.outputs, run_node(node, env), strict=True))
        else:
            env.update({out: compute(node, out, env) for out in node.outputs})
    return [env[v] for v in graph.outputs]


def compute(node: Node, out: Value, env: dict[Value, torch.Tensor]) -> torch.Tensor:
    """One result of a fusable node."""
    found = torch.empty_strided(out.sizes, out.strides, dtype=TORCH[out.dtype])
    if 0 in out.sizes:
        return found
    domain = Domain(out.sizes)
    if kind_of(node) in (Kind.REDUCTION, Kind.SCAN):
        domain = Domain(node.inputs[0].sizes, reduced_dims(node))
    nest, body = build([out], {out}, Inside(set(env), {out}), domain)
    buffers = {name: flat(env[value]) for value, name in body.loads.items()}
    run_nest(nest, {**buffers, "o0": flat(found)})
    return found


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that the tensor reaches, as one dim."""
    reach = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((reach if tensor.numel() else 0,), (1,))


def rows_used(graph: Graph) -> bool:
    """Whether anything of the graph is computed by an expression rather than a library call."""
    nodes = decompose(graph).nodes
    return any(kind_of(n) not in (Kind.VIEW, Kind.EXTERN) for n in nodes)
