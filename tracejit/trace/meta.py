"""Calls on the meta device: their tensors have sizes and no values, so nothing of them is recorded.
torch makes some on its own, in forward-mode differentiation. One that leaves the call is refused
like any tensor that a graph does not have (Storages.meta).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tracejit.runtime import private
from tracejit.trace.schema import Does

# Kinds of calls that write to none of their arguments.
_READS_ONLY = frozenset((Does.COMPUTE, Does.VIEW, Does.PARTS, Does.NOTHING))


def without_values(does: Does, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call gives tensors on the meta device and writes to no tensor that has values."""
    where = kwargs.get("device")
    given = [tensor.is_meta for tensor in tensors_in((args, kwargs))]
    on_meta = any(given) if where is None else torch.device(where).type == "meta"
    return on_meta and (does in _READS_ONLY or (bool(given) and all(given)))


def raises_without_data(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> bool:
    """Whether a call that raised does so for its arguments' dtypes and sizes, which are guarded:
    then it raises for tensors without data too (if in other words), and so does every such call."""
    if private.schema_of(func).is_mutable:
        return False  # it may have written something first
    try:
        with private.without_modes():
            func(*_without_data(args), **{name: _without_data(v) for name, v in kwargs.items()})
    except Exception as again:  # torch's, of any type: only which is asked
        return type(again) is type(error)
    return False


def _without_data(item: Any) -> Any:
    """An argument with tensors on the meta device in the place of others."""
    if isinstance(item, (list, tuple)):
        return [_without_data(part) for part in item]
    if isinstance(item, torch.Tensor):
        return torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
    return item


def tensors_in(tree: Any) -> Iterator[torch.Tensor]:
    """Tensors in arguments or results."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors_in(item)
    elif isinstance(tree, dict):
        yield from tensors_in(tuple(tree.values()))
