"""How pointwise rows are made: dtype rules, the dtype to compute in, numbers among the operands.

A row's expression is written once, for scalars; `pointwise` lifts numbers to constants of the
operands' dtype and widens halves to f32. The driver casts the result to the node's dtype, so halves
round after each op, as in eager.

Which *operands* of a half op eager rounds differs by op: `a * 0.1` in bf16 multiplies by the
unrounded number, `a + 0.1` adds the number in bf16 (on the CPU; not on GPUs). A row says so by its
`rounds`, one of the functions below: True makes operands come in the half dtype itself, so that
numbers and 0-d tensors of other dtypes are rounded to it first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracejit.fuse.scalar import Scalar
from tracejit.ir.dtypes import HALVES, opmath
from tracejit.ir.graph import Node, Value
from tracejit.ops.promote import broadcast_all, float_of, result_type
from tracejit.ops.table import Kind, Meta, row
from tracejit.ops.words import narrow, operand, widen

Expr = Callable[..., Scalar]
Rule = Callable[
    [str, dict[str, Any]], str
]  # the operands' common dtype, kwargs -> the result's dtype
Rounds = Callable[[Node, str], bool]


def same(dtype: str, kwargs: dict[str, Any]) -> str:
    return dtype


def boolean(dtype: str, kwargs: dict[str, Any]) -> str:
    return "bool"


def floating(dtype: str, kwargs: dict[str, Any]) -> str:
    """Float functions of integers give the default float."""
    return float_of(dtype)


def always(node: Node, dtype: str) -> bool:
    """Comparisons, remainders, powers and everything that picks one of its operands."""
    return True


def strays(node: Node, dtype: str) -> bool:
    """Products and quotients: 0-d tensors of another dtype, on the CPU only in the first place."""
    return any(
        isinstance(a, Value)
        and not a.sizes
        and a.dtype != dtype
        and (place == 0 or a.device != "cpu")
        for place, a in enumerate(node.args)
    )


def on_cpu(node: Node, dtype: str) -> bool:
    """Sums: on the CPU everything is rounded, elsewhere 0-d tensors are."""
    return node.out.device == "cpu" or strays(node, dtype)


def pointwise(
    names: str,
    expr: Expr,
    *,
    operands: int = 1,
    rule: Rule = same,
    rounds: Rounds = strays,
    stepwise: bool = False,
    applies: Callable[[Node], bool] | None = None,
) -> None:
    """Add a row for each op in `names` (space-separated, without `aten.`).

    operands: how many leading arguments take part in promotion and are lifted to scalars; later
    ones are passed on. rule: the result's dtype. stepwise: `expr` takes `step`, which rounds an
    intermediate result as eager's kernel does where it computes in the half type itself.
    """

    def shape(*args: Any, **kwargs: Any) -> Meta:
        return rule(result_type(*args[:operands]), kwargs), broadcast_all(args)

    def compute(node: Node) -> str:
        promoted = result_type(*node.args[:operands])
        dtype = promoted if rule is boolean else rule(promoted, node.kwargs)
        return dtype if dtype in HALVES and rounds(node, dtype) else opmath(dtype)

    def lifted(*args: Any, **kwargs: Any) -> Scalar:
        dtype = next(a.dtype for a in args if isinstance(a, Scalar))
        if stepwise:
            kwargs["step"] = lambda x: narrow(x, dtype)
        return expr(*(_lift(a, dtype) for a in args[:operands]), *args[operands:], **kwargs)

    for name in names.split():
        row(f"aten.{name}", Kind.POINTWISE, shape, expr=lifted, compute=compute, applies=applies)


def _lift(argument: Any, dtype: str) -> Any:
    if argument is None:
        return None
    return widen(argument) if isinstance(argument, Scalar) else operand(argument, dtype)


def choosing(names: str, expr: Expr, picked: slice) -> None:
    """Add rows for ops that pick elements and compute nothing: halves stay as they are.

    picked: which arguments can be picked; they give the result's dtype.
    """

    def shape(*args: Any, **kwargs: Any) -> Meta:
        return result_type(*args[picked]), broadcast_all(args)

    def compute(node: Node) -> str:
        return result_type(*node.args[picked])

    for name in names.split():
        row(f"aten.{name}", Kind.POINTWISE, shape, expr=expr, compute=compute)
