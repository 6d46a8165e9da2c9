"""One kernel for many that differ only in where they begin to read:
`with_shared_kernels(program)`.

The steps of an unrolled loop (time steps, heads) read slices of one tensor, each at an offset of
its own. An offset inside a nest makes it a kernel of its own, which takes longer to compile than a
view takes at each call; so where there are many such nests they become one, and what they read a
view.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.program import Alias, Program, RunKernel, Slot, Step, makes
from tracejit.fuse.regroup import rewrite
from tracejit.fuse.scalar import Load

MANY = 4  # nests that are worth a view at each call


def with_shared_kernels(program: Program) -> Program:
    """The program with one nest for each group of many that are equal but for offsets; the same
    object if there is no such group."""
    based: dict[int, tuple[LoopNest, dict[str, int]]] = {}
    groups: dict[object, dict[int, LoopNest]] = defaultdict(dict)
    for step in program.steps:
        if not isinstance(step, RunKernel) or not isinstance(step.nest, LoopNest):
            continue
        if id(step.nest) not in based:
            nest, _ = based[id(step.nest)] = _from_zero(step.nest)
            groups[nest.axes, nest.buffers, nest.stores][id(step.nest)] = nest
    shared = {
        one: next(iter(nests.values()))
        for nests in groups.values()
        if len(nests) >= MANY
        for one in nests
    }
    if not shared:
        return program
    views = _Views(program)
    for step in program.steps:
        if isinstance(step, RunKernel) and id(step.nest) in shared:
            _, offsets = based[id(step.nest)]
            args = {b: views.at(name, offsets.get(b, 0)) for b, name in step.args.items()}
            step = replace(step, nest=shared[id(step.nest)], args=args)
        views.add(step)
    return replace(program, steps=views.steps)


def _from_zero(nest: LoopNest) -> tuple[LoopNest, dict[str, int]]:
    """The nest with each buffer that it only reads given from the first element that is read on,
    and at which element that is."""
    first: dict[str, int] = {}
    for scalar in nest.body():
        if isinstance(scalar.arg, Load):
            buffer, least = scalar.arg.buffer, scalar.arg.index.bounds()[0]
            first[buffer] = min(first.get(buffer, least), least)
    written = {b.name for b in nest.buffers if b.written}
    offsets = {b: k for b, k in first.items() if k > 0 and b not in written}
    if not offsets:
        return nest, offsets
    new = rewrite(nest, offsets=offsets)
    ends: dict[str, int] = {}  # of what is read
    for scalar in new.body():
        if isinstance(scalar.arg, Load) and scalar.arg.buffer in offsets:
            end = scalar.arg.index.bounds()[1] + 1
            ends[scalar.arg.buffer] = max(ends.get(scalar.arg.buffer, 0), end)
    buffers = tuple(replace(b, span=ends.get(b.name, b.span)) for b in new.buffers)
    return replace(new, buffers=buffers), offsets


class _Views:
    """The steps of a program, with views of what others made put between them."""

    def __init__(self, program: Program) -> None:
        self.steps: list[Step] = []
        self.slots: dict[str, Slot] = {slot.name: slot for slot in program.inputs}
        self.known: dict[tuple[str, int], str] = {}

    def add(self, step: Step) -> None:
        self.slots.update({slot.name: slot for slot in makes(step)})
        self.steps.append(step)

    def at(self, name: str, offset: int) -> str:
        """The variable that holds another from an element on."""
        if not offset:
            return name
        if (name, offset) not in self.known:
            base = self.slots[name]
            sizes = (base.span - offset,)
            out = replace(base, name=f"{name}_from_{offset}", sizes=sizes, strides=(1,))
            self.add(Alias(name, out, offset))
            self.known[name, offset] = out.name
        return self.known[name, offset]
