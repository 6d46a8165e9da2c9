"""Rewrite rules on graphs, in one table: a name, the ops a rule looks at, and a small function.

A rule is exact, to the bit: -0.0 + 0 is 0.0, so adding 0 is nothing only to integers. A rule that
gives an existing value asks `builder.agree`: dtype, sizes, device and visible strides are alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tracejit.ir.dtypes import FLOATS, INTS
from tracejit.ir.execute import function
from tracejit.ir.graph import Arg, Node, Value
from tracejit.ir.rewrite import Builder, Result
from tracejit.runtime.private import schema_of


@dataclass(frozen=True)
class Pattern:
    """One rule: what it does in words, the ops it looks at, and the function."""

    name: str
    ops: tuple[str, ...]
    rule: Callable[[Builder, Node], Result]

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(self.ops)}"


# --- numbers ---


def add_zero(builder: Builder, node: Node) -> Result:
    """x + 0 for integers; x + -0.0, the only zero that leaves every float as it is."""
    a = bound(node)
    if a["self"].dtype in FLOATS:
        nothing = is_number(a["other"], -0.0) and is_number(a["alpha"], 1)
    else:
        nothing = a["self"].dtype in INTS and is_number(a["other"], 0)
    return same(builder, node, a["self"]) if nothing else None


def subtract_zero(builder: Builder, node: Node) -> Result:
    """x - 0: for floats 0.0 and not -0.0."""
    a = bound(node)
    nothing = is_number(a["other"], 0) and is_number(a["alpha"], 1)
    return same(builder, node, a["self"]) if nothing else None


def by_one(builder: Builder, node: Node) -> Result:
    """x * 1 and x / 1, where the result has x's dtype."""
    a = bound(node)
    return same(builder, node, a["self"]) if is_number(a["other"], 1) else None


def power_one(builder: Builder, node: Node) -> Result:
    """x ** 1."""
    a = bound(node)
    return same(builder, node, a["self"]) if is_number(a["exponent"], 1) else None


def negate_twice(builder: Builder, node: Node) -> Result:
    """-(-x)."""
    inner = producer(node, "aten.neg")
    return same(builder, node, inner.args[0]) if inner else None


# --- copies and casts ---


def copy(builder: Builder, node: Node) -> Result:
    """A clone, or a cast to what the value is already."""
    return same(builder, node, node.args[0])


# A cast from the first to the second is exact and can be undone.
WIDENS = frozenset(
    {("f16", "f32"), ("f16", "f64"), ("bf16", "f32"), ("bf16", "f64"), ("f32", "f64")}
    | {("i8", "i16"), ("i8", "i32"), ("i8", "i64"), ("i16", "i32"), ("i16", "i64")}
    | {("u8", "i16"), ("u8", "i32"), ("u8", "i64"), ("i32", "i64")}
    | {("bool", wide) for wide in ("i8", "u8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64")}
)


def cast_of_cast(builder: Builder, node: Node) -> Result:
    """The cast of an exact cast: back where it came from, or, for floats, straight to the last."""
    inner = producer(node, "aten._to_copy")
    if inner is None or (inner.args[0].dtype, inner.out.dtype) not in WIDENS:
        return None
    source, out = inner.args[0], node.out
    if source.dtype == out.dtype:
        return same(builder, node, source)
    if not {source.dtype, out.dtype} <= FLOATS or source.device != out.device:
        return None
    return builder.like("aten._to_copy", source, **node.kwargs)


# --- views ---


def view_of_view(builder: Builder, node: Node) -> Result:
    """Two reshapes in a row are one, or none."""
    inner = producer(node, *RESHAPES)
    base: Value = inner.args[0] if inner else node.args[0]
    if builder.agree(base, node.out):
        return base
    return builder.like("aten.view", base, node.out.sizes) if inner else None


def permute_of_permute(builder: Builder, node: Node) -> Result:
    """Permutations compose; one that moves nothing is nothing. transpose and t are permutations."""
    inner = producer(node, *PERMUTES)
    order = permutation(node)
    if inner is not None:
        below = permutation(inner)
        order = tuple(below[d] for d in order)
    base: Value = inner.args[0] if inner else node.args[0]
    if order == tuple(range(len(order))) and builder.agree(base, node.out):
        return base
    return builder.like("aten.permute", base, order) if inner else None


def expand_of_expand(builder: Builder, node: Node) -> Result:
    """An expansion to the same sizes is nothing; of two, the second is enough."""
    base: Value = node.args[0]
    if builder.agree(base, node.out):
        return base
    inner = producer(node, "aten.expand")
    if inner is None or inner.args[0].ndim != node.out.ndim:
        return None
    return builder.like("aten.expand", inner.args[0], node.out.sizes)


def identity_view(builder: Builder, node: Node) -> Result:
    """detach, alias, a slice of everything: the value itself, if it looks the same."""
    return same(builder, node, node.args[0])


def squeeze_of_unsqueeze(builder: Builder, node: Node) -> Result:
    """A dimension put in and taken out again."""
    inner = producer(node, "aten.unsqueeze")
    if inner is None or node.args[1] % node.args[0].ndim != inner.args[1] % inner.out.ndim:
        return None
    return same(builder, node, inner.args[0])


# A view, and the op that writes through it: (base, new, where) with the view's own `where`.
SCATTERS = {
    "aten.slice.Tensor": "aten.slice_scatter",
    "aten.select.int": "aten.select_scatter",
    "aten.diagonal": "aten.diagonal_scatter",
}


def read_back(builder: Builder, node: Node) -> Result:
    """Reading the part that was just written gives what was written."""
    scatter = producer(node, SCATTERS[node.op])
    if scatter is None:
        return None
    read, wrote = bound(node), bound(scatter)
    source = wrote.pop("src")
    places = [{k: v for k, v in a.items() if k != "self"} for a in (read, wrote)]
    return same(builder, node, source) if places[0] == places[1] else None


def read_beside(builder: Builder, node: Node) -> Result:
    """Reading a part that was not written gives what was there before."""
    scatter = producer(node, "aten.slice_scatter", "aten.select_scatter")
    if scatter is None:
        return None
    base: Value = scatter.args[0]
    read, written = (_part(n, base) for n in (node, scatter))
    if read is None or written is None or base.strides != scatter.out.strides:
        return None
    (dim, start, end), (other, first, last) = read, written
    if dim != other or (start < last and first < end):
        return None
    return builder.like(node.op, base, *node.args[1:], **node.kwargs)


def _part(node: Node, base: Value) -> tuple[int, int, int] | None:
    """The dimension along which a slice or select takes a part of `base` (or writes it), the part's
    begin and its end; None if they are not known."""
    a = bound(node)
    dim = a["dim"] % base.ndim
    size = base.sizes[dim]
    ends = (a["index"], a["index"]) if "index" in a else (a["start"] or 0, a["end"])
    if not isinstance(size, int) or not all(n is None or isinstance(n, int) for n in ends):
        return None
    start, end = (size if n is None else max(n + size if n < 0 else n, 0) for n in ends)
    return dim, start, end + 1 if "index" in a else min(end, size)


RESHAPES = ("aten.view", "aten._unsafe_view", "aten.reshape")
PERMUTES = ("aten.permute", "aten.transpose.int", "aten.t")
RULES: tuple[Pattern, ...] = (
    Pattern("add zero", ("aten.add.Tensor",), add_zero),
    Pattern("subtract zero", ("aten.sub.Tensor",), subtract_zero),
    Pattern("multiply or divide by one", ("aten.mul.Tensor", "aten.div.Tensor"), by_one),
    Pattern("power of one", ("aten.pow.Tensor_Scalar",), power_one),
    Pattern("negate twice", ("aten.neg",), negate_twice),
    Pattern("copy", ("aten.clone", "aten._to_copy"), copy),
    Pattern("cast of a cast", ("aten._to_copy",), cast_of_cast),
    Pattern("view of a view", RESHAPES, view_of_view),
    Pattern("permute of a permute", PERMUTES, permute_of_permute),
    Pattern("expand of an expand", ("aten.expand",), expand_of_expand),
    Pattern("read back", tuple(SCATTERS), read_back),
    Pattern("read beside", ("aten.slice.Tensor", "aten.select.int"), read_beside),
    Pattern(
        "view of everything", ("aten.detach", "aten.alias", "aten.slice.Tensor"), identity_view
    ),
    Pattern("squeeze of an unsqueeze", ("aten.squeeze.dim",), squeeze_of_unsqueeze),
)


# --- what rules ask ---


def same(builder: Builder, node: Node, value: Value) -> Value | None:
    """`value` if it can stand for the node's result as it is."""
    return value if builder.agree(value, node.out) else None


def producer(node: Node, *ops: str) -> Node | None:
    """The node that made the first argument, if it is one of those ops."""
    made = node.args[0].node
    return made if made is not None and made.op in ops else None


def is_number(arg: Arg, number: float) -> bool:
    """Whether an argument is that Python number; 0.0 is not -0.0."""
    if isinstance(arg, bool) or not isinstance(arg, (int, float)):
        return False
    return arg == number and math.copysign(1, arg) == math.copysign(1, number)


def permutation(node: Node) -> tuple[int, ...]:
    """For each dimension of a permuting node's result the dimension of its input."""
    ndim = node.args[0].ndim
    order = list(range(ndim))
    if node.op == "aten.permute":
        return tuple(d % ndim for d in node.args[1])
    if node.op == "aten.t":
        return tuple(reversed(order))
    if ndim:
        a, b = (d % ndim for d in node.args[1:3])
        order[a], order[b] = b, a
    return tuple(order)


def bound(node: Node) -> dict[str, Any]:
    """Every argument by its name in the op's schema, defaults filled in."""
    defaults = _schema(node.op)
    found = dict(defaults)
    found.update(zip(defaults, node.args, strict=False))
    found.update(node.kwargs)
    return found


@cache
def _schema(op: str) -> dict[str, Any]:
    arguments = schema_of(function(op)).arguments
    return {a.name: a.default_value for a in arguments}
