"""How a view descends from its base: the op and arguments by which the graph makes it again, and
what becomes of the base when the view is written to.

Dimensions are counted from the front, sizes and bounds are spelled out, and ops that do the same
become one op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from tracejit.ir.dtypes import TORCH
from tracejit.ir.graph import Arg, Value
from tracejit.ops.strides import dense, separable
from tracejit.ops.table import OPS
from tracejit.ops.views import bounds, squeezed
from tracejit.trace.aliases import Alias
from tracejit.trace.recording import Refused

if TYPE_CHECKING:
    from tracejit.trace.storages import Storages

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
# Views without a row are recorded as copies; the second column undoes one.
_COPIES = {
    "aten.view_copy.dtype": "aten.view_copy.dtype",
    "aten.view_as_real_copy": "aten.view_as_complex_copy",
    "aten.view_as_complex_copy": "aten.view_as_real_copy",
    "aten.conj_physical": "aten.conj_physical",
    "aten.neg": "aten.neg",
}


def look(found: Storages, alias: Alias, base: Value) -> Value:
    """The node of a view; strides are the real ones as long as the base has its real ones."""
    parent, args = alias.parent, (base, *alias.args)
    assert parent is not None
    if alias.op == "aten.as_strided":
        args = (_contiguous(found, base), *alias.args)
    elif base.strides == parent.strides and alias.op in OPS and alias.op not in _COPIES:
        meta = (alias.dtype, alias.sizes, alias.strides, alias.device)
        return found.graph.add(alias.op, args, None, [meta], alias.origin).out
    return found.add(alias.op, args, {}, alias.origin)


def _contiguous(found: Storages, base: Value) -> Value:
    """The base as its memory lies: a permutation of it that is contiguous, so that strides have a
    meaning. Raises Refused.
    """
    order = dense(base.sizes, base.strides)
    if order is None:
        raise Refused("op", "as_strided of a tensor that has gaps")
    if order == tuple(range(len(order))):
        return base
    return found.add("aten.permute", (base, order), {})


def check_separable(alias: Alias) -> None:
    """Each element has one place, or a write to one would be a write to others. Raises Refused."""
    if not separable(alias.sizes, alias.strides) and 0 not in alias.sizes:
        raise Refused("mutation", "a write to elements that overlap")


def undo(found: Storages, alias: Alias, value: Value) -> Value:
    """The parent's new value after the alias became `value`. Raises Refused."""
    parent = alias.parent
    assert parent is not None
    base = found.read(parent)
    if alias.op in _COPIES:
        to = (TORCH[parent.dtype],) if alias.op == "aten.view_copy.dtype" else ()
        return found.add(_COPIES[alias.op], (value, *to), {})
    row = OPS.get(alias.op)
    if alias.op == "aten.as_strided" or row is None or row.undo is None:
        return _undo_strided(found, alias, base, value)
    op, args = row.undo(base, value, *alias.args)
    return found.add(op, args, {})


def _undo_strided(found: Storages, alias: Alias, base: Value, value: Value) -> Value:
    """By where the elements lie in memory, if the base's value lies as the real one does."""
    parent = alias.parent
    assert parent is not None
    if base.strides != parent.strides or alias.dtype != parent.dtype:
        raise Refused("mutation", f"a write through {alias.op}")
    flat = _contiguous(found, base)
    place = (alias.sizes, alias.strides, alias.offset - parent.offset)
    new = found.add("aten.as_strided_scatter", (flat, value, *place), {})
    order = dense(base.sizes, base.strides)
    if flat is base or order is None:
        return new
    undone = OPS["aten.permute"].undo
    assert undone is not None
    op, args = undone(base, new, order)
    return found.add(op, args, {})
