"""Rows that pull elements from where an index says (Kind.PULL): joining, padding, gathering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracejit.fuse.index import Index, delinear, linear, unbroadcast
from tracejit.fuse.scalar import Scalar, cast, const, index_value, where
from tracejit.ir.graph import Node, Size, Value, numel
from tracejit.ops.promote import broadcast, dim_of, result_type
from tracejit.ops.table import DataDependent, Kind, Meta, Puller, ShapeRule, row
from tracejit.ops.words import number, sigmoid, widen

Indices = tuple[Index, ...]
Pull = Callable[
    ..., Any
]  # (puller, output index, *the node's arguments) -> a scalar of any dtype or a number
INDEX_DTYPES = frozenset({"i64", "i32"})


def pulled(
    names: str, shape: ShapeRule, pull: Pull, applies: Callable[..., bool] | None = None
) -> None:
    """Add a row for each op in `names`; what `pull` gives is converted to the result's dtype."""

    def element(puller: Puller, node: Node, index: Indices, which: int) -> Scalar:
        found = pull(puller, index, *node.args, **node.kwargs)
        dtype = node.outputs[which].dtype
        return cast(found, dtype) if isinstance(found, Scalar) else number(found, dtype)

    def asked(node: Node) -> bool:
        return applies is None or applies(*node.args, **node.kwargs)

    for name in names.split():
        row(f"aten.{name}", Kind.PULL, shape, pull=element, applies=asked)


def at(index: Indices, dim: int, place: Index) -> Indices:
    """`index` with another place in one dim."""
    return (*index[:dim], place, *index[dim + 1 :])


def below(index: Index, limit: int) -> Scalar:
    """`index < limit` as a bool, decided now where the bounds allow."""
    low, high = index.bounds()
    if high < limit or low >= limit:
        return const(high < limit, "bool")
    return index_value(index) < limit


def at_least(index: Index, limit: int) -> Scalar:
    """`index >= limit` as a bool, decided now where the bounds allow."""
    low, high = index.bounds()
    if high < limit or low >= limit:
        return const(low >= limit, "bool")
    return index_value(index) >= limit


def within(index: Index, low: int, high: int) -> Scalar:
    """`low <= index < high` as a bool."""
    return ~below(index, low) & below(index, high)


def masked(puller: Puller, value: Value, index: Indices, mask: Scalar) -> Scalar:
    """The element where the mask holds; a constant mask is no mask."""
    if mask.op == "const":
        return puller.value(value, index) if mask.arg else number(0, value.dtype)
    return puller.value(value, index, mask)


# Joining.
def parts(tensors: Sequence[Value]) -> list[Value]:
    """The tensors that are joined: eager skips empty 1-d ones."""
    kept = [t for t in tensors if t.sizes != (0,)]
    return kept or list(tensors[:1])


def cat_shape(tensors: Sequence[Value], dim: int = 0) -> Meta:
    first, *others = parts(tensors)
    dim = dim_of(dim, first.ndim)
    length = sum((t.sizes[dim] for t in others), start=first.sizes[dim])
    return result_type(*tensors), (*first.sizes[:dim], length, *first.sizes[dim + 1 :])


def cat(p: Puller, index: Indices, tensors: Sequence[Value], dim: int = 0) -> Scalar:
    joined = [t for t in parts(tensors) if 0 not in t.sizes]
    dtype, dim = result_type(*tensors), dim_of(dim, joined[0].ndim)
    ends = [sum(t.sizes[dim] for t in joined[: n + 1]) for n in range(len(joined))]
    found: Scalar | None = None
    for tensor, end in reversed(list(zip(joined, ends, strict=True))):
        place, start = index[dim], end - tensor.sizes[dim]
        inside = within(place, start, end)
        element = cast(masked(p, tensor, at(index, dim, place - start), inside), dtype)
        found = element if found is None else where(below(place, end), element, found)
    assert found is not None
    return found


def stack_shape(tensors: Sequence[Value], dim: int = 0) -> Meta:
    sizes = tensors[0].sizes
    dim = dim_of(dim, len(sizes) + 1)
    return result_type(*tensors), (*sizes[:dim], len(tensors), *sizes[dim:])


def stack(p: Puller, index: Indices, tensors: Sequence[Value], dim: int = 0) -> Scalar:
    dtype, dim = result_type(*tensors), dim_of(dim, len(index))
    rest = index[:dim] + index[dim + 1 :]
    found: Scalar | None = None
    for n, tensor in reversed(list(enumerate(tensors))):
        element = cast(masked(p, tensor, rest, within(index[dim], n, n + 1)), dtype)
        found = element if found is None else where(below(index[dim], n + 1), element, found)
    assert found is not None
    return found


pulled("cat", cat_shape, cat)
pulled("stack", stack_shape, stack)


# Padding, tiling, triangles.
def margins(ndim: int, pad: Sequence[Size]) -> list[tuple[Size, Size]]:
    """(before, after) for each dim; `pad` lists them from the last dim."""
    pairs = [(pad[k], pad[k + 1]) for k in range(0, len(pad), 2)]
    return [(0, 0)] * (ndim - len(pairs)) + pairs[::-1]


def pad_shape(x: Value, pad: Sequence[Size], value: Any = 0) -> Meta:
    around = margins(x.ndim, pad)
    return x.dtype, tuple(s + a + b for s, (a, b) in zip(x.sizes, around, strict=True))


def pad_constant(p: Puller, index: Indices, x: Value, pad: Sequence[int], value: Any = 0) -> Scalar:
    place = tuple(i - before for i, (before, _) in zip(index, margins(x.ndim, pad), strict=True))
    inside = const(True, "bool")
    for i, size in zip(place, x.sizes, strict=True):
        inside = inside & within(i, 0, size)
    return where(inside, masked(p, x, place, inside), number(value, x.dtype))


def repeat_shape(x: Value, repeats: Sequence[Size]) -> Meta:
    sizes = (1,) * (len(repeats) - x.ndim) + x.sizes
    return x.dtype, tuple(s * r for s, r in zip(sizes, repeats, strict=True))


def repeat(p: Puller, index: Indices, x: Value, repeats: Sequence[int]) -> Scalar:
    tail = index[len(index) - x.ndim :]
    return p.value(x, tuple(i % size for i, size in zip(tail, x.sizes, strict=True)))


def roll(
    p: Puller, index: Indices, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()
) -> Scalar:
    if not dims:
        size = numel(x.sizes)
        position = (linear(index, x.sizes) + (-shifts[0]) % size) % size
        return p.value(x, delinear(position, x.sizes))
    for shift, dim in zip(shifts, dims, strict=True):
        dim = dim_of(dim, x.ndim)
        index = at(index, dim, (index[dim] + (-shift) % x.sizes[dim]) % x.sizes[dim])
    return p.value(x, index)


def like(x: Value, *_: Any, **__: Any) -> Meta:
    return x.dtype, x.sizes


def tril(p: Puller, index: Indices, x: Value, diagonal: int = 0) -> Scalar:
    kept = below(index[-1] - index[-2], diagonal + 1)
    return where(kept, p.value(x, index), number(0, x.dtype))


def triu(p: Puller, index: Indices, x: Value, diagonal: int = 0) -> Scalar:
    dropped = below(index[-1] - index[-2], diagonal)
    return where(dropped, number(0, x.dtype), p.value(x, index))


pulled("constant_pad_nd", pad_shape, pad_constant)
pulled("repeat", repeat_shape, repeat)
pulled("roll", like, roll, lambda x, *_: 0 not in x.sizes)
pulled("tril", like, tril)
pulled("triu", like, triu)


# Indices from data. Eager lets `index.Tensor` and `take` count from the end, and the others not.
def indexed(x: Value, *others: Any, **_: Any) -> bool:
    """Whether the tensors among the arguments are plain indices, and x has dims to index."""
    return x.ndim > 0 and all(o.dtype in INDEX_DTYPES for o in others if isinstance(o, Value))


def gather_shape(x: Value, dim: int, places: Value, **_: Any) -> Meta:
    return x.dtype, places.sizes


def gather(p: Puller, index: Indices, x: Value, dim: int, places: Value, **_: Any) -> Scalar:
    dim = dim_of(dim, x.ndim)
    return p.value(x, at(index, dim, p.indirect(p.value(places, index), x.sizes[dim], wrap=False)))


def index_select_shape(x: Value, dim: int, places: Value) -> Meta:
    if x.ndim == 0:
        return x.dtype, ()
    dim = dim_of(dim, x.ndim)
    return x.dtype, (*x.sizes[:dim], numel(places.sizes), *x.sizes[dim + 1 :])


def index_select(p: Puller, index: Indices, x: Value, dim: int, places: Value) -> Scalar:
    dim = dim_of(dim, x.ndim)
    place = p.value(places, (index[dim],) if places.ndim else ())
    return p.value(x, at(index, dim, p.indirect(place, x.sizes[dim], wrap=False)))


def embedding_shape(table: Value, places: Value, *_: Any) -> Meta:
    return table.dtype, (*places.sizes, table.sizes[1])


def embedding(p: Puller, index: Indices, table: Value, places: Value, *_: Any) -> Scalar:
    place = p.indirect(p.value(places, index[:-1]), table.sizes[0], wrap=False)
    return p.value(table, (place, index[-1]))


def take_shape(x: Value, places: Value) -> Meta:
    return x.dtype, places.sizes


def take(p: Puller, index: Indices, x: Value, places: Value) -> Scalar:
    position = p.indirect(p.value(places, index), numel(x.sizes), wrap=True)
    return p.value(x, delinear(position, x.sizes))


def layout(x: Value, indices: Sequence[Value | None]) -> tuple[list[int], tuple[Size, ...], int]:
    """The indexed dims, the common shape of the indices, and where it stands in the result.

    It stands where the indexed dims were if those are adjacent, else in front.
    """
    dims = [d for d, i in enumerate(indices) if i is not None]
    shape = broadcast(*(i.sizes for i in indices if i is not None))
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    return dims, shape, dims[0] if adjacent else 0


def index_shape(x: Value, indices: Sequence[Value | None]) -> Meta:
    if not plain_indices(x, indices):
        raise DataDependent("a mask as index")
    dims, shape, start = layout(x, indices)
    rest = tuple(s for d, s in enumerate(x.sizes) if d not in dims)
    return x.dtype, (*rest[:start], *shape, *rest[start:])


def index_tensor(p: Puller, index: Indices, x: Value, indices: Sequence[Value | None]) -> Scalar:
    dims, shape, start = layout(x, indices)
    common = index[start : start + len(shape)]
    rest = iter(index[:start] + index[start + len(shape) :])
    place = []
    for d, size in enumerate(x.sizes):
        if d not in dims:
            place.append(next(rest))
            continue
        tensor = indices[d]
        assert tensor is not None
        own = p.value(tensor, unbroadcast(common, tensor.sizes))
        place.append(p.indirect(own, size, wrap=True))
    return p.value(x, tuple(place))


def plain_indices(x: Value, indices: Sequence[Value | None]) -> bool:
    """No masks, whose number of elements is known only at run time."""
    found = [i for i in indices if i is not None]
    return bool(found) and all(i.dtype in INDEX_DTYPES for i in found)


pulled("gather", gather_shape, gather, indexed)
pulled("index_select", index_select_shape, index_select, indexed)
pulled("embedding", embedding_shape, embedding, indexed)
pulled("take", take_shape, take, indexed)
pulled("index.Tensor _unsafe_index.Tensor", index_shape, index_tensor, plain_indices)


# Two halves of one tensor.
def glu_shape(x: Value, dim: int = -1) -> Meta:
    dim = dim_of(dim, x.ndim)
    return x.dtype, (*x.sizes[:dim], x.sizes[dim] // 2, *x.sizes[dim + 1 :])


def glu(p: Puller, index: Indices, x: Value, dim: int = -1) -> Scalar:
    dim = dim_of(dim, x.ndim)
    gate = p.value(x, at(index, dim, index[dim] + x.sizes[dim] // 2))
    return widen(p.value(x, index)) * sigmoid(widen(gate))


pulled("glu", glu_shape, glu)
