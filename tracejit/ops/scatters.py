"""Rows of the ops that write through a view (`slice_scatter` …) and of flip (Kind.PULL)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracejit.fuse.index import ZERO, Index, linear
from tracejit.fuse.scalar import Scalar, index_value, where
from tracejit.ir.graph import Value
from tracejit.ops import indexing
from tracejit.ops.indexing import at_least, below, like, pulled
from tracejit.ops.table import Puller
from tracejit.ops.views import Indices, Sizes, bounds, wrap

# --- a base with some elements replaced ---

# Which element of the view an element of the base is, and whether it is one.
Place = tuple[Indices, Scalar]


def scatter(name: str, place: Callable[..., Place]) -> None:
    """Add the row of `name(base, source, *args)`: `place(base sizes, base index, *args)`."""

    def pull(p: Puller, i: indexing.Indices, base: Value, source: Value, *args: object) -> Scalar:
        at, inside = place(base.sizes, i, *args)
        if inside.op == "const":
            return p.value(source, tuple(at)) if inside.arg else p.value(base, i)
        return where(inside, p.value(source, tuple(at), inside), p.value(base, i))

    pulled(name, like, pull)


def equals(index: Index, number: int) -> Scalar:
    return index_value(index).eq(number)


def slice_place(
    base: Sizes,
    i: Indices,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Place:
    d = wrap(dim, len(base))
    first, last = bounds(base[d], start, end)
    along = i[d] - first
    inside = at_least(i[d], first) & below(i[d], last) & equals(along % step, 0)
    return [*i[:d], along // step, *i[d + 1 :]], inside


def select_place(base: Sizes, i: Indices, dim: int, index: int) -> Place:
    d = wrap(dim, len(base))
    at = index + base[d] if index < 0 else index
    return [*i[:d], *i[d + 1 :]], equals(i[d], at)


def diagonal_place(base: Sizes, i: Indices, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Place:
    a, b = wrap(dim1, len(base)), wrap(dim2, len(base))
    along = i[a] + min(offset, 0)
    inside = at_least(along, 0) & equals(i[b] - along, max(offset, 0))
    return [*(at for d, at in enumerate(i) if d not in (a, b)), along], inside


def strided_place(
    base: Sizes, i: Indices, sizes: Sizes, strides: Sizes, offset: int | None = None
) -> Place:
    """Digits of the position, largest stride first. `separable` says that they are the index."""
    position = linear(i, base) - (offset or 0)
    found = [ZERO] * len(sizes)
    inside = at_least(position, 0)
    for d in sorted(range(len(sizes)), key=lambda d: -strides[d]):
        if sizes[d] != 1:
            found[d] = position // strides[d]
            position = position % strides[d]
            inside = inside & below(found[d], sizes[d])
    return found, inside & equals(position, 0)


scatter("slice_scatter", slice_place)
scatter("select_scatter", select_place)
scatter("diagonal_scatter", diagonal_place)
scatter("as_strided_scatter", strided_place)


# --- flip ---


def flip(p: Puller, i: indexing.Indices, x: Value, dims: Sequence[int]) -> Scalar:
    turned = {wrap(d, x.ndim) for d in dims}
    return p.value(x, [x.sizes[d] - 1 - at if d in turned else at for d, at in enumerate(i)])


pulled("flip", like, flip)
