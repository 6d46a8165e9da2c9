"""Type promotion and broadcasting equal torch's."""

from __future__ import annotations

import functools

import pytest
import sympy
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tracejit.ir.dtypes import NAME, TORCH
from tracejit.ir.graph import Value
from tracejit.ops.promote import broadcast, dim_of, dims_of, reduced, result_type

DTYPES = ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool", "c64"]
NUMBERS = [True, 2, 2.5, 1j]
operands = st.one_of(
    st.tuples(st.sampled_from(DTYPES), st.sampled_from([(), (2,)])), st.sampled_from(NUMBERS)
)


def as_value(operand: object) -> object:
    return (
        Value("v", operand[0], operand[1], (1,) * len(operand[1]))
        if isinstance(operand, tuple)
        else operand
    )


def as_tensor(operand: object) -> object:
    return (
        torch.ones(operand[1], dtype=TORCH[operand[0]]) if isinstance(operand, tuple) else operand
    )


@given(operands, operands)
def test_pair_is_torchs_result_type(a: object, b: object) -> None:
    assume(isinstance(a, tuple) or isinstance(b, tuple))
    expected = torch.result_type(as_tensor(a), as_tensor(b))
    assume(expected in NAME)  # no complex of halves
    assert result_type(as_value(a), as_value(b)) == NAME[expected]


@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.sampled_from([(), (2,)])), min_size=3, max_size=3
    )
)
def test_three_tensors_promote_as_in_where_and_addition(
    found: list[tuple[str, tuple[int, ...]]],
) -> None:
    by_sizes = [[t for t in found if bool(t[1]) is dims] for dims in (True, False)]
    groups = [
        functools.reduce(torch.promote_types, (TORCH[t[0]] for t in g)) for g in by_sizes if g
    ]
    tensors = [
        torch.ones((2,) if k == 0 and by_sizes[0] else (), dtype=d) for k, d in enumerate(groups)
    ]
    expected = functools.reduce(torch.result_type, tensors) if len(tensors) > 1 else groups[0]
    assume(expected in NAME)
    assert result_type(*map(as_value, found)) == NAME[expected]


@given(st.lists(st.lists(st.sampled_from([1, 2, 3, 0]), max_size=3), min_size=1, max_size=3))
def test_broadcast_is_torchs(shapes: list[list[int]]) -> None:
    try:
        expected = tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        with pytest.raises(ValueError, match="do not broadcast"):
            broadcast(*shapes)
    else:
        assert broadcast(*shapes) == expected


def test_broadcast_of_expressions() -> None:
    n, m = sympy.symbols("n m", integer=True, positive=True)
    assert broadcast((n, 1), (4,)) == (n, 4)
    assert broadcast((n, m), (n, 1), ()) == (n, m)
    assert broadcast((n,), (7,)) == (7,)  # they are equal, or eager would have raised


def test_dims() -> None:
    assert dims_of(None, 3) == dims_of((), 3) == (0, 1, 2)
    assert dims_of((-1, 0), 3) == (0, 2)
    assert dims_of(-1, 0) == ()
    assert reduced((2, 3, 4), (0, 2), keepdim=True) == (1, 3, 1)
    assert reduced((2, 3, 4), (0, 2), keepdim=False) == (3,)
    with pytest.raises(IndexError, match="Dimension out of range"):
        dim_of(3, 3)
