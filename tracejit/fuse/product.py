"""Matrix products among loop nests: `as_product(nest)`.

    out[b, i, j] = epilogue(sum over r of  left[b, i, r] · right[b, r, j])

A nest is one if its only reduction is the sum of a product whose factors split the parallel axes
between them. Each factor may be any expression (a prologue), and so may what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracejit.fuse.index import Axis, FloorDiv, Index, Indirect, Mod
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.scalar import Load, Scalar, in_order
from tracejit.ir.graph import numel


@dataclass(frozen=True)
class Product:
    """`total` is the sum in the nest. Axes are in the nest's order: `batch` are those of both
    factors (or of none), `rows` those of `left`, `columns` those of `right`, `inner` are summed.

    `columns` has the axis along which the first store's elements are neighbours, if a factor has.
    """

    nest: LoopNest
    total: Scalar
    left: Scalar
    right: Scalar
    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    inner: tuple[Axis, ...]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Batch, m, n and k."""
        groups = (self.batch, self.rows, self.columns, self.inner)
        batch, m, n, k = (int(numel(a.size for a in axes)) for axes in groups)
        return batch, m, n, k

    @property
    def flops(self) -> int:
        batch, m, n, k = self.sizes
        return 2 * batch * m * n * k


def as_product(nest: LoopNest) -> Product | None:
    """The nest as a matrix product, in f32 or f64 with at least two elements of each column's sum;
    None if it is none."""
    found = [s for s in nest.body() if s.op in ("reduce", "scan")]
    if len(found) != 1 or found[0].op != "reduce" or found[0].arg != "sum":
        return None
    (total,) = found
    (term,) = total.args
    if term.op != "mul" or total.dtype not in ("f32", "f64") or term.dtype != total.dtype:
        return None
    if not nest.reduction or not _finished(nest):
        return None
    return _split(nest, total, *term.args)


def _finished(nest: LoopNest) -> bool:
    """Whether every store happens once a row: after the sum."""
    needed = [scalar for store in nest.stores for scalar in store.needs]
    axes = [s.axes() for s in needed] + [frozenset(s.index.axes()) for s in nest.stores]
    return not any(a.reduce for group in axes for a in group)


def _split(nest: LoopNest, total: Scalar, left: Scalar, right: Scalar) -> Product | None:
    """The parallel axes shared out; None if no axis is a factor's own, or a factor is not summed
    over."""
    of_left, of_right = left.axes(), right.axes()
    summed = frozenset(nest.reduction)
    if not (of_left & summed and of_right & summed):
        return None
    rows = tuple(a for a in nest.parallel if a in of_left and a not in of_right)
    columns = tuple(a for a in nest.parallel if a in of_right and a not in of_left)
    batch = tuple(a for a in nest.parallel if a not in rows and a not in columns)
    if not rows and not columns:
        return None
    product = Product(nest, total, left, right, batch, rows, columns, nest.reduction)
    swapped = Product(nest, total, right, left, batch, columns, rows, nest.reduction)
    first = nest.stores[0].index
    beside = [a for a in nest.parallel if first.coefficient(a) == 1]
    if not columns or (rows and any(a in rows for a in beside)):
        return swapped
    return product


def stride(scalar: Scalar, axis: Axis) -> int | None:
    """By how many elements every load of the expression that varies along the axis steps; 0 if none
    varies; None if they differ, or one steps unevenly."""
    steps: set[int] = set()
    for part in in_order((scalar,)):
        if isinstance(part.arg, Load):
            step = index_stride(part.arg.index, axis)
            if step is None:
                return None
            steps.add(step)
    steps.discard(0)
    if len(steps) > 1:
        return None
    return steps.pop() if steps else 0


def index_stride(index: Index, axis: Axis) -> int | None:
    """By how much the index grows along the axis; None if not evenly."""
    for atom, _ in index.terms:
        if isinstance(atom, (FloorDiv, Mod)) and axis in atom.index.axes():
            return None
        if isinstance(atom, Indirect) and axis in atom.scalar.axes():
            return None
    return index.coefficient(axis)


def plain_load(scalar: Scalar) -> Load | None:
    """The load that the expression is and nothing more; None if it is not, or masked."""
    return scalar.arg if scalar.op == "load" and not scalar.args else None
