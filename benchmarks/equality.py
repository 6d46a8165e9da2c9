"""Whether a result is eager's: structure, dtypes, shapes, strides, and values to rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

# Relative to the element, and to the largest one: sums in another order differ by this much.
TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 5e-3,
    torch.bfloat16: 3e-2,
}

PART = 1 << 18  # elements that are compared at a time


def difference(ours: Any, eager: Any, foreign: bool = False) -> str:
    """In what way `ours` is not `eager`, in words; "" if it is the same. Of a foreign framework,
    whose layouts and index types are its own, the values count."""
    leaves, structure = pytree.tree_flatten(ours)
    expected, expected_structure = pytree.tree_flatten(eager)
    if type(ours) is not type(eager) or structure != expected_structure:
        return f"a {type(ours).__name__} of {len(leaves)} parts, not eager's"
    for place, (mine, theirs) in enumerate(zip(leaves, expected)):
        found = _of_leaves(_adopted(mine, theirs) if foreign else mine, theirs)
        if found:
            return f"output {place}: {found}"
    return ""


def _adopted(mine: Any, theirs: Any) -> Any:
    """A foreign tensor with eager's strides, and its type if both hold integers."""
    if not isinstance(theirs, torch.Tensor) or mine.shape != theirs.shape:
        return mine
    whole = not (mine.is_floating_point() or theirs.is_floating_point())
    return torch.empty_like(theirs, dtype=theirs.dtype if whole else mine.dtype).copy_(mine)


def _of_leaves(mine: Any, theirs: Any) -> str:
    if not isinstance(mine, torch.Tensor) or not isinstance(theirs, torch.Tensor):
        return "" if type(mine) is type(theirs) and mine == theirs else f"{mine!r}, not {theirs!r}"
    for what, one, other in (
        ("dtype", mine.dtype, theirs.dtype),
        ("device", mine.device, theirs.device),
        ("shape", tuple(mine.shape), tuple(theirs.shape)),
        ("strides", _strides(mine), _strides(theirs)),
    ):
        if one != other:
            return f"{what} {one}, not {other}"
    return _of_values(mine, theirs)


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides that matter: those of dimensions with one element do not."""
    return tuple(s for s, n in zip(tensor.stride(), tensor.shape) if n > 1)


def _of_values(mine: torch.Tensor, theirs: torch.Tensor) -> str:
    """By how much the values differ, if by more than rounding."""
    allowed = TOLERANCE.get(mine.dtype, 0.0)
    largest = max((_largest(part) for part in _parts(theirs)), default=0.0) if allowed else 0.0
    wrong, worst = 0, 0.0
    for one, other in zip(_parts(mine), _parts(theirs)):
        near = torch.isclose(one, other, rtol=allowed, atol=allowed * largest, equal_nan=True)
        if not bool(near.all()):
            wrong += int((~near).sum())
            apart = float((one.double() - other.double()).abs().max())
            worst = apart if apart != apart else max(worst, apart)
    return f"{wrong} of {mine.numel()} values differ, by up to {worst:.3g}" if wrong else ""


def _largest(part: torch.Tensor) -> float:
    """The largest finite value, without its sign."""
    values = part.abs()
    return float(values.masked_fill_(~values.isfinite(), 0).max())


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rows by the megabyte: large temporaries would leave holes in the heap of a process that is
    timed afterwards, so that its results would fall on warm pages or not by chance."""
    if tensor.dim() == 0 or not tensor.numel():
        return (tensor,) if tensor.numel() else ()
    row = max(1, tensor.numel() // tensor.shape[0])
    parts: tuple[torch.Tensor, ...] = torch.split(tensor, max(1, PART // row))
    return parts
