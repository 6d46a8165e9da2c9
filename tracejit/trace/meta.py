"""Calls on the meta device: their tensors have sizes and no values, so nothing of them is recorded.
torch makes some on its own, in forward-mode differentiation. One that leaves the call is refused
like any tensor that a graph does not have (Storages.meta).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tracejit.trace.schema import Does

# Kinds of calls that write to none of their arguments.
_READS_ONLY = frozenset((Does.COMPUTE, Does.VIEW, Does.PARTS, Does.NOTHING))


def without_values(does: Does, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call gives tensors on the meta device and writes to no tensor that has values."""
    where = kwargs.get("device")
    given = [tensor.is_meta for tensor in tensors_in((args, tuple(kwargs.values())))]
    on_meta = any(given) if where is None else torch.device(where).type == "meta"
    return on_meta and (does in _READS_ONLY or (bool(given) and all(given)))


def tensors_in(tree: Any) -> Iterator[torch.Tensor]:
    """Tensors in arguments or results."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors_in(item)
