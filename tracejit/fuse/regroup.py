"""A nest over other axes: `rewrite(nest, axes, places)`; `merged(nest, axes)`, in which one
loop stands for several; and `parts(nest, axis, unit)`, in which several stand for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from tracejit.fuse.index import Atom, Axis, Index, Indirect, delinear
from tracejit.fuse.loopnest import LoopNest, Store
from tracejit.fuse.scalar import Load, Scalar, const, make
from tracejit.ir.graph import Origin, numel

NOTHING: Mapping[Any, Any] = MappingProxyType({})
MOST_PARTS = 4  # into which an axis is cut: each is code of its own


def merged(nest: LoopNest, axes: Sequence[Axis]) -> LoopNest:
    """The nest with one axis in place of these, which are all parallel or all of the reduction: the
    last of them varies fastest."""
    sizes = [a.size for a in axes]
    one = Axis("_".join(a.name for a in axes), int(numel(sizes)), axes[0].reduce)
    digits = dict(zip(axes, delinear(Index.of(one), sizes), strict=True))
    kept = [one if a == axes[0] else a for a in nest.axes if a not in axes[1:]]
    return rewrite(nest, kept, digits)


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
    return rewrite(nest, remake=lambda scalar, args: known.get(scalar.key))


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
    axes: Sequence[Axis] | None = None,
    places: Mapping[Axis, Index] = NOTHING,
    *,
    names: Mapping[str, str] = NOTHING,
    offsets: Mapping[str, int] = NOTHING,
    remake: Callable[[Scalar, tuple[Scalar, ...]], Scalar | None] = lambda scalar, args: None,
) -> LoopNest:
    """The nest over other axes: `places` says what stands for those of the nest in its indices.

    `names` gives buffers other names; what is loaded lies so much nearer to their begin as
    `offsets` says. `remake` may give another expression for one and its new operands.
    """
    memo: dict[int, Scalar] = {}
    lines: dict[int, Origin] = {}

    def swap(atom: Atom) -> Index | None:
        if isinstance(atom, Indirect):
            return Index.of(Indirect(memo[atom.scalar.key], atom.size))
        return places.get(atom) if isinstance(atom, Axis) else None

    def moved(arg: object) -> object:
        if isinstance(arg, Load):
            index = arg.index.replace(swap) - offsets.get(arg.buffer, 0)
            return Load(names.get(arg.buffer, arg.buffer), index)
        return arg.replace(swap) if isinstance(arg, Index) else arg

    for scalar in nest.body():
        args = tuple(memo[a.key] for a in scalar.args)
        new = remake(scalar, args) or _remade(scalar, args, moved(scalar.arg))
        memo[scalar.key] = new
        if scalar.key in nest.line_of:
            lines.setdefault(new.key, nest.line_of[scalar.key])
    kept = [
        _stored(s, names.get(s.buffer, s.buffer), s.index.replace(swap), memo) for s in nest.stores
    ]
    stores = tuple(filter(None, kept))
    buffers = tuple(replace(b, name=names.get(b.name, b.name)) for b in nest.buffers)
    over = nest.axes if axes is None else tuple(axes)
    return replace(nest, axes=over, buffers=buffers, stores=stores, line_of=lines)


def _stored(store: Store, buffer: str, index: Index, memo: Mapping[int, Scalar]) -> Store | None:
    """The store of what stands for its value; None where its mask holds nowhere."""
    mask = memo[store.mask.key] if store.mask else None
    if mask is not None and mask.op == "const":
        if not mask.arg:
            return None
        mask = None
    return Store(buffer, index, memo[store.value.key], mask)


def _remade(scalar: Scalar, args: tuple[Scalar, ...], arg: object) -> Scalar:
    """The expression of other operands; a load with a constant mask is one without, or zero."""
    if scalar.op == "load" and args and args[0].op == "const":
        if not args[0].arg:
            return const(0, scalar.dtype)
        args = ()
    return make(scalar.op, *args, arg=arg, dtype=scalar.dtype)
