"""Operations of which torch warns at every call, from C++: a plan would not. (Most of its warnings
are given once a process, which the recorded call has done.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


def warns(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether torch warns of this call of an op, by its name in the graph."""
    rule = _RULES.get(name.partition(".")[2].partition(".")[0])
    return rule is not None and rule(args, kwargs)


def _by_bytes(args: Any, kwargs: Any) -> bool:
    """Masks of uint8 in place of bool."""
    return any(each is not None and each.dtype is torch.uint8 for each in args[1])


def _of_too_few(args: Any, kwargs: Any) -> bool:
    """A variance of no more numbers than degrees of freedom are lost."""
    x, dims = args[0], args[1] if len(args) > 1 else kwargs.get("dim")
    whole = x.dim() == 0 or not isinstance(dims, Iterable) or not list(dims)
    count = x.numel() if whole else math.prod(x.shape[d] for d in dims)
    lost = kwargs.get("correction")
    return bool(x.numel() > 0 and count <= (1 if lost is None else lost))


_RULES: dict[str, Callable[[Any, Any], bool]] = {
    "range": lambda args, kwargs: True,  # deprecated
    "index": _by_bytes,
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), _of_too_few),
}
