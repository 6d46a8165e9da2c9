"""What is done in which pass over the columns of a nest: `plan_passes(nest, room)`.

Pass q computes the reductions whose elements need q reductions before them, and stores what varies
over the columns and needs as many. What is dear and needed in a later pass too is kept in a row
buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tracejit.codegen.native.strategy import heavy
from tracejit.fuse.loopnest import LoopNest, Store
from tracejit.fuse.reductions import passes
from tracejit.fuse.scalar import Load, Scalar
from tracejit.ir.dtypes import itemsize


@dataclass
class Pass:
    """What one pass over the columns does. `keep`: written to row buffers; `kept`: read from
    them."""

    reduces: list[Scalar] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    keep: list[Scalar] = field(default_factory=list)
    kept: list[Scalar] = field(default_factory=list)

    def roots(self) -> list[Scalar]:
        """What it evaluates for each column."""
        return [*(r.args[0] for r in self.reduces), *(s for st in self.stores for s in st.needs)]


def varies(scalar: Scalar) -> bool:
    """Whether it differs from column to column."""
    return scalar.op == "scan" or any(a.reduce for a in scalar.axes())


def in_columns(store: Store) -> bool:
    """Whether it is done for each column."""
    return any(varies(s) for s in store.needs) or any(a.reduce for a in store.index.axes())


def plan_passes(nest: LoopNest, most_kept: int) -> tuple[list[Pass], list[Store]]:
    """The passes, and the stores of whole rows, which come last."""
    when = passes(nest)
    found: dict[int, Pass] = {}
    last: list[Store] = []
    for scalar in nest.body():
        if scalar.op == "reduce":
            found.setdefault(when[scalar.key] - 1, Pass()).reduces.append(scalar)
    for store in nest.stores:
        if in_columns(store):
            depth = max(when[s.key] for s in store.needs)
            found.setdefault(depth, Pass()).stores.append(store)
        else:
            last.append(store)
    ordered = [found[q] for q in sorted(found)]
    _keep(ordered, nest.columns, most_kept)
    return ordered, last


def _keep(ordered: list[Pass], columns: int, room: int) -> None:
    """Choose what is put into row buffers: the largest dear expressions of several passes."""
    seen: dict[int, Pass] = {}
    for now in ordered:
        mine: set[int] = set()
        stack = now.roots()
        while stack:
            scalar = stack.pop()
            if scalar.key in mine or scalar.op in ("reduce", "const") or not varies(scalar):
                continue
            mine.add(scalar.key)
            first = seen.get(scalar.key)
            size = columns * itemsize(scalar.dtype)
            if first is not None and size <= room and heavy(_below(scalar)):
                if scalar not in first.keep:
                    room -= size
                    first.keep.append(scalar)
                now.kept.append(scalar)
                continue
            stack.extend(scalar.deps())
        for key in mine:
            seen.setdefault(key, now)


def _below(scalar: Scalar) -> list[Scalar]:
    """What computing it again would compute: itself and what is below, down to loads and
    reductions."""
    found: dict[int, Scalar] = {}
    stack = [scalar]
    while stack:
        part = stack.pop()
        if part.key in found or part.op in ("reduce", "const") or isinstance(part.arg, Load):
            continue
        found[part.key] = part
        stack.extend(part.deps())
    return list(found.values())
