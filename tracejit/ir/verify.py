"""Checks that a graph is well formed. Run between passes under TRACEJIT_VERIFY, and by tests."""

from __future__ import annotations

from functools import cache

from tracejit.ir.dtypes import TORCH
from tracejit.ir.execute import OWN, function
from tracejit.ir.graph import Arg, Graph, Node, Value, show_arg
from tracejit.ir.rewrite import describe, metas_of
from tracejit.ops.table import OPS, DataDependent
from tracejit.runtime.private import schema_of


class VerifyError(Exception):
    """A graph that is not well formed; the message names the node, its op and its origin."""


def verify(graph: Graph, when: str = "") -> None:
    """Raise VerifyError unless the graph is in SSA form and each node is as its op demands.

    Names are unique, values are defined before they are used and by the node they say; arguments
    fit the op's schema; dtype and sizes of results are those of the row's shape rule; strides
    have as many entries as sizes; a write gives an input a value of its own dtype and sizes.
    `when` says in the message when that was found.
    """
    try:
        _verify(graph)
    except VerifyError as error:
        raise VerifyError(f"{when}: {error}" if when else str(error)) from error.__cause__


def _verify(graph: Graph) -> None:
    defined: set[Value] = set()
    names: set[str] = set()
    for value in graph.inputs:
        _define(value, None, "an input", defined, names)
    for node in graph.nodes:
        place = describe(node)
        for value in node.inputs:
            if value not in defined:
                raise VerifyError(f"{place} reads %{value.name}, which is not defined before it")
        _check_arguments(node, place)
        _check_results(node, place)
        for value in node.outputs:
            _define(value, node, place, defined, names)
    _check_ends(graph, defined)


def _define(
    value: Value, node: Node | None, place: str, defined: set[Value], names: set[str]
) -> None:
    if value.node is not node:
        raise VerifyError(f"%{value.name}, made by {place}, says it was made by another node")
    if value in defined or value.name in names:
        raise VerifyError(f"%{value.name}, made by {place}, is defined twice")
    if value.dtype not in TORCH:
        raise VerifyError(f"%{value.name}, made by {place}, has unknown dtype {value.dtype!r}")
    if len(value.strides) != len(value.sizes):
        raise VerifyError(
            f"%{value.name}, made by {place}, has {len(value.sizes)} sizes "
            f"and {len(value.strides)} strides"
        )
    defined.add(value)
    names.add(value.name)


def _check_arguments(node: Node, place: str) -> None:
    for arg in (*node.args, *node.kwargs.values()):
        _check_type(arg, place)
    if node.op in OWN:
        return
    known = _parameters(node.op)
    if known is None:
        raise VerifyError(f"{place}: torch has no such op")
    positional, names, required = known
    if len(node.args) > positional:
        raise VerifyError(f"{place} takes {positional} positional arguments, not {len(node.args)}")
    for name in node.kwargs:
        if name not in names[len(node.args) :]:
            raise VerifyError(f"{place} has no argument {name!r}, or has it twice")
    for name in names[len(node.args) :]:
        if name in required and name not in node.kwargs:
            raise VerifyError(f"{place} lacks argument {name!r}")


def _check_type(arg: Arg, place: str) -> None:
    try:
        show_arg(arg)
    except TypeError as error:
        raise VerifyError(f"{place} has {error}") from error


@cache
def _parameters(op: str) -> tuple[int, tuple[str, ...], frozenset[str]] | None:
    """How many positional parameters an op has, all their names, and those without a default."""
    try:
        arguments = schema_of(function(op)).arguments
    except AttributeError:
        return None
    required = frozenset(a.name for a in arguments if not a.has_default_value())
    positional = sum(not a.kwarg_only for a in arguments)
    return positional, tuple(a.name for a in arguments), required


def _check_results(node: Node, place: str) -> None:
    row = OPS.get(node.op)
    if row is None:
        return
    try:
        expected = metas_of(row.shape(*node.args, **node.kwargs))
    except DataDependent:
        return
    except Exception as error:  # a row's, of any type: it is told with its node
        raise VerifyError(f"{place}: its shape rule fails: {error!r}") from error
    found = tuple((v.dtype, v.sizes) for v in node.outputs)
    if found != expected:
        raise VerifyError(f"{place} gives {found}, but its shape rule says {expected}")


def _check_ends(graph: Graph, defined: set[Value]) -> None:
    for value in graph.results():
        if value not in defined:
            raise VerifyError(f"the graph returns or writes %{value.name}, which is not defined")
    for value in (v for group in graph.together for v in group):
        if value not in graph.inputs:
            raise VerifyError(f"%{value.name} lies in the memory of inputs, and is no input")
    targets = [target for target, _ in graph.writes]
    for target, value in graph.writes:
        if target not in graph.inputs:
            raise VerifyError(f"a write goes to %{target.name}, which is no input")
        if (target.dtype, target.sizes) != (value.dtype, value.sizes):
            raise VerifyError(f"a write of {value!r} to {target!r}")
    if len(set(targets)) != len(targets):
        raise VerifyError("an input is written twice")
