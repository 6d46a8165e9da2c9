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


def difference(ours: Any, eager: Any) -> str:
    """In what way `ours` is not `eager`, in words; "" if it is the same."""
    leaves, structure = pytree.tree_flatten(ours)
    expected, expected_structure = pytree.tree_flatten(eager)
    if type(ours) is not type(eager) or structure != expected_structure:
        return f"a {type(ours).__name__} of {len(leaves)} parts, not eager's"
    for place, (mine, theirs) in enumerate(zip(leaves, expected)):
        found = _of_leaves(mine, theirs)
        if found:
            return f"output {place}: {found}"
    return ""


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
    finite = theirs[theirs.isfinite()] if theirs.is_floating_point() else theirs
    largest = float(finite.abs().max()) if finite.numel() and allowed else 0.0
    near = torch.isclose(mine, theirs, rtol=allowed, atol=allowed * largest, equal_nan=True)
    if bool(near.all()):
        return ""
    worst = (mine.double() - theirs.double()).abs().max()
    wrong = int((~near).sum())
    return f"{wrong} of {near.numel()} values differ, by up to {float(worst):.3g}"
