"""Kernels that store what an input is to become where the input lies, so that no temporary is
written and copied: `in_place(program)`.

    v = kernel(p, g); p <- v    becomes    kernel(p, g)

It must look as if everything had been read before anything was written. So nothing after the step
may read what the input was, and the kernel itself may read no other element of it than the one that
it is about to store. Nothing after the step may leave the plan, unless running the call again
writes the same: nothing at all reads what the input was. Library calls that only overwrite elements
(an index_copy into a cache) are then done in place, too.

A written input that lies in memory of others (`Program.together`) is not stored to so; that the
memory of one in `Program.direct` is its own is asked at each call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tracejit.codegen.memory import sharing
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.program import (
    Alias,
    Program,
    Ref,
    RunExtern,
    RunKernel,
    Step,
    makes,
    reads,
    refs_in,
)
from tracejit.fuse.regroup import rewrite
from tracejit.fuse.scalar import Load, in_order
from tracejit.ir.graph import map_values

# Library calls that overwrite elements of their first argument, and how they do so in place.
OVERWRITING = {
    op: op.replace(name, f"{name}_")
    for name, overloads in {
        "index_copy": ("",),
        "index_put": ("",),
        "index_fill": (".int_Scalar", ".int_Tensor"),
        "scatter": (".src", ".value"),
    }.items()
    for op in (f"aten.{name}{overload}" for overload in overloads)
}


def in_place(program: Program) -> Program:
    """The program with as many of its writes as can be made by kernels; the same object if there is
    none."""
    if not program.writes:
        return program
    writes = _Writes(program)
    for target, value in program.writes:
        step = writes.step(target, value)
        if step is not None:
            writes.move(target, value, step)
    return writes.program()


class _Writes:
    """The steps of a program while its writes become theirs, and where each variable is made and
    read, so that hundreds of writes are as quick as one each."""

    def __init__(self, program: Program) -> None:
        self.whole, self.steps = program, list(program.steps)
        self.inputs = {slot.name: slot for slot in program.inputs}
        self.left = dict(program.writes)
        self.shared = {name for group in program.together for name in group}
        self.known: dict[tuple[int, str, str], LoopNest] = {}
        self.taken = {s.nest.name for s in self.steps if isinstance(s, RunKernel)}
        self.groups = sharing(program)
        self.members: dict[str, list[str]] = {}
        for name, group in self.groups.items():
            self.members.setdefault(group, []).append(name)
        self.last_exit = -1  # the last step that may leave the plan
        self.makers: dict[str, int] = {}
        self.readers: dict[str, set[int]] = {name: set() for name in self.groups}
        for number, step in enumerate(self.steps):
            self.makers |= dict.fromkeys((slot.name for slot in makes(step)), number)
            for name in reads(step):
                self.readers[name].add(number)
            if not isinstance(step, (RunKernel, Alias)):
                self.last_exit = number

    def program(self) -> Program:
        """With the writes that were moved; the program itself if there are none."""
        whole = self.whole
        direct = [target for target, _ in whole.writes if target not in self.left]
        if not direct:
            return whole
        writes = list(self.left.items())
        return replace(whole, steps=self.steps, writes=writes, direct=[*whole.direct, *direct])

    def step(self, target: str, value: str) -> Step | None:
        """What stores the value in the input `target`, in place of what computes it; None if
        nothing may."""
        at = self.makers.get(value)
        if at is None or target in self.shared:
            return None
        if not self._alike(at, target, value) or not self._only_use(target, value):
            return None
        made = self.steps[at]
        mine = self.members[self.groups[target]]
        reading = {number for name in mine for number in self.readers[name]}  # what the input was
        if any(number > at for number in reading):
            return None
        again = not reading or (reading == {at} and isinstance(made, RunExtern))
        if isinstance(made, RunExtern):
            return self._scattered(made, target) if again else None
        if not again and at < self.last_exit:
            return None
        return self._stored(made, target, value)

    def move(self, target: str, value: str, step: Step) -> None:
        """Put the step in place of the one that computes the value; others read the input."""
        at = self.makers.pop(value)
        self.steps[at] = step
        readers = self.readers.pop(value)
        for number in readers:
            self.steps[number] = _renamed(self.steps[number], value, target)
        self.readers[target] |= readers | {at}
        group, old = self.groups[target], self.groups.pop(value)
        others = [name for name in self.members.pop(old) if name != value]
        self.members.setdefault(group, []).extend(others)
        self.groups |= dict.fromkeys(others, group)
        del self.left[target]

    def _is_old(self, name: str, target: str) -> bool:
        """Whether a variable may share memory with the input."""
        return self.groups[name] == self.groups[target]

    def _alike(self, at: int, target: str, value: str) -> bool:
        """Whether the value lies in memory as the input does."""
        (new,) = (slot for slot in makes(self.steps[at]) if slot.name == value)
        return replace(self.inputs[target], name=value) == new

    def _only_use(self, target: str, value: str) -> bool:
        """Whether neither the value nor what the input was is a result in any other way."""
        writes = (v for t, v in self.left.items() if t != target)
        mine = {self.groups[target], self.groups[value]}
        return all(self.groups[name] not in mine for name in (*self.whole.outputs, *writes))

    def _scattered(self, step: RunExtern, target: str) -> RunExtern | None:
        """A library call that gives the input with some elements overwritten, in place."""
        first, *others = step.args
        op = OVERWRITING.get(step.op)
        accumulates = any(isinstance(a, bool) and a for a in others) or step.kwargs
        if op is None or first != Ref(target) or accumulates:
            return None
        if any(self._is_old(name, target) for name in refs_in(others)):
            return None
        return replace(step, op=op, outs=())

    def _stored(self, step: Step, target: str, value: str) -> RunKernel | None:
        if not isinstance(step, RunKernel) or not isinstance(step.nest, LoopNest):
            return None
        nest, args = step.nest, dict(step.args)
        (out,) = (b for b, name in args.items() if name == value)
        old = [b for b, name in args.items() if self._is_old(name, target)]
        if not old:
            args[out] = target
        else:
            if [args[b] for b in old] != [target]:
                return None
            key = (id(nest), old[0], out)
            if key not in self.known:
                if not _reads_what_it_stores(nest, *key[1:]):
                    return None
                self.known[key] = self._onto(nest, *key[1:])
            nest = self.known[key]
            del args[out]
        outs = tuple(slot for slot in step.outs if slot.name != value)
        return replace(step, nest=nest, args=args, outs=outs)

    def _onto(self, nest: LoopNest, old: str, out: str) -> LoopNest:
        """The nest with one buffer for both; its name ends with a line for each such buffer, as
        torch's in what works in place."""
        names = {b.name: old if b.name == out else b.name for b in nest.buffers}
        new = rewrite(nest, names=names)
        name = f"{nest.name}_"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        buffers = tuple(b for b in new.buffers if b.written or b.name != old)
        return replace(new, name=name, buffers=buffers)


def _reads_what_it_stores(nest: LoopNest, old: str, out: str) -> bool:
    """Whether each element of the buffer `old` is read where it is stored in `out`, before that,
    and nowhere else."""
    body = list(nest.body())
    if any(s.op in ("reduce", "scan") for s in body):
        return False
    (store,) = (s for s in nest.stores if s.buffer == out)
    loads = [s for s in body if isinstance(s.arg, Load) and s.arg.buffer == old]
    if len(loads) != 1 or loads[0].args or store.mask is not None:
        return False
    (load,) = loads
    everywhere = store.index.axes() == {axis for axis in nest.axes if axis.size > 1}
    first = any(s is load for s in in_order((store.value,)))
    return load.arg.index == store.index and everywhere and first


def _renamed(step: Step, value: str, target: str) -> Step:
    """The step reading the input instead of the value."""

    def new(tree: Any) -> Any:
        return map_values(tree, lambda ref: Ref(target) if ref.name == value else ref, Ref)

    if isinstance(step, RunKernel):
        args = {b: target if name == value else name for b, name in step.args.items()}
        return replace(step, args=args)
    if isinstance(step, RunExtern):
        kwargs = {name: new(arg) for name, arg in step.kwargs.items()}
        return replace(step, args=new(step.args), kwargs=kwargs)
    if isinstance(step, Alias):
        return replace(step, base=target)
    return replace(step, name=target)
