"""Rewrites ops into simpler ones until every node has a row that lowers, or is a library call.

Ops whose row says how (Kind.DECOMPOSE) first; the long tail through PyTorch's own decompositions
(ir.tail), which cost a second to load and so are asked last.
"""

from __future__ import annotations

from tracejit.ir.graph import Graph, Node
from tracejit.ir.rewrite import Builder, Result, RewriteError, describe, rewrite
from tracejit.ir.tail import expand_rare
from tracejit.ops.table import OPS, Kind, kind_of

# A decomposition that leads back to its own op would never end.
DEEPEST = 20


def decompose(graph: Graph) -> Graph:
    """The graph with no node left whose row is Kind.DECOMPOSE; rare ops expanded where it helps.

    Results keep their dtype, sizes, strides and device. Raises RewriteError, naming node and op,
    for a decomposition that gives another dtype or size than was recorded.
    """
    for _ in range(DEEPEST):
        new = rewrite(graph, _expand)
        if new is graph:
            return graph
        graph = new
    left = next(n for n in graph.nodes if _is_composite(n))
    raise RewriteError(f"{describe(left)} still has to be decomposed after {DEEPEST} rounds")


def _is_composite(node: Node) -> bool:
    return kind_of(node) is Kind.DECOMPOSE


def _expand(builder: Builder, node: Node) -> Result:
    row = OPS.get(node.op)
    if row is None:
        return expand_rare(builder, node, decompose)
    if not _is_composite(node):
        return None
    assert row.decompose is not None
    try:
        found: Result = row.decompose(builder, *node.args, **node.kwargs)
    except RewriteError:
        raise
    except Exception as error:  # a row's, of any type: it is told with its node
        raise RewriteError(f"decomposing {describe(node)} failed: {error!r}") from error
    return found
