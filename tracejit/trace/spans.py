"""Memory that several inputs share and that is written to: one input that covers them all.

As long as such memory is only read, each tensor on it is an input of its own. At the first write
those that lie in each other's memory become views of a flat tensor, the span, which a plan gets
ready made (runtime.paths): then a write through one is seen through the others. A tensor that is
met after a write joins them; if it reaches further, a larger span takes the old one's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracejit.ir.graph import contiguous_strides, numel
from tracejit.ops.strides import apart, dense
from tracejit.ops.views import inverse
from tracejit.runtime.constants import MISSING
from tracejit.runtime.paths import around
from tracejit.trace.aliases import Alias
from tracejit.trace.recording import Refused, Span

if TYPE_CHECKING:
    from tracejit.trace.storages import Storages


def cover(found: Storages, alias: Alias) -> None:
    """The roots that lie in memory of this one, if any, become views of one span. Raises
    Refused.
    """
    roots = _touching(alias)
    if len(roots) == 1:
        return
    if any(root.dtype != alias.dtype for root in roots):
        raise Refused("mutation", "memory that inputs of two dtypes share is written to")
    span = next((root for root in roots if root.span and _holds(root, roots)), None)
    changed = [root for root in roots if root is not span and _is_changed(found, root)]
    values = [found.read(root) for root in changed]
    if span is None:
        span = _enter(found, roots)
        alias.home.roots.append(span)
    for root in roots:
        if root is not span:
            _descend(found, root, span)
            alias.home.roots.remove(root)
    for root, value in zip(changed, values, strict=True):
        root.version = -1
        found.write(root, value)


def join(found: Storages, alias: Alias) -> None:
    """A tensor is met on memory that has been written to, there or elsewhere. Raises Refused."""
    alias.version = alias.home.version
    if any(_is_changed(found, root) for root in _touching(alias)):
        alias.version = -1
        cover(found, alias)


def _touching(alias: Alias) -> list[Alias]:
    """The roots that have elements in common with this one, or with one of those."""
    near = [alias]
    for one in near:
        near += [r for r in alias.home.roots if r not in near and not disjoint(r, one)]
    return near


def disjoint(one: Alias, other: Alias) -> bool:
    """Whether two tensors on one memory certainly have no element in common."""
    if 0 in one.sizes or 0 in other.sizes:
        return True
    if one.dtype != other.dtype:
        return False
    (low, high), (first, last) = _reach(one), _reach(other)
    places = ((a.sizes, a.strides, a.offset) for a in (one, other))
    return high <= first or last <= low or apart(*places)


def _is_changed(found: Storages, root: Alias) -> bool:
    """Whether a root is no longer what it was before the call."""
    return root.value is not found.graph.inputs[found.inputs.index(root)]


def _enter(found: Storages, roots: list[Alias]) -> Alias:
    """A new input: all from the first element to the last that the roots reach."""
    low = min(_reach(root)[0] for root in roots)
    size = max(_reach(root)[1] for root in roots) - low
    base = next(root for root in roots if root.given)
    of = found.inputs.index(base)
    flat = around(found.sources[of], (low - base.offset, size))
    if flat is MISSING:
        raise Refused("mutation", "memory that two inputs share has been freed")
    span = _like(base, (size,), (1,), low)
    span.span = True
    found.add_input(flat, span)
    span.version = base.home.version
    found.spans[len(found.inputs) - 1] = Span(of, low - base.offset, size)
    return span


def _descend(found: Storages, alias: Alias, span: Alias) -> None:
    """The alias becomes a view of the span, by views that a write can undo."""
    alias.origin = found.origin()
    sizes, count = alias.sizes, numel(alias.sizes)
    place = alias.offset - span.offset
    order = dense(sizes, alias.strides)
    if order is None:
        alias.parent, alias.op, alias.args = span, "aten.as_strided", (sizes, alias.strides, place)
        return
    part = (0, place, place + count, 1)
    if sizes == (count,):
        alias.parent, alias.op, alias.args = span, "aten.slice.Tensor", part
        return
    piece = span
    if count != span.sizes[0]:
        piece = _like(alias, (count,), (1,), alias.offset)
        piece.parent, piece.op, piece.args = span, "aten.slice.Tensor", part
    turned = tuple(sizes[d] for d in order)
    if order != tuple(range(len(order))):
        whole = _like(alias, turned, contiguous_strides(turned), alias.offset)
        whole.parent, whole.op, whole.args = piece, "aten.view", (turned,)
        alias.parent, alias.op, alias.args = whole, "aten.permute", (inverse(order),)
        return
    alias.parent, alias.op, alias.args = piece, "aten.view", (sizes,)


def _like(alias: Alias, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Alias:
    """Another geometry on the same memory."""
    return Alias(alias.home, alias.dtype, sizes, strides, offset, alias.device, origin=alias.origin)


def _holds(span: Alias, roots: list[Alias]) -> bool:
    """Whether a root reaches all that others do."""
    low, high = _reach(span)
    return all(low <= first and last <= high for first, last in map(_reach, roots))


def _reach(alias: Alias) -> tuple[int, int]:
    """The first element of the storage that a tensor reaches, and the one after its last."""
    if 0 in alias.sizes:
        return alias.offset, alias.offset
    steps = zip(alias.sizes, alias.strides, strict=True)
    return alias.offset, alias.offset + 1 + sum((n - 1) * s for n, s in steps)
