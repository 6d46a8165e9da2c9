"""How a view descends from its base: the op and arguments by which the graph makes it again.

Dimensions are counted from the front, sizes and bounds are spelled out, and ops that do the same
become one op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tracejit.ir.graph import Arg
from tracejit.ops.views import bounds, squeezed
from tracejit.trace.storages import Alias

Described = tuple[str, tuple[Arg, ...]]


def described(
    name: str, parent: Alias, result: torch.Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Described:
    """The op that makes `result` from its parent, and its further arguments; ("", ()) if only
    strides can say it.
    """
    rule = _RULES.get(name)
    return rule(parent, result, *args, **kwargs) if rule is not None else ("", ())


def _dim(dim: int, ndim: int) -> int:
    return dim % ndim if ndim else 0


def _sized(op: str) -> Callable[..., Described]:
    return lambda parent, result, *args, **kwargs: (op, (tuple(result.shape),))


def _permute(parent: Alias, result: torch.Tensor, dims: Any) -> Described:
    return "aten.permute", (tuple(_dim(d, len(parent.sizes)) for d in dims),)


def _transpose(parent: Alias, result: torch.Tensor, dim0: int, dim1: int) -> Described:
    ndim = len(parent.sizes)
    return "aten.transpose.int", (_dim(dim0, ndim), _dim(dim1, ndim))


def _squeeze(parent: Alias, result: torch.Tensor, dim: Any = None) -> Described:
    kept = squeezed(parent.sizes, dim)
    gone = tuple(d for d in range(len(parent.sizes)) if d not in kept)
    return ("aten.squeeze.dim", gone) if len(gone) == 1 else ("aten.squeeze.dims", (gone,))


def _unsqueeze(parent: Alias, result: torch.Tensor, dim: int) -> Described:
    return "aten.unsqueeze", (_dim(dim, result.ndim),)


def _slice(
    parent: Alias,
    result: torch.Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Described:
    d = _dim(dim, len(parent.sizes))
    first, last = bounds(parent.sizes[d], start, end)
    return "aten.slice.Tensor", (d, first, last, step)


def _select(parent: Alias, result: torch.Tensor, dim: int, index: int) -> Described:
    d = _dim(dim, len(parent.sizes))
    return "aten.select.int", (d, index % parent.sizes[d])


def _diagonal(
    parent: Alias, result: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Described:
    ndim = len(parent.sizes)
    return "aten.diagonal", (offset, _dim(dim1, ndim), _dim(dim2, ndim))


def _unfold(parent: Alias, result: torch.Tensor, dimension: int, size: int, step: int) -> Described:
    return "aten.unfold", (_dim(dimension, len(parent.sizes)), size, step)


def _copy(op: str) -> Callable[..., Described]:
    return lambda parent, result, *args: (op, args)


_RULES: dict[str, Callable[..., Described]] = {
    "aten.view": _sized("aten.view"),
    "aten._unsafe_view": _sized("aten.view"),
    "aten._reshape_alias": _sized("aten.view"),
    "aten.alias": _sized("aten.view"),
    "aten.detach": _sized("aten.view"),
    "aten.lift_fresh": _sized("aten.view"),
    "aten.expand": _sized("aten.expand"),
    "aten.permute": _permute,
    "aten.transpose.int": _transpose,
    "aten.transpose": _transpose,  # from transpose_
    "aten.swapdims": _transpose,
    "aten.swapaxes": _transpose,
    "aten.t": lambda parent, result: ("aten.t", ()),
    "aten.squeeze": _squeeze,
    "aten.squeeze.dim": _squeeze,
    "aten.squeeze.dims": _squeeze,
    "aten.unsqueeze": _unsqueeze,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.diagonal": _diagonal,
    "aten.unfold": _unfold,
    "aten.view.dtype": _copy("aten.view_copy.dtype"),
    "aten._conj": _copy("aten.conj_physical"),
    "aten._neg_view": _copy("aten.neg"),
    "aten.view_as_real": _copy("aten.view_as_real_copy"),
    "aten.view_as_complex": _copy("aten.view_as_complex_copy"),
}
