"""A nest over other axes: `rewrite(nest, change_index, axes)`; `merged(nest, axes)`, in which one
loop stands for several; and `parts(nest, axis, unit)`, in which several stand for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

from tracejit.fuse.index import Atom, Axis, Index, Indirect, delinear
from tracejit.fuse.loopnest import LoopNest, Store
from tracejit.fuse.scalar import Load, Scalar, const, make
from tracejit.ir.graph import Origin, numel

MOST_PARTS = 4  # into which an axis is cut: each is code of its own


def merged(nest: LoopNest, axes: Sequence[Axis]) -> LoopNest:
    """The nest with one axis in place of these, which are all parallel or all of the reduction: the
    last of them varies fastest."""
    sizes = [a.size for a in axes]
    one = Axis("_".join(a.name for a in axes), int(numel(sizes)), axes[0].reduce)
    digits: dict[Atom, Index] = dict(zip(axes, delinear(Index.of(one), sizes), strict=True))
    kept = tuple(one if a == axes[0] else a for a in nest.axes if a not in axes[1:])
    return rewrite(nest, lambda index: index.replace(digits.get), kept)


def parts(nest: LoopNest, axis: Axis, unit: int) -> list[tuple[int, int, LoopNest]]:
    """An axis cut where the nest asks on which side of a number it is (as it does for what `cat`
    puts side by side), if that is a multiple of `unit`: begin, end, and the nest as it is there,
    where nothing is asked."""
    found = ((scalar, _border(scalar, axis)) for scalar in nest.body())
    borders = {scalar: border for scalar, border in found if border is not None}
    cuts = sorted({b for b in borders.values() if 0 < b < axis.size and b % unit == 0})
    if not 0 < len(cuts) < MOST_PARTS:
        return [(0, axis.size, nest)]
    spans = pairwise([0, *cuts, axis.size])
    return [(begin, end, _within(nest, borders, begin, end)) for begin, end in spans]


def _within(nest: LoopNest, borders: Mapping[Scalar, int], begin: int, end: int) -> LoopNest:
    """The nest where the axis is begin … end-1."""
    known = {
        scalar.key: const((scalar.op in ("lt", "le")) == (end <= border), "bool")
        for scalar, border in borders.items()
        if end <= border or begin >= border
    }
    return rewrite(nest, lambda index: index, nest.axes, known=known)


def _border(scalar: Scalar, axis: Axis) -> int | None:
    """The step of the axis from which on a comparison with a number turns out the other way; None
    if it is no such comparison."""
    if scalar.op not in ("lt", "le", "gt", "ge"):
        return None
    left, right = scalar.args
    if left.op != "index" or right.op != "const" or left.arg.terms != ((axis, 1),):
        return None
    return int(right.arg) - int(left.arg.const) + (scalar.op in ("le", "gt"))


def rewrite(
    nest: LoopNest,
    change_index: Callable[[Index], Index],
    axes: tuple[Axis, ...],
    names: Mapping[str, str] | None = None,
    offsets: Mapping[str, int] | None = None,
    known: Mapping[int, Scalar] = MappingProxyType({}),
) -> LoopNest:
    """The nest over other axes: every index, in loads, stores and index values, goes through
    `change_index`.

    `names` gives buffers other names; what is loaded lies so much nearer to their begin as
    `offsets` says. `known`: what stands in place of some scalars, by their keys.
    """
    rename = names or {b.name: b.name for b in nest.buffers}
    memo: dict[int, Scalar] = {}
    lines: dict[int, Origin] = {}

    def index(old: Index) -> Index:
        return change_index(old).replace(
            lambda atom: (
                Index.of(Indirect(memo[atom.scalar.key], atom.size))
                if isinstance(atom, Indirect)
                else None
            )
        )

    for scalar in nest.body():
        args = tuple(memo[a.key] for a in scalar.args)
        arg = scalar.arg
        if isinstance(arg, Load):
            less = offsets.get(arg.buffer, 0) if offsets else 0
            arg = Load(rename[arg.buffer], index(arg.index) - less)
        elif isinstance(arg, Index):
            arg = index(arg)
        new = memo[scalar.key] = known.get(scalar.key) or _remade(scalar, args, arg)
        if scalar.key in nest.line_of:
            lines.setdefault(new.key, nest.line_of[scalar.key])
    stores = []
    for store in nest.stores:
        mask = None if store.mask is None else memo[store.mask.key]
        if mask is None or mask.op != "const" or mask.arg:
            asked = None if mask is None or mask.op == "const" else mask
            place = index(store.index)
            stores.append(Store(rename[store.buffer], place, memo[store.value.key], asked))
    buffers = tuple(replace(b, name=rename[b.name]) for b in nest.buffers)
    return replace(nest, axes=axes, buffers=buffers, stores=tuple(stores), line_of=lines)


def _remade(scalar: Scalar, args: tuple[Scalar, ...], arg: object) -> Scalar:
    """The expression of other operands; a load with a constant mask is one without, or zero."""
    if scalar.op == "load" and args and args[0].op == "const":
        if not args[0].arg:
            return const(0, scalar.dtype)
        args = ()
    return make(scalar.op, *args, arg=arg, dtype=scalar.dtype)
