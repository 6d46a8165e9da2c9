"""The scheduled program: the steps of a plan before they have a language. Made by fuse.schedule,
read by codegen.plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

from tracejit.fuse.loopnest import LoopNest
from tracejit.ir.dtypes import itemsize
from tracejit.ir.graph import Origin, Size, span, values_in

if TYPE_CHECKING:
    from tracejit.fuse.attention import Attention


@dataclass(frozen=True)
class Slot:
    """A tensor variable of the plan: name, dtype, geometry and device."""

    name: str
    dtype: str
    sizes: tuple[Size, ...]
    strides: tuple[Size, ...]
    device: str = "cpu"

    @property
    def span(self) -> int:
        return span(self.sizes, self.strides)

    @property
    def bytes(self) -> int:
        """From the first to the last element that it reaches."""
        return self.span * itemsize(self.dtype)


@dataclass(frozen=True)
class Ref:
    """A use of a tensor variable among the arguments of an extern call."""

    name: str


@dataclass(frozen=True)
class RunKernel:
    """Run a loop nest, or what stands in a nest's place. `args` gives the tensor variable for each
    buffer of the nest; `outs` are allocated first.

    Nests that are equal up to names are one object: one kernel is generated for them.
    """

    nest: LoopNest | Attention
    args: dict[str, str]
    outs: tuple[Slot, ...]
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class RunExtern:
    """Call an ATen op. `args` and `kwargs` as in the graph, with Ref in place of tensors; one Slot
    per tensor result.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[Slot, ...]
    origin: Origin = Origin()


@dataclass(frozen=True)
class Alias:
    """`out` is a view of the variable `base`, `offset` elements in. No data moves."""

    base: str
    out: Slot
    offset: Size = 0


@dataclass(frozen=True)
class Expect:
    """Leave the plan unless the one-element tensor `name` holds `number` (a trace followed that
    outcome).
    """

    name: str
    number: bool | int | float
    origin: Origin = Origin()


@dataclass(frozen=True)
class CheckIndex:
    """Leave the plan unless every element of `name` lies in -size … size-1 (or 0 … size-1 without
    `wrap`).
    """

    name: str
    size: Size
    wrap: bool = True
    origin: Origin = Origin()


Step = Union[RunKernel, RunExtern, Alias, Expect, CheckIndex]


def reads(step: Step) -> Iterator[str]:
    """Variables that a step uses, those of its own results left out."""
    if isinstance(step, RunKernel):
        made = {slot.name for slot in step.outs}
        yield from (name for name in step.args.values() if name not in made)
    elif isinstance(step, RunExtern):
        yield from refs_in((step.args, tuple(step.kwargs.values())))
    elif isinstance(step, Alias):
        yield step.base
    else:
        yield step.name


def makes(step: Step) -> tuple[Slot, ...]:
    """The variables that a step defines."""
    if isinstance(step, (RunKernel, RunExtern)):
        return step.outs
    return (step.out,) if isinstance(step, Alias) else ()


def refs_in(tree: Any) -> Iterator[str]:
    """Names of the tensor variables in an extern call's arguments."""
    return (ref.name for ref in values_in(tree, Ref))


@dataclass(frozen=True)
class Made:
    """A value that a kernel computes: its name, what it is in a word, the operation and its
    place."""

    value: str
    name: str
    op: str
    origin: Origin


@dataclass
class Decision:
    """Something the scheduler chose, for `explain`: the two kernels it looked at by what they
    compute, the verdict, the reason in words.
    """

    between: tuple[tuple[Made, ...], tuple[Made, ...]]
    fused: bool
    reason: str
    bytes_saved: int = 0

    @property
    def what(self) -> str:
        """Both in a line: `v3 layer_norm, v5 add + v8 mul`."""
        return " + ".join(", ".join(f"{m.value} {m.name}" for m in side) for side in self.between)


@dataclass
class Program:
    """Inputs, steps in order, outputs and writes as variable names. A write (i, name): input i gets
    the values of name. `direct`: inputs that kernels write. `together`: inputs that lie in the same
    memory, if any of it is written.
    """

    inputs: list[Slot] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    writes: list[tuple[str, str]] = field(default_factory=list)
    direct: list[str] = field(default_factory=list)
    together: list[list[str]] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)


def op_name(op: str) -> str:
    """An op's name for a person: `aten._native_layer_norm.default` is layer_norm."""
    return op.split(".")[1].strip("_").removeprefix("native_").removeprefix("fused_")
