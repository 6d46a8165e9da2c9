"""Rows of ATen's views, of the ops that write through them (`slice_scatter` …), and of flip.

A view moves no data: `index` says which element of the base an element of the view is, and `undo`
which op makes the new base when the view gets new values. A view that the recorder meets without a
row here is recorded as a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracejit.fuse.index import ZERO, Index, delinear, dot, linear, unbroadcast
from tracejit.ir.graph import Size, Value, numel
from tracejit.ops.table import Kind, Meta, row

Indices = Sequence[Index]
Sizes = Sequence[Size]


def view(
    name: str,
    sizes: Callable[..., Sizes],
    index: Callable[..., Indices],
    undo: Callable[..., tuple[str, tuple[Any, ...]]] | None = None,
) -> None:
    """Add the row of a view: `sizes(input sizes, *args)` are the result's, `index` and `undo` as in
    ops.table.
    """

    def shape(x: Value, *args: Any) -> Meta:
        return x.dtype, tuple(sizes(x.sizes, *args))

    def source(old: Sizes, new: Sizes, i: Indices, *args: Any) -> tuple[Index, ...]:
        return tuple(index(old, new, i, *args))

    row(name, Kind.VIEW, shape, index=source, undo=undo)


def wrap(dim: int, ndim: int) -> int:
    """A dimension as a non-negative int; dimension 0 and -1 of a 0-d tensor are both 0."""
    return dim % ndim if ndim else 0


def back(base: Value, new: Value, *args: Any) -> tuple[str, tuple[Any, ...]]:
    """The undo of views that hold every element of the base, in row-major order."""
    return "aten.view", (new, base.sizes)


# --- the same elements in the same order ---


def resolve(sizes: Sizes, wanted: Sizes) -> Sizes:
    """`wanted` with its one -1 replaced by what is left of the number of elements."""
    if -1 not in wanted:
        return wanted
    known = numel([s for s in wanted if s != -1])
    return [numel(sizes) // known if s == -1 else s for s in wanted]


def reshaped(old: Sizes, new: Sizes, i: Indices, *args: Any) -> Indices:
    """Through the row-major position; a dimension of both, seen from the front, keeps its index."""
    k = 0
    while k < min(len(old), len(new)) and old[k] == new[k]:
        k += 1
    return [*i[:k], *delinear(linear(i[k:], new[k:]), old[k:])]


def squeezed(sizes: Sizes, dims: int | Sequence[int] | None = None) -> list[int]:
    """The dimensions that stay when those of size 1 among `dims` (None: among all) go."""
    ndim = len(sizes)
    among = range(ndim) if dims is None else (dims,) if isinstance(dims, int) else dims
    gone = {wrap(d, ndim) for d in among}
    return [d for d in range(ndim) if d not in gone or sizes[d] != 1]


def squeeze_sizes(sizes: Sizes, dims: int | Sequence[int] | None = None) -> Sizes:
    return [sizes[d] for d in squeezed(sizes, dims)]


def squeeze_index(
    old: Sizes, new: Sizes, i: Indices, dims: int | Sequence[int] | None = None
) -> Indices:
    source = [ZERO] * len(old)
    for d, at in zip(squeezed(old, dims), i, strict=True):
        source[d] = at
    return source


def unsqueeze_sizes(sizes: Sizes, dim: int) -> Sizes:
    d = wrap(dim, len(sizes) + 1)
    return [*sizes[:d], 1, *sizes[d:]]


def unsqueeze_index(old: Sizes, new: Sizes, i: Indices, dim: int) -> Indices:
    d = wrap(dim, len(new))
    return [*i[:d], *i[d + 1 :]]


for name in ("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias"):
    view(name, lambda sizes, wanted, *_: resolve(sizes, wanted), reshaped, back)
for name in ("aten.alias", "aten.detach", "aten.lift_fresh"):
    view(name, lambda sizes: sizes, lambda old, new, i: i, back)
for name in ("aten.squeeze", "aten.squeeze.dim", "aten.squeeze.dims"):
    view(name, squeeze_sizes, squeeze_index, back)
view("aten.unsqueeze", unsqueeze_sizes, unsqueeze_index, back)


# --- the same elements in another order ---


def permute_index(old: Sizes, new: Sizes, i: Indices, order: Sequence[int]) -> Indices:
    source = [ZERO] * len(old)
    for at, d in zip(i, order, strict=True):
        source[wrap(d, len(old))] = at
    return source


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `order`."""
    found = [0] * len(order)
    for at, d in enumerate(order):
        found[wrap(d, len(order))] = at
    return tuple(found)


def swapped(items: Sequence[Any], first: int, second: int) -> list[Any]:
    """`items` with two of them exchanged."""
    found = list(items)
    if found:
        a, b = wrap(first, len(found)), wrap(second, len(found))
        found[a], found[b] = found[b], found[a]
    return found


view(
    "aten.permute",
    lambda sizes, order: [sizes[wrap(d, len(sizes))] for d in order],
    permute_index,
    lambda base, new, order: ("aten.permute", (new, inverse(order))),
)
view(
    "aten.transpose.int",
    swapped,
    lambda old, new, i, a, b: swapped(i, a, b),
    lambda base, new, a, b: ("aten.transpose.int", (new, a, b)),
)
view(
    "aten.t",
    lambda sizes: sizes[::-1],
    lambda old, new, i: i[::-1],
    lambda base, new: ("aten.t", (new,)),
)


# --- some of the elements, or some of them several times ---


def expand_sizes(sizes: Sizes, wanted: Sizes, implicit: bool = False) -> Sizes:
    more = len(wanted) - len(sizes)
    return [sizes[d - more] if s == -1 else s for d, s in enumerate(wanted)]


def expand_index(
    old: Sizes, new: Sizes, i: Indices, wanted: Sizes, implicit: bool = False
) -> Indices:
    return unbroadcast(i, old)


def bounds(size: Size, start: int | None, end: int | None) -> tuple[int, int]:
    """A slice's first and last+1 element, as Python clamps them."""
    first = 0 if start is None else start
    last = size if end is None else end
    first = min(max(first + size if first < 0 else first, 0), size)
    last = min(max(last + size if last < 0 else last, first), size)
    return first, last


def slice_sizes(
    sizes: Sizes, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Sizes:
    d = wrap(dim, len(sizes))
    first, last = bounds(sizes[d], start, end)
    return [*sizes[:d], (last - first + step - 1) // step, *sizes[d + 1 :]]


def slice_index(
    old: Sizes,
    new: Sizes,
    i: Indices,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Indices:
    d = wrap(dim, len(old))
    first, _ = bounds(old[d], start, end)
    return [*i[:d], i[d] * step + first, *i[d + 1 :]]


def select_sizes(sizes: Sizes, dim: int, index: int) -> Sizes:
    d = wrap(dim, len(sizes))
    return [*sizes[:d], *sizes[d + 1 :]]


def select_index(old: Sizes, new: Sizes, i: Indices, dim: int, index: int) -> Indices:
    d = wrap(dim, len(old))
    at = index + old[d] if index < 0 else index
    return [*i[:d], Index.of(at), *i[d:]]


def diagonal_size(rows: Size, columns: Size, offset: int) -> Size:
    """Elements of a matrix's diagonal, `offset` columns to the right (if negative, rows down)."""
    length = min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns)
    return max(length, 0)


def diagonal_sizes(sizes: Sizes, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Sizes:
    a, b = wrap(dim1, len(sizes)), wrap(dim2, len(sizes))
    kept = [s for d, s in enumerate(sizes) if d not in (a, b)]
    return [*kept, diagonal_size(sizes[a], sizes[b], offset)]


def diagonal_index(
    old: Sizes, new: Sizes, i: Indices, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Indices:
    a, b = wrap(dim1, len(old)), wrap(dim2, len(old))
    others = iter(i[:-1])
    along = {a: i[-1] - min(offset, 0), b: i[-1] + max(offset, 0)}
    return [along[d] if d in along else next(others) for d in range(len(old))]


def unfold_sizes(sizes: Sizes, dim: int, size: int, step: int) -> Sizes:
    d = wrap(dim, len(sizes))
    if not sizes:
        return [size]
    return [*sizes[:d], (sizes[d] - size) // step + 1, *sizes[d + 1 :], size]


def unfold_index(old: Sizes, new: Sizes, i: Indices, dim: int, size: int, step: int) -> Indices:
    if not old:
        return []
    d = wrap(dim, len(old))
    return [*i[:d], i[d] * step + i[-1], *i[d + 1 : -1]]


def strided_index(
    old: Sizes, new: Sizes, i: Indices, sizes: Sizes, strides: Sizes, offset: int | None = None
) -> Indices:
    """The base is contiguous and the offset counts from its first element: the recorder sees to
    both.
    """
    return delinear(dot(i, strides) + (offset or 0), old)


view("aten.expand", expand_sizes, expand_index, back)
view(
    "aten.slice.Tensor",
    slice_sizes,
    slice_index,
    lambda base, new, *where: ("aten.slice_scatter", (base, new, *where)),
)
view(
    "aten.select.int",
    select_sizes,
    select_index,
    lambda base, new, *where: ("aten.select_scatter", (base, new, *where)),
)
view(
    "aten.diagonal",
    diagonal_sizes,
    diagonal_index,
    lambda base, new, *where: ("aten.diagonal_scatter", (base, new, *where)),
)
view("aten.unfold", unfold_sizes, unfold_index)
view(
    "aten.as_strided",
    lambda sizes, wanted, *_: wanted,
    strided_index,
    lambda base, new, *where: ("aten.as_strided_scatter", (base, new, *where)),
)
