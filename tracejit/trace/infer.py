"""How results look of operations that the recorder makes itself, once per signature.

An op's row says dtype and sizes. Without one the op is tried: a pointwise op on tiny tensors (it
only chooses a dtype), views and others on meta tensors, so that nothing is computed.
"""

from __future__ import annotations

from typing import Any

import torch

import tracejit.ops  # noqa: F401  (registers the rows)
from tracejit.ir.dtypes import NAME, TORCH
from tracejit.ir.graph import Arg, Rng, Value, contiguous_strides, map_values, values_in
from tracejit.ops.promote import broadcast_all
from tracejit.ops.strides import dense
from tracejit.ops.table import OPS, Kind
from tracejit.trace.meta import tensors_in
from tracejit.trace.recording import Refused
from tracejit.trace.schema import overload_of

Meta = tuple[str, tuple[int, ...], tuple[int, ...], str]  # dtype, sizes, strides, device
Kwargs = dict[str, Arg]

_KNOWN: dict[Any, tuple[Meta, ...]] = {}
_LIMIT = 10_000


def infer(op: str, args: tuple[Arg, ...], kwargs: Kwargs) -> tuple[Meta, ...]:
    """What `op` gives for values like its arguments, one Meta a tensor result.

    Raises Refused if that cannot be told without running it, and RuntimeError where the op itself
    would (a `view` of strides that do not allow it).
    """
    kwargs = {k: v for k, v in kwargs.items() if not isinstance(v, Rng)}  # that changes no look
    key = _key((op, args, tuple(kwargs.items())))
    found = _KNOWN.get(key)
    if found is None:
        if len(_KNOWN) > _LIMIT:
            _KNOWN.clear()
        found = _KNOWN[key] = _find(op, args, kwargs)
    return found


def viewable(base: Value, sizes: tuple[int, ...]) -> bool:
    """Whether the base's strides allow a view of these sizes."""
    try:
        infer("aten.view", (base, sizes), {})
    except RuntimeError:
        return False
    return True


def _key(tree: Any) -> Any:
    if isinstance(tree, Value):
        return (tree.dtype, tree.sizes, tree.strides, tree.device)
    if isinstance(tree, (tuple, list)):
        return tuple(map(_key, tree))
    return (type(tree), tree)  # 1, 1.0 and True are different arguments


def _find(op: str, args: tuple[Arg, ...], kwargs: Kwargs) -> tuple[Meta, ...]:
    row = OPS.get(op)
    laid_out = kwargs.get("memory_format") not in (None, torch.preserve_format)
    if row is not None and row.kind is not Kind.VIEW and not laid_out:
        shape = row.shape(*args, **kwargs)
        looks = (shape,) if isinstance(shape[0], str) else shape
        return tuple(_dense_meta(d, tuple(s), args, kwargs) for d, s in looks)
    try:
        func = overload_of(op)
        if torch.Tag.pointwise in func.tags and not laid_out:
            probe = func(*map_values(args, _tiny), **_mapped(kwargs, _tiny))
            return (_dense_meta(NAME[probe.dtype], broadcast_all(args), args, kwargs),)
        return _on_meta(func, args, kwargs)
    except (NotImplementedError, AttributeError) as error:
        raise Refused("op", f"the result of {op} cannot be told without running it") from error


def _on_meta(func: Any, args: tuple[Arg, ...], kwargs: Kwargs) -> tuple[Meta, ...]:
    device = _device(args, kwargs)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("meta")}
    result = func(*map_values(args, _meta), **_mapped(kwargs, _meta))
    return tuple((NAME[t.dtype], tuple(t.shape), t.stride(), device) for t in tensors_in(result))


def _mapped(kwargs: Kwargs, change: Any) -> Kwargs:
    return {k: map_values(v, change) for k, v in kwargs.items()}


def _meta(value: Value) -> torch.Tensor:
    return torch.empty_strided(value.sizes, value.strides, dtype=TORCH[value.dtype], device="meta")


def _tiny(value: Value) -> torch.Tensor:
    return torch.ones((1,) * value.ndim, dtype=TORCH[value.dtype])


def _dense_meta(dtype: str, sizes: tuple[int, ...], args: tuple[Arg, ...], kwargs: Kwargs) -> Meta:
    """Strides like those of the first operand of the same sizes, without its gaps."""
    for value in values_in((args, tuple(kwargs.values()))):
        if value.sizes == sizes and dense(sizes, value.strides) is not None:
            return dtype, sizes, value.strides, _device(args, kwargs)
    return dtype, sizes, contiguous_strides(sizes), _device(args, kwargs)


def _device(args: tuple[Arg, ...], kwargs: Kwargs) -> str:
    """Where the result lies: as asked for, else with the first tensor that is no CPU number."""
    if kwargs.get("device") is not None:
        return str(kwargs["device"])
    values = list(values_in((args, tuple(kwargs.values()))))
    placed = [v.device for v in values if v.sizes or v.device != "cpu"]
    return placed[0] if placed else "cpu"
