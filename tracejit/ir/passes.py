"""Passes on graphs, pure: graph in, graph out; and the list of those that every graph goes through.

A pass that finds nothing to do returns the graph it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache

from tracejit.ir.algebra import RULES, Pattern
from tracejit.ir.decompose import decompose
from tracejit.ir.dtypes import COMPUTED
from tracejit.ir.execute import OWN, draws, function, sized_by_data
from tracejit.ir.graph import Arg, Graph, Node, Value, identity
from tracejit.ir.rewrite import Builder, Result, rewrite
from tracejit.ir.verify import verify
from tracejit.ops.table import COMPUTES, Kind, kind_of
from tracejit.runtime.config import config
from tracejit.runtime.private import schema_of

Pass = Callable[[Graph], Graph]


def is_effect(node: Node) -> bool:
    """Whether a node draws random numbers, checks a value or writes: it is kept, and in order."""
    return not node.outputs or _has_effect(node.op)


@cache
def _has_effect(op: str) -> bool:
    if op in OWN:
        return draws(op)
    schema = schema_of(function(op))
    return draws(op) or sized_by_data(op) or bool(schema.is_mutable)


# --- dead code ---


def dead_code(graph: Graph) -> Graph:
    """Without nodes whose results nobody needs and writes of what is there; effects are kept."""
    writes = [(target, value) for target, value in graph.writes if target is not value]
    needed = {*graph.outputs, *(value for _, value in writes)}
    kept = []
    for node in reversed(graph.nodes):
        if is_effect(node) or any(v in needed for v in node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    if len(kept) == len(graph.nodes) and len(writes) == len(graph.writes):
        return graph
    return replace(graph, nodes=kept[::-1], writes=writes)


# --- common subexpressions ---


def common_subexpressions(graph: Graph) -> Graph:
    """One node for several that compute the same from the same, with results that look the same."""
    seen: dict[Arg, tuple[Value, ...]] = {}

    def rule(builder: Builder, node: Node) -> Result:
        if is_effect(node):
            return None
        looks = tuple((v.dtype, v.sizes, v.strides, v.device) for v in node.outputs)
        key = (node.op, identity(node.args), identity(tuple(node.kwargs.items())), looks)
        found = seen.setdefault(key, node.outputs)
        return None if found is node.outputs else found

    return rewrite(graph, rule)


# --- algebra ---


def simplify(graph: Graph) -> Graph:
    """The rules of ir.algebra, until none applies."""
    while True:
        new = rewrite(graph, _simpler, strides_unseen(graph))
        if new is graph:
            return graph
        graph = dead_code(new)


def _by_op() -> dict[str, list[Pattern]]:
    table: dict[str, list[Pattern]] = {}
    for pattern in RULES:
        for op in pattern.ops:
            table.setdefault(op, []).append(pattern)
    return table


_PATTERNS = _by_op()


def _simpler(builder: Builder, node: Node) -> Result:
    for pattern in _PATTERNS.get(node.op, ()):
        found = pattern.rule(builder, node)
        if found is not None:
            return found
    return None


def strides_unseen(graph: Graph) -> set[Value]:
    """Values whose layout cannot matter: only our kernels read them, directly or through views."""
    seen = set(graph.results())
    for node in reversed(graph.nodes):
        if kind_of(node) is Kind.VIEW:
            seen.update(node.inputs if node.outputs[0] in seen else ())
        elif not _is_kernel(node):
            seen.update(node.inputs)
    return {v for node in graph.nodes for v in node.outputs} - seen


def _is_kernel(node: Node) -> bool:
    values = (*node.inputs, *node.outputs)
    computed = all(v.dtype in COMPUTED and 0 not in v.sizes for v in values)
    return computed and kind_of(node) in COMPUTES


# --- running passes ---


def run(graph: Graph, passes: Iterable[tuple[str, Pass]]) -> Graph:
    """The graph after the passes in order.

    With TRACEJIT_VERIFY what each pass makes is verified: VerifyError, with the pass's name.
    """
    for name, work in passes:
        graph = work(graph)
        if config.verify:
            verify(graph, f"after {name}")
    return graph


def default_passes() -> list[tuple[str, Pass]]:
    """What a recorded graph goes through before it is lowered."""
    return [
        ("dead code", dead_code),
        ("simplify", simplify),
        ("decompose", decompose),
        ("simplify again", simplify),
        ("common subexpressions", common_subexpressions),
        ("dead code again", dead_code),
    ]
