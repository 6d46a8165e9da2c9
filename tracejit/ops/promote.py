"""torch's type promotion and broadcasting, on the arguments of a graph: Values and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch

from tracejit.ir.dtypes import COMPLEX, FLOATS, NAME, TORCH
from tracejit.ir.graph import Size, Value, values_in


@cache
def join(a: str, b: str) -> str:
    """The smallest dtype that both convert to; "" is the dtype of nothing."""
    if not a or not b:
        return a or b
    return NAME[torch.promote_types(TORCH[a], TORCH[b])]


def default_float() -> str:
    """The dtype of floats that nothing gives one: a graph does not depend on torch's setting, which
    the recorder spells out where it is another (trace.steps)."""
    return "f32"


def number_dtype(number: Any) -> str:
    """The dtype that a Python number brings to a promotion."""
    if isinstance(number, bool):
        return "bool"
    if isinstance(number, complex):
        return "c64"
    return default_float() if isinstance(number, float) else "i64"


def result_type(*operands: Any) -> str:
    """What `torch.result_type` gives for Values and Python numbers; None operands are skipped.

    Tensors with dimensions outweigh 0-d tensors, which outweigh numbers, unless the lighter is of
    a higher kind.
    """
    dims = zero_dim = wrapped = ""
    for operand in operands:
        if operand is None:
            continue
        if not isinstance(operand, Value):
            wrapped = join(wrapped, number_dtype(operand))
        elif operand.sizes:
            dims = join(dims, operand.dtype)
        else:
            zero_dim = join(zero_dim, operand.dtype)
    return _outweigh(dims, _outweigh(zero_dim, wrapped))


def _outweigh(heavy: str, light: str) -> str:
    if not heavy or not light:
        return heavy or light
    if heavy in COMPLEX:
        return heavy
    if heavy in FLOATS:
        return NAME[TORCH[heavy].to_complex()] if light in COMPLEX else heavy
    return join(heavy, light) if heavy == "bool" or light in FLOATS | COMPLEX else heavy


def float_of(dtype: str) -> str:
    """The dtype of a float function's result: integers and bool give the default float."""
    return dtype if dtype in FLOATS or dtype in COMPLEX else default_float()


def real_of(dtype: str) -> str:
    """The dtype of the parts of a complex dtype; others as they are."""
    return NAME[TORCH[dtype].to_real()] if dtype in COMPLEX else dtype


def dtype_name(dtype: Any, default: str = "") -> str:
    """The short name of a dtype argument, given as torch.dtype or already short; `default` for
    None."""
    if dtype is None:
        return default
    return dtype if isinstance(dtype, str) else NAME[dtype]


def broadcast(*shapes: Sequence[Size]) -> tuple[Size, ...]:
    """The common shape, of ints or expressions; two expressions are taken to be equal.

    Raises ValueError if there is none.
    """
    ndim = max((len(s) for s in shapes), default=0)
    found: list[Size] = [1] * ndim
    for shape in shapes:
        for k, size in enumerate(shape, start=ndim - len(shape)):
            if size == 1 or found[k] == size:
                continue
            if found[k] == 1:
                found[k] = size
            elif isinstance(size, int):
                if isinstance(found[k], int):
                    raise ValueError(f"sizes {list(map(list, shapes))} do not broadcast")
                found[k] = size
    return tuple(found)


def broadcast_all(arguments: Any) -> tuple[Size, ...]:
    """The common shape of every Value in nested arguments."""
    return broadcast(*(v.sizes for v in values_in(arguments)))


def dim_of(dim: int, ndim: int) -> int:
    """`dim` counted from the front; a 0-d tensor counts as 1-d. IndexError if out of range."""
    limit = max(ndim, 1)
    if not -limit <= dim < limit:
        raise IndexError(
            "Dimension out of range (expected to be in range of "
            f"[{-limit}, {limit - 1}], but got {dim})"
        )
    return dim % limit


def dims_of(dims: int | Iterable[int] | None, ndim: int) -> tuple[int, ...]:
    """The dims to combine over, from the front and sorted; None or none at all mean every dim."""
    if isinstance(dims, int):
        dims = (dims,)
    chosen = tuple(sorted({dim_of(d, ndim) for d in dims or ()}))
    return tuple(d for d in chosen if d < ndim) if chosen else tuple(range(ndim))


def reduced(sizes: Sequence[Size], dims: Sequence[int], keepdim: bool) -> tuple[Size, ...]:
    """`sizes` with the dims combined away, or kept as 1."""
    return tuple(1 if d in dims else s for d, s in enumerate(sizes) if keepdim or d not in dims)
