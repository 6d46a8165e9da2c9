"""A nest over other axes: `rewrite(nest, change_index, axes)`, and `merged(nest, axes)`, in which
one loop stands for several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tracejit.fuse.index import Atom, Axis, Index, Indirect, delinear
from tracejit.fuse.loopnest import LoopNest, Store
from tracejit.fuse.scalar import Load, Scalar, make
from tracejit.ir.graph import Origin, numel


def merged(nest: LoopNest, axes: Sequence[Axis]) -> LoopNest:
    """The nest with one axis in place of these, which are all parallel or all of the reduction: the
    last of them varies fastest."""
    sizes = [a.size for a in axes]
    one = Axis("_".join(a.name for a in axes), int(numel(sizes)), axes[0].reduce)
    digits: dict[Atom, Index] = dict(zip(axes, delinear(Index.of(one), sizes), strict=True))
    kept = tuple(one if a == axes[0] else a for a in nest.axes if a not in axes[1:])
    return rewrite(nest, lambda index: index.replace(digits.get), kept)


def rewrite(
    nest: LoopNest,
    change_index: Callable[[Index], Index],
    axes: tuple[Axis, ...],
    names: Mapping[str, str] | None = None,
    offsets: Mapping[str, int] | None = None,
) -> LoopNest:
    """The nest over other axes: every index, in loads, stores and index values, goes through
    `change_index`.

    `names` gives buffers other names; what is loaded lies so much nearer to their begin as
    `offsets` says.
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
        new = memo[scalar.key] = make(scalar.op, *args, arg=arg, dtype=scalar.dtype)
        if scalar.key in nest.line_of:
            lines.setdefault(new.key, nest.line_of[scalar.key])
    stores = tuple(
        Store(
            rename[s.buffer],
            index(s.index),
            memo[s.value.key],
            None if s.mask is None else memo[s.mask.key],
        )
        for s in nest.stores
    )
    buffers = tuple(replace(b, name=rename[b.name]) for b in nest.buffers)
    return replace(nest, axes=axes, buffers=buffers, stores=stores, line_of=lines)
