"""Shape rules work on sizes that are expressions, and agree with those on numbers."""

from __future__ import annotations

from typing import Any

import pytest
import sympy

from tracejit.ir.graph import Value, contiguous_strides, map_values
from tracejit.ir.rewrite import metas_of
from tracejit.ops.table import OPS

n, m = sympy.symbols("n m", integer=True, positive=True)
NUMBERS = {n: 6, m: 4}


def f32(*sizes: Any) -> Value:
    return Value("v", "f32", sizes, contiguous_strides(sizes))


def i64(*sizes: Any) -> Value:
    return Value("i", "i64", sizes, contiguous_strides(sizes))


def number(size: Any) -> Any:
    return int(size.subs(NUMBERS)) if isinstance(size, sympy.Basic) else size


def concrete(tree: Any) -> Any:
    """The arguments with numbers for the symbols."""
    if isinstance(tree, (tuple, list)):
        return tuple(map(concrete, tree))

    def value(v: Value) -> Value:
        return Value(v.name, v.dtype, tuple(map(number, v.sizes)), tuple(map(number, v.strides)))

    return map_values(tree, value) if isinstance(tree, Value) else number(tree)


x = f32(n, m, 8)
CALLS: dict[str, tuple[Any, ...]] = {
    "aten.add.Tensor": (x, f32(m, 1)),
    "aten.where.self": (x, f32(8), f32()),
    "aten.sum.dim_IntList": (x, (1, -1), True),
    "aten.mean.dim": (x, (0,)),
    "aten.argmax": (x, 1),
    "aten.max.dim": (x, 1, True),
    "aten.cumsum": (x, 0),
    "aten._softmax": (x, -1, False),
    "aten.native_layer_norm": (x, (8,), None, None, 1e-5),
    "aten.cat": ((x, f32(n, 3, 8), x), 1),
    "aten.stack": ((x, x), 1),
    "aten.constant_pad_nd": (x, (1, 2, m, 0)),
    "aten.repeat": (x, (2, n, 1, 1)),
    "aten.index_select": (x, 1, i64(n)),
    "aten.gather": (x, 1, i64(n, 2, 8)),
    "aten.index.Tensor": (x, (i64(n), None, i64(n))),
    "aten.embedding": (f32(100, m), i64(n, 7)),
    "aten.arange": (n,),
    "aten.arange.start_step": (1, n, 2),
    "aten.full": ((n, m), 1.0),
    "aten.mm": (f32(n, 3), f32(3, m)),
    "aten.bmm": (f32(n, m, 3), f32(n, 3, m)),
    "aten.addmm": (f32(m), f32(n, 3), f32(3, m)),
    "aten.convolution": (
        f32(n, 3, 4 * m, m),
        f32(5, 3, 3, 3),
        None,
        (2, 1),
        (1,),
        (1, 1),
        False,
        (0, 0),
        1,
    ),
    "aten.scaled_dot_product_attention": (f32(n, 2, m, 8), f32(n, 2, 9, 8), f32(n, 2, 9, 16)),
    "aten.nll_loss_forward": (f32(n, m), i64(n), None, 0, -100),
    "aten.glu": (f32(n, 2 * m), 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_rule_on_expressions_agrees_with_the_rule_on_numbers(name: str) -> None:
    rule, args = OPS[name].shape, CALLS[name]
    symbolic = metas_of(rule(*args))
    found = tuple((dtype, tuple(map(number, sizes))) for dtype, sizes in symbolic)
    assert found == metas_of(rule(*map(concrete, args)))
    assert any(isinstance(s, sympy.Basic) for _, sizes in symbolic for s in sizes)
