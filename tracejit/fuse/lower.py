"""From graph values to the body of one loop nest, by pulling: what is element `index` of this
value?

A value that is in memory is loaded; a view changes the index; a pointwise op asks its operands; a
reduction binds the nest's reduction axes. Expressions are hash-consed, so two uses of one element
are one expression.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tracejit.fuse.index import Axis, Index, Indirect, delinear, dot, linear, unbroadcast
from tracejit.fuse.loopnest import Buffer, LoopNest, Store, roots_of
from tracejit.fuse.scalar import (
    Load,
    Scalar,
    cast,
    const,
    in_order,
    index_value,
    make,
    value_range,
    where,
)
from tracejit.fuse.views import geometry, kind_of, through_view, view_base
from tracejit.ir.dtypes import COMPUTED
from tracejit.ir.graph import Node, Origin, Value, map_values, numel
from tracejit.ops.table import OPS, Kind


class CannotFuse(Exception):
    """These values cannot be computed in one nest; the message is the reason in words."""


class MustMaterialise(Exception):
    """This value has to be in memory first (a computed index whose range is checked before use)."""

    def __init__(self, value: Value) -> None:
        super().__init__(value.name)
        self.value = value


def reduced_dims(node: Node) -> tuple[int, ...]:
    """The dimensions of the first input that a reduction or scan combines over; all of them for an
    empty list.
    """
    row = OPS[node.op]
    assert row.dims is not None
    ndim = node.inputs[0].ndim
    dims = row.dims(*node.args, **node.kwargs)
    return tuple(sorted(d % ndim for d in dims)) if dims else tuple(range(ndim))


@dataclass(frozen=True)
class Domain:
    """The iteration space of a nest: a full shape, some of whose dims are reduced (none for
    pointwise nests).
    """

    sizes: tuple[int, ...]
    dims: tuple[int, ...] = ()

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """One axis a dim: i0, i1 … for parallel dims, r0, r1 … for reduced ones."""
        return tuple(
            Axis(f"{'r' if d in self.dims else 'i'}{d}", size, d in self.dims)
            for d, size in enumerate(self.sizes)
        )

    @cached_property
    def rows(self) -> Index:
        """Row-major position among the parallel axes."""
        return _position([a for a in self.axes if not a.reduce])

    @cached_property
    def columns(self) -> Index:
        """Row-major position among the reduction axes."""
        return _position([a for a in self.axes if a.reduce])

    @cached_property
    def column_sizes(self) -> tuple[int, ...]:
        return tuple(self.sizes[d] for d in self.dims)

    @cached_property
    def row_sizes(self) -> tuple[int, ...]:
        return tuple(s for d, s in enumerate(self.sizes) if d not in self.dims)

    def elements(self, sizes: Sequence[int]) -> tuple[Index, ...] | None:
        """The index of this iteration's element in a tensor of `sizes`, one element an iteration;
        None if none is.
        """
        if tuple(sizes) == self.sizes:
            return tuple(Index.of(a) for a in self.axes)
        if numel(sizes) != numel(self.sizes):
            return None
        trailing = self.dims == tuple(range(len(self.sizes) - len(self.dims), len(self.sizes)))
        if not trailing:
            return None
        return delinear(self.rows * numel(self.column_sizes) + self.columns, sizes)

    def row(self, sizes: Sequence[int]) -> tuple[Index, ...] | None:
        """The index of this row's element in a tensor that has one element a row; None if it has
        not.
        """
        if numel(sizes) != numel(self.row_sizes):
            return None
        return delinear(self.rows, sizes)


def _position(axes: Sequence[Axis]) -> Index:
    """Row-major position among some axes."""
    return linear([Index.of(a) for a in axes], [a.size for a in axes])


class Inside:
    """The values computed inside a nest: its own group of roots, and all that are not in memory."""

    def __init__(self, memory: Container[Value], group: Container[Value] = ()) -> None:
        self.memory, self.group = memory, group

    def __contains__(self, value: object) -> bool:
        return value in self.group or value not in self.memory


@dataclass
class Body:
    """Builds one nest's expressions. `inside` says which values are computed here; all others are
    loaded.
    """

    domain: Domain
    inside: Inside
    loads: dict[Value, str] = field(default_factory=dict)  # in order of first use
    checks: dict[tuple[Value, int, bool], Origin] = field(default_factory=dict)
    line_of: dict[int, Origin] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)  # by id, in order of use
    _memo: dict[tuple[Value, tuple[Index, ...], Scalar | None], Scalar] = field(
        default_factory=dict
    )
    _values: dict[int, list[Value]] = field(default_factory=dict)  # a load, and views of it
    _mask: Scalar | None = None
    _node: Node | None = None

    def value(self, value: Value, index: Sequence[Index], mask: Scalar | None = None) -> Scalar:
        """The element of `value` at `index`. See ops.table.Puller."""
        outer = self._mask
        self._mask = _both(outer, mask)
        try:
            key = (value, tuple(index), self._mask)
            found = self._memo.get(key)
            if found is None:
                found = self._memo[key] = self._compute(value, tuple(index))
                self._values.setdefault(found.key, []).append(value)
            return found
        finally:
            self._mask = outer

    def indirect(self, scalar: Scalar, size: int, wrap: bool = True) -> Index:
        """An integer scalar as an index. See ops.table.Puller."""
        scalar = cast(scalar, "i64")
        low, high = value_range(scalar)
        if low < 0 or high >= size:
            if low < -size or high >= size:
                self._check(scalar, size, wrap)
            if wrap:
                scalar = where(scalar < 0, scalar + size, scalar)
        if scalar.op == "index":
            assert isinstance(scalar.arg, Index)
            return scalar.arg
        if scalar.op == "const":
            return Index.of(int(scalar.arg))
        return Index.of(Indirect(scalar, size))

    def _check(self, scalar: Scalar, size: int, wrap: bool) -> None:
        """Have the plan check an index's range; it must be a value in memory for that."""
        source = scalar
        while source.op == "cast":
            source = source.args[0]
        known = self._values.get(source.key)
        if known is None:
            raise CannotFuse("an index is computed in a way whose range cannot be checked")
        base = view_base(known[0])
        # Of a view, its own elements only: a column of indices is not the others' bound.
        views = [v for v in known if view_base(v) is base and geometry(v, base) is not None]
        value = min(views or known[:1], key=lambda view: numel(view.sizes))
        if base in self.inside.group:
            raise CannotFuse("an index is checked before the kernel that uses it runs")
        if base not in self.loads:
            raise MustMaterialise(base)
        origin = self._node.origin if self._node else Origin()
        self.checks.setdefault((value, size, wrap), origin)

    def _compute(self, value: Value, index: tuple[Index, ...]) -> Scalar:
        node = value.node
        if node is not None and (kind := kind_of(node)) is Kind.VIEW:
            return self.value(node.inputs[0], through_view(value, index))
        if node is None or value not in self.inside:
            return self._load(value, index)
        self.nodes[id(node)] = node
        outer, self._node = self._node, node
        try:
            if kind is Kind.POINTWISE:
                found = self._pointwise(node, index)
            elif kind is Kind.PULL:
                row = OPS[node.op]
                assert row.pull is not None
                found = row.pull(self, node, index, node.outputs.index(value))
            else:
                found = self._combine(node, kind, index)
        finally:
            self._node = outer
        self._attribute(found, node.origin)
        return found

    def _load(self, value: Value, index: tuple[Index, ...]) -> Scalar:
        if value.dtype not in COMPUTED:
            raise CannotFuse(f"no generator loads {value.dtype}")
        name = self.loads.setdefault(value, f"b{len(self.loads)}")
        masks = () if self._mask is None else (self._mask,)
        return make("load", *masks, arg=Load(name, dot(index, value.strides)), dtype=value.dtype)

    def _pointwise(self, node: Node, index: tuple[Index, ...]) -> Scalar:
        row = OPS[node.op]
        assert row.expr is not None and row.compute is not None
        dtype = row.compute(node)

        def operand(value: Value) -> Scalar:
            return cast(self.value(value, unbroadcast(index, value.sizes)), dtype)

        args = map_values(tuple(node.args), operand)
        kwargs = {k: map_values(v, operand) for k, v in node.kwargs.items()}
        result = row.expr(*args, **kwargs)
        if not isinstance(result, Scalar):
            result = const(result, dtype)
        return cast(result, node.out.dtype)

    def _combine(self, node: Node, kind: Kind, index: tuple[Index, ...]) -> Scalar:
        row = OPS[node.op]
        source, dims, out = node.inputs[0], reduced_dims(node), node.out
        columns = [source.sizes[d] for d in dims]
        if numel(columns) != numel(self.domain.column_sizes):
            raise CannotFuse(
                f"{node.op} combines {numel(columns)} elements a row, not as many as the others"
            )
        if kind is Kind.SCAN:
            kept = [index[d] for d in range(source.ndim) if d not in dims]
            if tuple(index[d] for d in dims) != delinear(self.domain.columns, columns):
                raise CannotFuse(f"{node.op} is read at shifted positions")
        elif out.ndim == source.ndim:
            kept = [index[d] for d in range(source.ndim) if d not in dims]
        else:
            kept = list(index)
        rows = [source.sizes[d] for d in range(source.ndim) if d not in dims]
        if self._mask is not None or linear(kept, rows) != self.domain.rows:
            raise CannotFuse(f"{node.op} is read at other rows than its own")
        inner = iter(delinear(self.domain.columns, columns))
        outer = iter(kept)
        where_in = tuple(next(inner) if d in dims else next(outer) for d in range(source.ndim))
        element = self.value(source, where_in)
        assert row.accumulate is not None
        element = cast(element, row.accumulate(node))
        if numel(columns) == 1 and row.reduction == "sum" and element.dtype.startswith("f"):
            element = make("add", element, const(0.0, element.dtype))  # a sum begins at 0: no -0.0
        if kind is Kind.SCAN:
            return cast(make("scan", element, arg=row.reduction), out.dtype)
        dtype = "i64" if row.reduction in ("argmax", "argmin") else element.dtype
        return cast(make("reduce", element, arg=row.reduction, dtype=dtype), out.dtype)

    def _attribute(self, scalar: Scalar, origin: Origin) -> None:
        """Note the user's line for the expression and for the parts of it that have none yet."""
        stack = [scalar]
        while stack:
            part = stack.pop()
            if part.key not in self.line_of:
                self.line_of[part.key] = origin
                stack.extend(part.deps())


def _both(a: Scalar | None, b: Scalar | None) -> Scalar | None:
    if a is None or b is None or a is b:
        return b if a is None else a
    return a & b


def _place(root: Value, domain: Domain) -> tuple[tuple[Index, ...], Scalar | None]:
    """Which element of `root` an iteration computes, and in which iterations (None: in all)."""
    assert root.node is not None
    per_row = kind_of(root.node) is Kind.REDUCTION
    index = None if per_row else domain.elements(root.sizes)
    if index is None:
        index = domain.row(root.sizes)
    if index is not None:
        return index, None
    if domain.dims or per_row or numel(root.sizes) > numel(domain.sizes):
        loops = f"the loops over {list(domain.sizes)}"
        raise CannotFuse(
            f"results of {list(root.sizes)} are neither one for each step of {loops} nor one for "
            "each of their rows"
        )
    return delinear(domain.rows, root.sizes), index_value(domain.rows) < numel(root.sizes)


def build(
    roots: Sequence[Value], stored: Container[Value], inside: Inside, domain: Domain
) -> tuple[LoopNest, Body]:
    """The nest that computes `roots` over `domain`, storing those in `stored`, and the body it was
    built with.

    Raises CannotFuse when a root has no place in the domain, or is needed at rows that another
    iteration computes.
    """
    body = Body(domain, inside)
    stores = []
    outs: dict[Value, str] = {}
    for root in roots:
        index, mask = _place(root, domain)
        scalar = body.value(root, index, mask)
        if root in stored:
            outs[root] = f"o{len(outs)}"
            stores.append(Store(outs[root], dot(index, root.strides), scalar, mask))
    used = {s.arg.buffer for s in in_order(roots_of(stores)) if isinstance(s.arg, Load)}
    body.loads = {v: name for v, name in body.loads.items() if name in used}
    buffers = [Buffer(name, v.dtype, v.span) for v, name in body.loads.items()]
    buffers += [Buffer(name, v.dtype, v.span, written=True) for v, name in outs.items()]
    return LoopNest("nest", domain.axes, tuple(buffers), tuple(stores), line_of=body.line_of), body
