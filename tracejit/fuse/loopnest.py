"""The loop nest: the last form that all generators share, and the only thing that a generator
reads.

    for each parallel axis: for each reduction axis: evaluate the stores' expressions

A nest has parallel axes and reduction axes (both possibly none). `reduce` expressions combine over
all reduction axes; what depends on a reduction's result and on a reduction axis (softmax's
quotient) is evaluated in a later pass over the same axes. A generator that keeps a whole row in
registers (persistent) needs no passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tracejit.fuse.index import Axis, Index, Indirect
from tracejit.fuse.scalar import Load, Scalar, in_order
from tracejit.ir.dtypes import itemsize
from tracejit.ir.graph import Origin, numel
from tracejit.runtime.kernel import KernelSource


@dataclass(frozen=True)
class Buffer:
    """A kernel parameter: name (an identifier), dtype, elements reachable (span), and whether the
    kernel writes it.
    """

    name: str
    dtype: str
    span: int
    written: bool = False


@dataclass(frozen=True)
class Store:
    """`buffer[index] = value`. One that varies over no reduction axis is stored once a row.

    `mask`: a bool; where it is false nothing is stored, and the index may lie outside the buffer.
    """

    buffer: str
    index: Index
    value: Scalar
    mask: Scalar | None = None

    @property
    def needs(self) -> tuple[Scalar, ...]:
        """What has to be evaluated for it: the value, scalars in the index, the mask."""
        masks = () if self.mask is None else (self.mask,)
        return (self.value, *self.index.indirects(), *masks)


@dataclass(frozen=True)
class LoopNest:
    """One kernel before it has a language. `origins` are the user's lines in order; `line_of` maps
    scalars to them.
    """

    name: str
    axes: tuple[Axis, ...]
    buffers: tuple[Buffer, ...]
    stores: tuple[Store, ...]
    origins: tuple[Origin, ...] = ()
    line_of: dict[int, Origin] = field(default_factory=dict, compare=False, repr=False)

    @property
    def parallel(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if not a.reduce)

    @property
    def reduction(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if a.reduce)

    @property
    def rows(self) -> int:
        """Product of the parallel sizes."""
        return int(numel(axis.size for axis in self.parallel))

    @property
    def columns(self) -> int:
        """Product of the reduction sizes."""
        return int(numel(axis.size for axis in self.reduction))

    def body(self) -> Iterator[Scalar]:
        """Every expression, operands first."""
        return in_order(roots_of(self.stores))

    def indices(self) -> list[Index]:
        """Every index expression, of stores, loads and index values; each once."""
        found = [s.index for s in self.stores]
        for scalar in self.body():
            if isinstance(scalar.arg, Load):
                found.append(scalar.arg.index)
            elif isinstance(scalar.arg, Index):
                found.append(scalar.arg)
        return list(dict.fromkeys(found))

    def bytes_moved(self) -> tuple[int, int]:
        """Bytes read and written by one run, each buffer element counted once."""
        loaded = {s.arg.buffer for s in self.body() if isinstance(s.arg, Load)}
        read = sum(b.span * itemsize(b.dtype) for b in self.buffers if b.name in loaded)
        return read, sum(b.span * itemsize(b.dtype) for b in self.buffers if b.written)

    def __str__(self) -> str:
        """A readable listing: axes, then one numbered line per expression, then the stores."""
        parameters = ", ".join(f"{b.name}: {b.dtype}[{b.span}]" for b in self.buffers)
        lines = [f"nest {self.name}({parameters}):"]
        for axis in self.axes:
            lines.append(f"  {'reduce' if axis.reduce else 'for'} {axis.name} in {axis.size}")
        names: dict[int, str] = {}
        for scalar in self.body():
            names[scalar.key] = f"t{len(names)}"
            inside = [names[a.key] for a in scalar.args]
            if scalar.arg is not None:
                inside.append(show_arg(scalar.arg, names))
            lines.append(
                f"    {names[scalar.key]}: {scalar.dtype} = {scalar.op}({', '.join(inside)})"
            )
        for store in self.stores:
            where = show_arg(store.index, names)
            when = f" if {names[store.mask.key]}" if store.mask is not None else ""
            lines.append(f"    {store.buffer}[{where}] = {names[store.value.key]}{when}")
        return "\n".join(lines)


class Nest(Protocol):
    """What a kernel's source tells of what it was made from."""

    @property
    def buffers(self) -> Sequence[Buffer]: ...
    @property
    def rows(self) -> int: ...
    def bytes_moved(self) -> tuple[int, int]: ...


def kernel_source(
    nest: Nest,
    name: str,
    text: str,
    target: str,
    strategy: str,
    params: Sequence[tuple[str, str]] = (),
    **launch: Any,
) -> KernelSource:
    """A generated kernel as data, its facts read off the nest. `params`: the text's own names and
    types of the buffers; `launch`: further fields, and others than the nest says."""
    params = params or [(b.name, b.dtype) for b in nest.buffers]
    written = zip(params, nest.buffers, strict=True)
    reads, writes = nest.bytes_moved()
    facts: dict[str, Any] = {
        "outputs": tuple(name for (name, _), buffer in written if buffer.written),
        "constants": {},
        "grid": 1 if nest.rows else 0,
        "spans": tuple(b.span for b in nest.buffers),
        "reads": reads,
        "writes": writes,
    }
    return KernelSource(name, text, target, tuple(params), strategy=strategy, **(facts | launch))


def roots_of(stores: Sequence[Store]) -> tuple[Scalar, ...]:
    """What the stores need evaluated."""
    return tuple(scalar for store in stores for scalar in store.needs)


def show_arg(arg: object, names: dict[int, str]) -> str:
    """An expression's argument as text, indirect indices by the names of their scalars."""
    if isinstance(arg, Load):
        return f"{arg.buffer}[{show_arg(arg.index, names)}]"
    if isinstance(arg, Index):
        text = str(arg)
        for scalar in arg.indirects():
            text = text.replace(str(Indirect(scalar, 0)), f"[{names[scalar.key]}]")
        return text
    return repr(arg)
