"""Kernels that store what an input is to become where the input lies, so that no temporary is
written and copied: `in_place(program)`.

    v = kernel(p, g); p <- v    becomes    kernel(p, g)

It must look as if everything had been read before anything was written. So nothing after the step
may read what the input was, and the kernel itself may read no other element of it than the one that
it is about to store. Nothing after the step may leave the plan, unless running the call again
writes the same: nothing at all reads what the input was. Library calls that only overwrite elements
(an index_copy into a cache) are then done in place, too.

A written input shares its storage with no other (the recorder sees to it); that its memory is its
own is asked at each call, for the inputs in `Program.direct`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tracejit.codegen.memory import makes, reads, refs, sharing
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.program import Alias, Program, Ref, RunExtern, RunKernel, Step
from tracejit.fuse.regroup import rewrite
from tracejit.fuse.scalar import Load, in_order

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
    known: dict[tuple[int, str, str], LoopNest] = {}
    for target, value in program.writes:
        step = _Write(program, target, value, known).step()
        if step is not None:
            program = _moved(program, target, value, step)
    return program


class _Write:
    """One write of a program: the input `target` is to become `value`."""

    def __init__(
        self,
        program: Program,
        target: str,
        value: str,
        known: dict[tuple[int, str, str], LoopNest],
    ) -> None:
        self.program, self.target, self.value, self.known = program, target, value, known
        self.groups = sharing(program)

    def step(self) -> Step | None:
        """What stores the value in the input, in place of what computes it; None if nothing may."""
        steps = self.program.steps
        makers = (k for k, s in enumerate(steps) if self.value in (slot.name for slot in makes(s)))
        at = next(makers, len(steps))
        if at == len(steps) or not self._alike(steps[at]) or not self._only_use():
            return None
        made, after = steps[at], steps[at + 1 :]
        if any(map(self._reads_old, after)):
            return None
        overwritten = isinstance(made, RunExtern) or not self._reads_old(made)
        again = overwritten and not any(map(self._reads_old, steps[:at]))
        if isinstance(made, RunExtern):
            return self._scattered(made) if again else None
        if not again and not all(isinstance(s, (RunKernel, Alias)) for s in after):
            return None
        return self._stored(made)

    def _reads_old(self, step: Step) -> bool:
        """Whether a step reads memory of the input."""
        return any(map(self._is_old, reads(step)))

    def _is_old(self, name: str) -> bool:
        """Whether a variable may share memory with the input."""
        return self.groups[name] == self.groups[self.target]

    def _alike(self, step: Step) -> bool:
        """Whether the value lies in memory as the input does."""
        (old,) = (slot for slot in self.program.inputs if slot.name == self.target)
        (new,) = (slot for slot in makes(step) if slot.name == self.value)
        return replace(old, name=new.name) == new

    def _only_use(self) -> bool:
        """Whether neither the value nor what the input was is a result in any other way."""
        writes = [v for t, v in self.program.writes if t != self.target]
        mine = {self.groups[self.target], self.groups[self.value]}
        return not mine & {self.groups[name] for name in (*self.program.outputs, *writes)}

    def _scattered(self, step: RunExtern) -> RunExtern | None:
        """A library call that gives the input with some elements overwritten, in place."""
        first, *others = step.args
        op = OVERWRITING.get(step.op)
        accumulates = any(isinstance(a, bool) and a for a in others) or step.kwargs
        if op is None or first != Ref(self.target) or accumulates:
            return None
        if any(map(self._is_old, refs(others))):
            return None
        return replace(step, op=op, outs=())

    def _stored(self, step: Step) -> RunKernel | None:
        if not isinstance(step, RunKernel) or not isinstance(step.nest, LoopNest):
            return None
        nest, args = step.nest, dict(step.args)
        (out,) = (b for b, name in args.items() if name == self.value)
        old = [b for b, name in args.items() if self._is_old(name)]
        if not old:
            args[out] = self.target
        else:
            if [args[b] for b in old] != [self.target]:
                return None
            key = (id(nest), old[0], out)
            if key not in self.known:
                if not _reads_what_it_stores(nest, *key[1:]):
                    return None
                self.known[key] = self._onto(nest, *key[1:])
            nest = self.known[key]
            del args[out]
        outs = tuple(slot for slot in step.outs if slot.name != self.value)
        return replace(step, nest=nest, args=args, outs=outs)

    def _onto(self, nest: LoopNest, old: str, out: str) -> LoopNest:
        """The nest with one buffer for both; its name ends with a line for each such buffer, as
        torch's in what works in place."""
        names = {b.name: old if b.name == out else b.name for b in nest.buffers}
        new = rewrite(nest, lambda index: index, nest.axes, names)
        taken = {s.nest.name for s in self.program.steps if isinstance(s, RunKernel)}
        taken |= {other.name for other in self.known.values()}
        name = f"{nest.name}_"
        while name in taken:
            name += "_"
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


def _moved(program: Program, target: str, value: str, step: Step) -> Program:
    """The program with the step in place of the one that computes the value."""
    steps: list[Step] = []
    for old in program.steps:
        made = value in (slot.name for slot in makes(old))
        steps.append(step if made else _renamed(old, value, target))
    writes = [(t, v) for t, v in program.writes if t != target]
    return replace(program, steps=steps, writes=writes, direct=[*program.direct, target])


def _renamed(step: Step, value: str, target: str) -> Step:
    """The step reading the input instead of the value."""

    def new(tree: Any) -> Any:
        if isinstance(tree, (tuple, list)):
            return type(tree)(map(new, tree))
        return Ref(target) if tree == Ref(value) else tree

    if value not in reads(step):
        return step
    if isinstance(step, RunKernel):
        args = {b: target if name == value else name for b, name in step.args.items()}
        return replace(step, args=args)
    if isinstance(step, RunExtern):
        kwargs = {name: new(arg) for name, arg in step.kwargs.items()}
        return replace(step, args=new(step.args), kwargs=kwargs)
    if isinstance(step, Alias):
        return replace(step, base=target)
    return replace(step, name=target)
