"""Kernels that store what an input is to become where the input lies, so that no temporary is
written and copied: `in_place(program)`.

    v = kernel(p, g); p <- v    becomes    kernel(p, g)

It must look as if everything had been read before anything was written. So nothing after the kernel
may read the input or leave the plan, and the kernel itself may read no other element of it than the
one that it is about to store. A written input shares its storage with no other (the recorder sees
to it); that its memory is its own is asked at each call, for the inputs in `Program.direct`.
"""

from __future__ import annotations

from dataclasses import replace

from tracejit.codegen.memory import reads, sharing
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.program import Alias, Program, RunKernel, Slot, Step
from tracejit.fuse.regroup import rewrite
from tracejit.fuse.scalar import Load, in_order


def in_place(program: Program) -> Program:
    """The program with as many of its writes as can be made by kernels; the same object if there is
    none."""
    known: dict[tuple[int, str, str], LoopNest] = {}
    for target, value in program.writes:
        step = _Write(program, target, value, known).kernel()
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

    def kernel(self) -> RunKernel | None:
        """The step that computes the value, storing it in the input; None if it must not."""
        steps, groups = self.program.steps, self.groups
        makers = (k for k, s in enumerate(steps) if self.value in (slot.name for slot in _outs(s)))
        at = next(makers, len(steps))
        if at == len(steps) or not self._alike(steps[at]) or not self._only_use():
            return None
        for later in steps[at + 1 :]:
            if not isinstance(later, (RunKernel, Alias)):
                return None
            if any(groups[name] == groups[self.target] for name in reads(later)):
                return None
        return self._stored(steps[at])

    def _alike(self, step: Step) -> bool:
        """Whether the value lies in memory as the input does."""
        (old,) = (slot for slot in self.program.inputs if slot.name == self.target)
        (new,) = (slot for slot in _outs(step) if slot.name == self.value)
        return replace(old, name=new.name) == new

    def _only_use(self) -> bool:
        """Whether neither the value nor what the input was is a result in any other way."""
        writes = [v for t, v in self.program.writes if t != self.target]
        mine = {self.groups[self.target], self.groups[self.value]}
        return not mine & {self.groups[name] for name in (*self.program.outputs, *writes)}

    def _stored(self, step: Step) -> RunKernel | None:
        if not isinstance(step, RunKernel) or not isinstance(step.nest, LoopNest):
            return None
        groups, nest, args = self.groups, step.nest, dict(step.args)
        (out,) = (b for b, name in args.items() if name == self.value)
        old = [b for b, name in args.items() if groups[name] == groups[self.target]]
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


def _moved(program: Program, target: str, value: str, step: RunKernel) -> Program:
    """The program with the kernel in place of the one that computes the value."""
    steps: list[Step] = []
    for old in program.steps:
        if value in (slot.name for slot in _outs(old)):
            steps.append(step)
        elif isinstance(old, RunKernel):
            args = {b: target if name == value else name for b, name in old.args.items()}
            steps.append(replace(old, args=args))
        elif isinstance(old, Alias) and old.base == value:
            steps.append(replace(old, base=target))
        else:
            steps.append(old)
    writes = [(t, v) for t, v in program.writes if t != target]
    return replace(program, steps=steps, writes=writes, direct=[*program.direct, target])


def _outs(step: Step) -> tuple[Slot, ...]:
    """What a kernel computes."""
    return step.outs if isinstance(step, RunKernel) else ()
