"""What strides say about where elements lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracejit.ir.graph import Size, contiguous_strides

Sizes = Sequence[Size]


def separable(sizes: Sizes, strides: Sizes) -> bool:
    """Whether indices are digits of a position: no two elements of the view are one."""
    reach = 0
    for size, stride in sorted(zip(sizes, strides, strict=True), key=lambda t: t[1]):
        if size > 1:
            if stride <= reach:
                return False
            reach += (size - 1) * stride
    return True


Place = tuple[Sizes, Sizes, Size]  # sizes, strides, offset


def apart(one: Place, other: Place) -> bool:
    """Whether two views of one memory certainly share no element; neither is empty.

    Positions are written with the strides as places of a number: equal positions have equal digits
    if no digit carries into the next.
    """
    steps = sorted({s for sizes, strides, _ in (one, other) for s in used(sizes, strides)})
    start = min(one[2], other[2])
    found = [_digits(view, start, steps[::-1]) for view in (one, other)]
    if None in found or 0 in steps:
        return False
    (left, rest), (right, rest_) = (view for view in found if view is not None)
    reach = max(rest, rest_)
    clear = rest != rest_
    for step, (first, last), (first_, last_) in zip(steps, left[::-1], right[::-1], strict=True):
        if reach >= step:
            return False
        reach += max(last, last_) * step
        clear = clear or last < first_ or last_ < first
    return bool(clear)


def used(sizes: Sizes, strides: Sizes) -> list[Size]:
    """The strides that lead anywhere."""
    return [stride for size, stride in zip(sizes, strides, strict=True) if size > 1]


def _digits(view: Place, start: Size, steps: Sequence[Size]) -> Any:
    """First and last digit of each step (largest first), and what is left; None if two dimensions
    have one stride.
    """
    sizes, strides, offset = view
    counts = {stride: size for size, stride in zip(sizes, strides, strict=True) if size > 1}
    if len(counts) != len(used(sizes, strides)):
        return None
    rest = offset - start
    found = []
    for step in steps:
        first, rest = divmod(rest, step) if step else (0, rest)
        found.append((first, first + counts.get(step, 1) - 1))
    return found, rest


def dense(sizes: Sizes, strides: Sizes) -> tuple[int, ...] | None:
    """The order of dimensions in which the strides are contiguous; None if elements overlap or lie
    apart.
    """
    if 0 in sizes:
        return tuple(range(len(sizes)))
    order = sorted(range(len(sizes)), key=lambda d: (-strides[d], sizes[d] == 1, d))
    expected = contiguous_strides([sizes[d] for d in order])
    fits = all(sizes[d] == 1 or strides[d] == e for d, e in zip(order, expected, strict=True))
    return tuple(order) if fits else None


def dense_strides(sizes: Sizes, strides: Sizes) -> tuple[Size, ...]:
    """`strides` without gaps: as they are if dense, else contiguous in the same order of
    dimensions.
    """
    if dense(sizes, strides) is not None:
        return tuple(strides)
    order = sorted(range(len(sizes)), key=lambda d: (-strides[d], d))
    packed = contiguous_strides([sizes[d] for d in order])
    return tuple(packed[order.index(d)] for d in range(len(sizes)))
