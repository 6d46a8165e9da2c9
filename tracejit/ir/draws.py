"""For `numerics="fast"`: random numbers drawn by library calls become ones that kernels compute
from a key (ops.random). Keys are drawn from torch's generator in program order, by one call for all
between which nothing else has an effect.

A draw that has no rule here, or for which the rule says no, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tracejit.ir.dtypes import COMPUTED, FLOATS, TORCH, opmath
from tracejit.ir.graph import Graph, Node, Value
from tracejit.ir.passes import is_effect
from tracejit.ir.rewrite import Builder, Result, rewrite
from tracejit.ops.compose import add, apply, convert, multiply, wide

DRAWN = FLOATS & COMPUTED
DEVICES = frozenset({"cpu", "cuda"})


def draw_in_kernels(graph: Graph) -> Graph:
    """The graph whose common draws are computed from keys."""
    return _at_once(rewrite(graph, _rule))


KEYS = "tj.keys"


def _at_once(graph: Graph) -> Graph:
    """Keys that follow one another, drawn by one call."""
    runs: list[list[Node]] = []
    open_run = False
    for node in graph.nodes:
        if node.op == KEYS and open_run and runs[-1][0].out.device == node.out.device:
            runs[-1].append(node)
        elif node.op == KEYS:
            runs.append([node])
            open_run = True
        elif is_effect(node):
            open_run = False
    place = {id(node): (run, k) for run in runs if len(run) > 1 for k, node in enumerate(run)}
    made: dict[int, tuple[Value, ...]] = {}

    def rule(b: Builder, node: Node) -> Result:
        if id(node) not in place:
            return None
        run, number = place[id(node)]
        if not number:
            made[id(run)] = _keys(b, len(run))
        return made[id(run)][number]

    return rewrite(graph, rule)


def _keys(b: Builder, count: int) -> tuple[Value, ...]:
    where: dict[str, Any] = {"device": torch.device(b.device)}
    return b.add(KEYS, (count,), where, [("i64", ())] * count, [()] * count)


def _rule(b: Builder, node: Node) -> Result:
    rule = RULES.get(node.op)
    if rule is None or not _is_plain(node):
        return None
    known = {k: v for k, v in node.kwargs.items() if k not in _PLACE}
    return rule(b, node.outputs[0], *node.args, **known)


_PLACE = frozenset({"dtype", "layout", "device", "pin_memory", "memory_format", "generator"})


def _is_plain(node: Node) -> bool:
    """Whether torch's own generator is drawn from, for a tensor with elements."""
    out = node.outputs[0]
    named = node.kwargs.get("generator") is not None
    return not named and 0 not in out.sizes and out.device.partition(":")[0] in DEVICES


def _drawn(b: Builder, op: str, out: Value, given: Any) -> Value:
    """A draw of the sizes of `out`, under a key of its own."""
    found: Value = b(op, *_keys(b, 1), out.sizes, given)
    return found


def _uniform(b: Builder, out: Value, low: float = 0.0, high: float = 1.0) -> Result:
    """From `low` to below `high`: what is rounded to `high` is `low`, as on GPUs."""
    if out.dtype not in DRAWN:
        return None
    found = _drawn(b, "tj.uniform", out, TORCH[out.dtype])
    if (low, high) == (0, 1):
        return found
    found = convert(b, add(b, multiply(b, wide(b, found), high - low), low), out.dtype)
    at_end = apply(b, "eq.Scalar", found, high)
    return apply(b, "where.self", at_end, apply(b, "full_like", found, low), found)


def _standard(b: Builder, out: Value, mean: Any = 0.0, deviation: Any = 1.0) -> Result:
    """`mean` may be a tensor; a tensor of deviations is checked by the library call."""
    if out.dtype not in DRAWN or isinstance(deviation, Value):
        return None
    if isinstance(mean, Value) and (mean.sizes != out.sizes or mean.dtype != out.dtype):
        return None
    found = _drawn(b, "tj.normal", out, TORCH[opmath(out.dtype)])
    if deviation != 1:
        found = multiply(b, found, deviation)
    if isinstance(mean, Value):
        found = add(b, found, wide(b, mean))
    elif mean != 0:
        found = add(b, found, mean)
    return convert(b, found, out.dtype)


def _chance(b: Builder, out: Value, x: Value, p: Any = 0.5) -> Result:
    if isinstance(p, Value):
        return _by_tensor(b, out, p)
    if out.dtype not in COMPUTED:
        return None
    return convert(b, _drawn(b, "tj.bernoulli", out, float(p)), out.dtype)


def _by_tensor(b: Builder, out: Value, p: Value) -> Result:
    """Each element by its own probability. That all of them are some is checked on the CPU, as by
    eager; on a GPU, whose kernel traps, the library call stays."""
    if p.dtype not in DRAWN or out.dtype not in COMPUTED or b.device != "cpu":
        return None
    legal = apply(b, "logical_and", apply(b, "ge.Scalar", p, 0), apply(b, "le.Scalar", p, 1))
    b.add("tj.expect", (apply(b, "all", legal), True), {}, [], [])
    p = wide(b, p)
    found = apply(b, "lt.Tensor", _drawn(b, "tj.uniform", out, TORCH[p.dtype]), p)
    return convert(b, found, out.dtype)


def _dropout(b: Builder, out: Value, x: Value, p: float, train: bool | None = None) -> Result:
    """The numbers that are kept, scaled, and which they are. Eager draws none where `p` is 1."""
    if out.dtype not in DRAWN or train is False or p == 1:
        return None
    kept = _drawn(b, "tj.bernoulli", out, 1.0 - p)
    found = multiply(b, multiply(b, wide(b, x), kept), 1.0 / (1.0 - p))
    return convert(b, found, out.dtype), kept


Rule = Callable[..., Result]  # called with the builder, the first result, the node's arguments


def _of_sizes(rule: Rule) -> Rule:
    """The rule for an op whose first argument is the sizes, or what the result looks like."""
    return lambda b, out, first, *rest, **named: rule(b, out, *rest, **named)


RULES: dict[str, Rule] = {
    "aten.rand": _of_sizes(_uniform),
    "aten.rand_like": _of_sizes(_uniform),
    "aten.uniform": lambda b, out, x, *ends, **named: _uniform(
        b, out, *ends, **{"low" if k == "from" else "high": v for k, v in named.items()}
    ),
    "aten.randn": _of_sizes(_standard),
    "aten.randn_like": _of_sizes(_standard),
    "aten.normal_functional": lambda b, out, x, mean=0.0, std=1.0: _standard(b, out, mean, std),
    "aten.normal.float_float": lambda b, out, mean, std, size: _standard(b, out, mean, std),
    "aten.normal.Tensor_float": lambda b, out, mean, std=1.0: _standard(b, out, mean, std),
    "aten.bernoulli": lambda b, out, p: _by_tensor(b, out, p),
    "aten.bernoulli.p": _chance,
    "aten.bernoulli.Tensor": _chance,
    "aten.native_dropout": _dropout,
}
