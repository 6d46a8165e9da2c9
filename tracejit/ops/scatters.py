"""Rows of the ops that write through a view (`slice_scatter` …) and of flip (Kind.PULL)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Union

from tracejit.fuse.index import ZERO, Index, linear
from tracejit.fuse.scalar import Scalar, index_value, where
from tracejit.ir.graph import Node, Value
from tracejit.ops.table import Kind, Meta, Puller, row
from tracejit.ops.views import Indices, Sizes, bounds, wrap

# --- a base with some elements replaced ---

Condition = Union[Scalar, None]  # None: always
Place = tuple[
    Indices, Condition
]  # which element of the view an element of the base is, and whether it is one


def scatter(name: str, place: Callable[..., Place]) -> None:
    """Add the row of `name(base, source, *args)`: `place(base sizes, source sizes, base index,
    *args)`.
    """

    def shape(base: Value, source: Value, *args: Any) -> Meta:
        return base.dtype, tuple(base.sizes)

    def pull(puller: Puller, node: Node, i: tuple[Index, ...], which: int) -> Scalar:
        base, source, *args = node.args
        at, inside = place(base.sizes, source.sizes, i, *args)
        if inside is None:
            return puller.value(source, tuple(at))
        if inside.op == "const":
            return puller.value(source, tuple(at)) if inside.arg else puller.value(base, i)
        return where(inside, puller.value(source, tuple(at), inside), puller.value(base, i))

    row(name, Kind.PULL, shape, pull=pull)


def both(*conditions: Condition) -> Condition:
    """All of the conditions."""
    found: Condition = None
    for condition in conditions:
        if condition is not None:
            found = condition if found is None else found & condition
    return found


def at_least(index: Index, low: int) -> Condition:
    return None if index.bounds()[0] >= low else index_value(index) >= low


def below(index: Index, high: int) -> Condition:
    return None if index.bounds()[1] < high else index_value(index) < high


def equals(index: Index, number: int) -> Condition:
    return None if index == Index.of(number) else index_value(index).eq(number)


def slice_place(
    base: Sizes,
    source: Sizes,
    i: Indices,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Place:
    d = wrap(dim, len(base))
    first, last = bounds(base[d], start, end)
    along = i[d] - first
    on_step = None if step == 1 else equals(along % step, 0)
    inside = both(at_least(i[d], first), below(i[d], last), on_step)
    return [*i[:d], along // step, *i[d + 1 :]], inside


def select_place(base: Sizes, source: Sizes, i: Indices, dim: int, index: int) -> Place:
    d = wrap(dim, len(base))
    at = index + base[d] if index < 0 else index
    return [*i[:d], *i[d + 1 :]], equals(i[d], at)


def diagonal_place(
    base: Sizes, source: Sizes, i: Indices, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Place:
    a, b = wrap(dim1, len(base)), wrap(dim2, len(base))
    along = i[a] + min(offset, 0)
    inside = both(at_least(along, 0), equals(i[b] - along, max(offset, 0)))
    return [*(at for d, at in enumerate(i) if d not in (a, b)), along], inside


def strided_place(
    base: Sizes, source: Sizes, i: Indices, sizes: Sizes, strides: Sizes, offset: int | None = None
) -> Place:
    """Digits of the position, largest stride first. `separable` says that they are the index."""
    position = linear(i, base) - (offset or 0)
    found = [ZERO] * len(sizes)
    conditions = [at_least(position, 0)]
    for d in sorted(range(len(sizes)), key=lambda d: -strides[d]):
        if sizes[d] != 1:
            found[d] = position // strides[d]
            position = position % strides[d]
            conditions.append(below(found[d], sizes[d]))
    conditions.append(equals(position, 0))
    return found, both(*conditions)


scatter("aten.slice_scatter", slice_place)
scatter("aten.select_scatter", select_place)
scatter("aten.diagonal_scatter", diagonal_place)
scatter("aten.as_strided_scatter", strided_place)


# --- flip ---


def flip_shape(x: Value, dims: Sequence[int]) -> Meta:
    return x.dtype, tuple(x.sizes)


def flip_pull(puller: Puller, node: Node, i: tuple[Index, ...], which: int) -> Scalar:
    x, dims = node.args
    turned = {wrap(d, x.ndim) for d in dims}
    return puller.value(
        x, tuple(x.sizes[d] - 1 - at if d in turned else at for d, at in enumerate(i))
    )


row("aten.flip", Kind.PULL, flip_shape, pull=flip_pull)
