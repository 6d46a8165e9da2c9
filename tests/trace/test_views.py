"""The rows of views and of ops that write through them, against torch: shapes, indices, undo."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import tracejit.ops  # noqa: F401
from tracejit.fuse.index import Index
from tracejit.fuse.scalar import Scalar, const
from tracejit.ir.dtypes import NAME
from tracejit.ir.execute import function
from tracejit.ir.graph import Node, Value
from tracejit.ops.strides import dense, dense_strides, separable
from tracejit.ops.table import OPS, Kind

CASES: dict[str, list[tuple[tuple[int, ...], tuple[Any, ...]]]] = {
    "aten.view": [
        ((4, 6), ((24,),)),
        ((4, 6), ((2, -1, 3),)),
        ((0, 3), ((3, 0),)),
        ((), ((1, 1),)),
    ],
    "aten._unsafe_view": [((4, 6), ((8, 3),))],
    "aten.reshape": [((4, 6), ((6, 4),)), ((4, 6), ((4, 2, 3),))],
    "aten._reshape_alias": [((4, 6), ((6, 4), (4, 1)))],
    "aten.alias": [((4, 6), ())],
    "aten.detach": [((4, 6), ())],
    "aten.lift_fresh": [((4, 6), ())],
    "aten.squeeze": [((1, 4, 1), ()), ((4, 6), ())],
    "aten.squeeze.dim": [((1, 4, 1), (-1,)), ((4, 6), (0,)), ((), (0,))],
    "aten.squeeze.dims": [((1, 4, 1), ((0, -1),)), ((1, 4, 1), ((1,),))],
    "aten.unsqueeze": [((4, 6), (0,)), ((4, 6), (-1,)), ((), (0,))],
    "aten.permute": [((2, 3, 4), ((2, 0, 1),)), ((2, 3, 4), ((-1, 0, -2),))],
    "aten.transpose.int": [((2, 3, 4), (0, -1)), ((), (0, 0))],
    "aten.t": [((4, 6), ()), ((4,), ())],
    "aten.expand": [((4, 1), ((3, 4, 5),)), ((4, 6), ((-1, 6),)), ((1,), ((4, -1),))],
    "aten.slice.Tensor": [
        ((8, 6), (0, 1, 7, 2)),
        ((8, 6), (-1, -4, -1)),
        ((8, 6), (0, None, None, 3)),
        ((8, 6), (1, 5, 2)),
        ((8, 6), (0, 2, 9223372036854775807)),
        ((8, 6), ()),
    ],
    "aten.select.int": [((4, 6), (0, 1)), ((4, 6), (-1, -2))],
    "aten.diagonal": [((4, 6), ()), ((4, 6), (2,)), ((4, 6), (-3,)), ((2, 4, 6), (1, -1, 0))],
    "aten.unfold": [((8, 3), (0, 3, 2)), ((8, 3), (-1, 2, 1)), ((), (0, 1, 1))],
    "aten.as_strided": [((4, 6), ((3, 2), (7, 1), 1)), ((4, 6), ((2, 3, 2), (12, 1, 3), 0))],
}
SCATTERS: dict[str, list[tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]]] = {
    "aten.slice_scatter": [
        ((8, 6), (3, 6), (0, 1, 7, 2)),
        ((8, 6), (8, 3), (-1, -4, -1)),
        ((8, 6), (8, 6), ()),
        ((8, 6), (8, 0), (1, 5, 2)),
    ],
    "aten.select_scatter": [
        ((4, 6), (6,), (0, -1)),
        ((4, 6), (4,), (1, 2)),
        ((1, 3), (3,), (0, 0)),
    ],
    "aten.diagonal_scatter": [
        ((4, 6), (4,), ()),
        ((4, 6), (3,), (3,)),
        ((4, 6), (2,), (-2,)),
        ((2, 4, 6), (4, 2), (0, 0, 2)),
    ],
    "aten.as_strided_scatter": [
        ((4, 6), (3, 2), ((3, 2), (7, 1), 1)),
        ((4, 6), (2, 3, 2), ((2, 3, 2), (12, 1, 3), 0)),
        ((4, 6), (2, 3), ((2, 3), (1, 6), 4)),
    ],
    "aten.flip": [((4, 6), (), ((0,),)), ((4, 6), (), ((0, -1),))],
}


def value(name: str, t: torch.Tensor) -> Value:
    return Value(name, NAME[t.dtype], tuple(t.shape), tuple(t.stride()))


def cases(table: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(op, *case, id=f"{op}-{n}") for op in table for n, case in enumerate(table[op])
    ]


def everywhere(sizes: Any) -> Any:
    return itertools.product(*map(range, sizes))


@pytest.mark.parametrize(("op", "sizes", "args"), cases(CASES))
def test_view(op: str, sizes: tuple[int, ...], args: tuple[Any, ...]) -> None:
    """Each element of the view is the element of the base that the row's index says."""
    base = torch.arange(torch.Size(sizes).numel()).reshape(sizes)
    view = function(op)(base, *args)
    row = OPS[op]
    assert row.shape(value("x", base), *args) == ("i64", tuple(view.shape))
    assert row.index is not None
    for place in everywhere(view.shape):
        source = row.index(sizes, tuple(view.shape), tuple(map(Index.of, place)), *args)
        assert all(i.is_const for i in source)
        assert base[tuple(i.const for i in source)] == view[place]


@pytest.mark.parametrize(("op", "sizes", "args"), cases(CASES))
def test_undo(op: str, sizes: tuple[int, ...], args: tuple[Any, ...]) -> None:
    """The base after a write through the view, against the write itself."""
    base = torch.arange(torch.Size(sizes).numel()).reshape(sizes)
    view = function(op)(base, *args)
    undo = OPS[op].undo
    if undo is None or not separable(view.shape, view.stride()):
        assert op in ("aten.unfold", "aten.expand")
        return
    new = view + 100
    values = {"base": base.clone(), "new": new.clone()}
    undone, undone_args = undo(value("base", base), value("new", new), *args)
    view.copy_(new)
    tensors = [values[a.name] if isinstance(a, Value) else a for a in undone_args]
    assert torch.equal(function(undone)(*tensors), base)


class Elements:
    """A puller that reads real tensors: every index is a number."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def value(self, value: Value, index: Any, mask: Scalar | None = None) -> Scalar:
        if mask is not None and not truth(mask):
            return const(-1, value.dtype)
        return const(self.tensors[value.name][tuple(i.const for i in index)].item(), value.dtype)

    def indirect(self, scalar: Scalar, size: int, wrap: bool = True) -> Index:
        raise AssertionError("not needed here")


def truth(scalar: Scalar) -> Any:
    """A constant expression's number."""
    args = [truth(a) for a in scalar.args]
    rules: dict[str, Any] = {
        "const": lambda: scalar.arg,
        "and": lambda a, b: a and b,
        "eq": lambda a, b: a == b,
        "ge": lambda a, b: a >= b,
        "lt": lambda a, b: a < b,
        "where": lambda c, a, b: a if c else b,
    }
    return rules[scalar.op](*args)


@pytest.mark.parametrize(("op", "sizes", "new_sizes", "args"), cases(SCATTERS))
def test_pull(op: str, sizes: Any, new_sizes: Any, args: Any) -> None:
    base = torch.arange(torch.Size(sizes).numel()).reshape(sizes)
    new = torch.arange(torch.Size(new_sizes).numel()).reshape(new_sizes) + 100
    inputs = (base,) if op == "aten.flip" else (base, new)
    expected = function(op)(*inputs, *args)
    tensors = dict(zip(("base", "new"), inputs))
    operands = (*(value(n, t) for n, t in tensors.items()), *args)
    node = Node(op, operands, outputs=(value("out", expected),))
    row = OPS[op]
    assert row.kind is Kind.PULL and row.pull is not None
    assert row.shape(*node.args) == ("i64", tuple(expected.shape))
    for place in everywhere(expected.shape):
        found = row.pull(Elements(tensors), node, tuple(map(Index.of, place)), 0)
        assert truth(found) == expected[place].item(), place


@pytest.mark.parametrize(
    ("sizes", "strides", "order"),
    [
        ((2, 3), (3, 1), (0, 1)),
        ((2, 3), (1, 2), (1, 0)),
        ((2, 3), (4, 1), None),
        ((2, 3), (0, 1), None),
        ((1, 3), (77, 1), (0, 1)),
        ((2, 0), (5, 7), (0, 1)),
        ((), (), ()),
        ((2, 1, 3), (3, 3, 1), (0, 1, 2)),
    ],
)
def test_dense(sizes: Any, strides: Any, order: Any) -> None:
    assert dense(sizes, strides) == order
    packed = dense_strides(sizes, strides)
    assert dense(sizes, packed) is not None
    if order is not None:
        assert packed == strides
