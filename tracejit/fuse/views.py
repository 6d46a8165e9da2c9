"""Views never copy: what lies below a value that is one, and where its elements lie there."""

from __future__ import annotations

from collections.abc import Container

from tracejit.fuse.index import Axis, Index, dot
from tracejit.ir.dtypes import COMPUTED
from tracejit.ir.graph import Node, Value, numel
from tracejit.ops.table import COMPUTES, OPS, Kind
from tracejit.ops.table import kind_of as row_kind

ROW_KINDS = frozenset({Kind.REDUCTION, Kind.SCAN})


def kind_of(node: Node) -> Kind:
    """How the node lowers. Without a row, or with a dtype that no generator computes with, it is an
    extern call.
    """
    if node.lowers is None:
        node.lowers = _kind_of(node)
    kind: Kind = node.lowers
    return kind


def _kind_of(node: Node) -> Kind:
    kind = row_kind(node)
    if kind not in COMPUTES:
        return kind if kind is Kind.VIEW else Kind.EXTERN
    values = (*node.inputs, *node.outputs)
    if any(v.dtype not in COMPUTED for v in values) or len({v.device for v in values}) > 1:
        return Kind.EXTERN
    if kind in ROW_KINDS and 0 in node.inputs[0].sizes:
        return Kind.EXTERN  # nothing to combine: eager knows what that gives or raises
    return kind


def view_base(value: Value) -> Value:
    """The value that this one is a view of, through all views; itself if it is none."""
    while value.node is not None and kind_of(value.node) is Kind.VIEW:
        value = value.node.inputs[0]
    return value


def through_view(view: Value, index: tuple[Index, ...]) -> tuple[Index, ...]:
    """The index into the viewed value for an index into the view."""
    assert view.node is not None
    row = OPS[view.node.op]
    assert row.index is not None
    source = view.node.inputs[0]
    return row.index(source.sizes, view.sizes, index, *view.node.args[1:], **view.node.kwargs)


def geometry(value: Value, base: Value) -> tuple[tuple[int, ...], int] | None:
    """Strides and offset of `value` as a view of `base`'s memory; None where they would not be
    plain strides.
    """
    if value is base or numel(value.sizes) == 0:
        return value.strides, 0
    axes = [Axis(f"i{d}", size) for d, size in enumerate(value.sizes)]
    index = own = tuple(map(Index.of, axes))
    step = value
    while step is not base:
        index = through_view(step, index)
        assert step.node is not None
        step = step.node.inputs[0]
    position = dot(index, base.strides)
    strides = tuple(
        position.coefficient(a) if a.size > 1 else s
        for a, s in zip(axes, value.strides, strict=True)
    )
    plain = dot(own, strides) + position.const
    return (strides, position.const) if plain == position else None


def in_memory(value: Value, memory: Container[Value]) -> Value:
    """The value that must be in memory so that `value` is: its view base where it is plain strides
    of that, else itself.
    """
    base = view_base(value)
    if value in memory or (value is not base and geometry(value, base) is None):
        return value
    return base
