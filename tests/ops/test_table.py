"""Every row has what its kind needs, and names an op that torch has."""

from __future__ import annotations

import pytest

import tracejit.ops  # noqa: F401  (registers the rows)
from tracejit.fuse.scalar import REDUCTIONS, SCANS
from tracejit.ir.execute import OWN, function
from tracejit.ir.graph import Graph
from tracejit.ops.table import OPS, Kind, Op, kind_of, row

NEEDED = {
    Kind.POINTWISE: {"expr", "compute"},
    Kind.REDUCTION: {"reduction", "dims", "accumulate"},
    Kind.SCAN: {"reduction", "dims", "accumulate"},
    Kind.VIEW: {"index"},
    Kind.PULL: {"pull"},
    Kind.DECOMPOSE: {"decompose"},
    Kind.EXTERN: set(),
}
OPTIONAL = {Kind.VIEW: {"undo"}}
FIELDS = set().union(*NEEDED.values(), *OPTIONAL.values())


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_row_is_complete(op: Op) -> None:
    given = {field for field in FIELDS if getattr(op, field)}
    assert NEEDED[op.kind] <= given <= NEEDED[op.kind] | OPTIONAL.get(op.kind, set())
    if op.kind is Kind.REDUCTION:
        assert op.reduction in REDUCTIONS
    if op.kind is Kind.SCAN:
        assert op.reduction in SCANS


@pytest.mark.parametrize("name", [name for name in OPS if name not in OWN])
def test_op_exists_in_torch(name: str) -> None:
    schema = function(name)._schema  # type: ignore[attr-defined]
    assert not schema.is_mutable


def test_one_row_an_op() -> None:
    with pytest.raises(ValueError, match=r"aten\.mul\.Tensor has a row already"):
        row("aten.mul.Tensor", Kind.EXTERN, OPS["aten.mul.Tensor"].shape)


def test_integer_division_by_a_tensor_is_left_to_eager() -> None:
    graph = Graph()
    x, y = (graph.add_input("i64", (3,), (1,)) for _ in range(2))
    metas = [("i64", (3,), None, "cpu")]
    by_tensor = graph.add("aten.floor_divide", (x, y), metas=metas)
    by_number = graph.add("aten.floor_divide", (x, 2), metas=metas)
    by_zero = graph.add("aten.floor_divide", (x, 0), metas=metas)
    kinds = [kind_of(n) for n in (by_tensor, by_number, by_zero)]
    assert kinds == [Kind.EXTERN, Kind.POINTWISE, Kind.EXTERN]
