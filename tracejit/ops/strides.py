"""What strides say about where elements lie in memory."""

from __future__ import annotations

from collections.abc import Sequence

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
