"""A scheduled program as straight-line Python: the text that runs at each call, and that a person
reads.

    def run(inputs):
        (a0, a1) = inputs
        # model.py:12 in layers.0.norm
        v3 = empty_cpu((4, 128), (128, 1), f32)
        softmax_0(a0, v3)
        ...
        return (v7,)

The text uses no attribute and no builtin: every name it calls is bound by runtime.plan from the
manifest.
"""

from __future__ import annotations

import keyword
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tracejit.codegen.memory import MemoryPlan, memory_plan, results
from tracejit.fuse.program import (
    Alias,
    CheckIndex,
    Expect,
    Program,
    Ref,
    RunExtern,
    RunKernel,
    Slot,
    reads,
)
from tracejit.ir.draws import KEYS
from tracejit.ir.dtypes import NAME, TORCH
from tracejit.ir.execute import draws, sized_by_data
from tracejit.ir.graph import Origin, Rng
from tracejit.runtime import hugepages, private
from tracejit.runtime.constants import encode
from tracejit.runtime.externs import resolve
from tracejit.runtime.plan import HELPERS

# Names that runtime.plan binds, beside kernels and library calls: a variable of that name gets
# another one.
RESERVED = frozenset(
    {"run", "inputs", "kept", "take", "give", "view", "generators", *HELPERS, *TORCH}
)


@dataclass
class _Names:
    """What the text refers to: library calls, dtypes and other constants, and allocators, by the
    name used."""

    externs: dict[str, str] = field(default_factory=dict)
    constants: dict[str, list[str]] = field(default_factory=dict)
    allocators: dict[str, str] = field(default_factory=dict)

    def extern(self, op: str) -> str:
        name = op.replace(".", "_")
        self.externs[name] = op
        return name

    def constant(self, kind: str, value: str) -> str:
        name = value.replace(":", "_")
        self.constants[name] = [kind, value]
        return name

    def allocator(self, device: str) -> str:
        name = "empty_" + device.replace(":", "_")
        self.allocators[name] = device
        return name


def render(
    program: Program, kernel_names: Mapping[int, str], title: str = ""
) -> tuple[str, dict[str, Any]]:
    """The plan's text and its manifest (JSON).

    `kernel_names` gives the kernel for each nest by its id(); a kernel is called with the nest's
    buffers in order. Raises ValueError for a program that cannot be spelled (an unknown argument
    type, an undefined variable).
    """
    memory = memory_plan(program)
    writer = _Writer(program, kernel_names, memory)
    text = writer.text(title)
    manifest = {
        "title": title,
        "inputs": len(program.inputs),
        "outputs": len(program.outputs),
        "kernels": sorted(
            {kernel_names[id(s.nest)] for s in program.steps if isinstance(s, RunKernel)}
        ),
        "externs": writer.names.externs,
        "constants": writer.names.constants,
        "allocators": writer.names.allocators,
        "kept": [[s.sizes, s.strides, s.dtype] for s in memory.kept.values()],
        "variables": list(writer.spelled.values()),
        "decisions": writer.decisions,
        "draws": writer.draws_before_leaving(),
        "defaults": sorted(rng.device for rng in writer.rngs if rng.kind == "default"),
        "writes": len(program.writes) + len(program.direct),
        "launches": sum(isinstance(s, RunKernel) for s in program.steps),
        "calls": sum(isinstance(s, RunExtern) for s in program.steps),
        "bytes": {"peak": memory.peak, "allocated": memory.allocated, **_traffic(program)},
    }
    return text, manifest


def _traffic(program: Program) -> dict[str, int]:
    moved = [s.nest.bytes_moved() for s in program.steps if isinstance(s, RunKernel)]
    return {"read": sum(r for r, _ in moved), "written": sum(w for _, w in moved)}


class _Writer:
    """Writes one program, line by line."""

    def __init__(
        self, program: Program, kernel_names: Mapping[int, str], memory: MemoryPlan
    ) -> None:
        self.program = program
        self.kernel_names = kernel_names
        self.memory = memory
        self.names = _Names()
        self.slots: dict[str, Slot] = {}
        self.spelled: dict[str, str] = {}  # variable -> its name in the text
        self.taken = set(RESERVED) | set(kernel_names.values())
        self.lines: list[str] = []
        self.decisions: list[list[Any]] = []  # what the data decided: the line, and the outcome
        self.place = ""
        self.rngs: dict[Rng, str] = {}
        self.read = {name for step in program.steps for name in reads(step)} | set(results(program))

    def text(self, title: str) -> str:
        names = [self.define(slot) for slot in self.program.inputs]
        self.generators(names)
        self.check_apart()
        if self.memory.kept:
            kept = ", ".join(map(self.define, self.memory.kept.values()))
            self.line(f"({kept},) = kept = take()")
        for number, step in enumerate(self.program.steps):
            self.step(step)
            if self.memory.deletes[number]:
                self.line(f"del {', '.join(map(self.use, self.memory.deletes[number]))}")
        self.finish()
        head = [f"# {line}" for line in title.splitlines()]
        return (
            "\n".join([*head, "def run(inputs):", *(f"    {line}" for line in self.lines)]) + "\n"
        )

    def generators(self, names: list[str]) -> None:
        """The inputs, and after them the generators: those that are given and those made anew."""
        used = {rng: None for step in self.program.steps for rng in _generators(step)}
        given = [rng for rng in used if rng.kind == "input"]
        if given:
            self.line(f"({''.join(f'{name}, ' for name in names)}*generators,) = inputs")
        elif names:
            self.line(f"({', '.join(names)},) = inputs")
        for rng in used:
            if rng.kind == "default":
                self.rngs[rng] = self.names.constant("generator", rng.device)
                continue
            name = self.rngs[rng] = f"{rng.kind}_generator{rng.key}"
            made = f"generator({rng.device!r})" if rng.kind == "made" else f"generators[{rng.key}]"
            self.line(f"{name} = {made}")
            self.taken.add(name)

    def line(self, text: str) -> None:
        self.lines.append(text)

    def define(self, slot: Slot) -> str:
        """Note a variable; its name in the text."""
        if slot.name in self.slots:
            raise ValueError(f"{slot.name} is defined twice")
        name = re.sub(r"\W", "_", slot.name) or "v"
        name = name if name.isidentifier() and not keyword.iskeyword(name) else f"v_{name}"
        while name in self.taken or name.startswith(("empty_", "aten_")):
            name = f"{name}_" if name in self.taken else f"v_{name}"
        self.taken.add(name)
        self.slots[slot.name] = slot
        self.spelled[slot.name] = name
        return name

    def use(self, name: str) -> str:
        """The name in the text of a variable that is defined."""
        if name not in self.slots:
            raise ValueError(f"{name} is used before it is defined")
        return self.spelled[name]

    def comment(self, *origins: Origin) -> None:
        """The user's lines, unless they are those of the step before."""
        places = list(dict.fromkeys(place(o) for o in origins if o.file))
        shown = ", ".join(places[:4]) + (
            f", and {len(places) - 4} more lines" if len(places) > 4 else ""
        )
        if shown and shown != self.place:
            self.line(f"# {shown}")
            self.place = shown

    def step(self, step: Any) -> None:
        if isinstance(step, RunKernel):
            self.kernel(step)
        elif isinstance(step, RunExtern):
            self.extern(step)
        elif isinstance(step, Alias):
            base, out = self.use(step.base), step.out
            if self.slots[base].dtype != out.dtype:
                raise ValueError(f"{out.name} views {base} as another dtype")
            self.line(
                f"{self.define(out)} = view({base}, {out.sizes}, {out.strides}, {step.offset})"
            )
        elif isinstance(step, Expect):
            self.comment(step.origin)
            where = self.decision(step.origin, encode(step.number))
            self.line(f"expect({self.use(step.name)}, {self.spell(step.number)}, {where})")
        elif isinstance(step, CheckIndex):
            self.comment(step.origin)
            low = -step.size if step.wrap else 0
            self.line(
                f"check_index({self.use(step.name)}, {low}, {step.size}, {place(step.origin)!r})"
            )
        else:
            raise ValueError(f"a plan has no step {step!r}")

    def decision(self, origin: Origin, outcome: Any) -> str:
        """Note what the data decided when it was recorded; the last arguments of the check."""
        self.decisions.append([place(origin), outcome])
        return f"{place(origin)!r}, {len(self.decisions) - 1}"

    def kernel(self, step: RunKernel) -> None:
        self.comment(*step.origins)
        for slot in step.outs:
            self.allocate(slot)
        name = self.kernel_names[id(step.nest)]
        arguments = [self.use(step.args[buffer.name]) for buffer in step.nest.buffers]
        self.line(f"{name}({', '.join(arguments)})")

    def allocate(self, slot: Slot) -> None:
        if slot.name in self.memory.kept:
            return
        donor = self.memory.donor.get(slot.name)
        name = self.define(slot)
        if donor is None:
            allocator = self.names.allocator(slot.device)
            dtype = self.names.constant("dtype", slot.dtype)
            fresh = f"{allocator}({slot.sizes}, {slot.strides}, {dtype})"
            large = slot.device == "cpu" and slot.bytes >= hugepages.FROM
            self.line(f"{name} = on_huge_pages({fresh})" if large else f"{name} = {fresh}")
            return
        old, free = self.slots[donor], self.use(donor)
        if (old.sizes, old.strides) == (slot.sizes, slot.strides):
            self.line(f"{name} = {free}; del {free}  # its memory is free again")
        else:
            self.line(f"{name} = view({free}, {slot.sizes}, {slot.strides}, 0); del {free}")

    def extern(self, step: RunExtern) -> None:
        self.comment(step.origin)
        if step.op == "aten.empty_strided":  # memory that nothing is stored in: an empty tensor
            for slot in step.outs:
                self.allocate(slot)
            return
        parts = [self.spell(a) for a in step.args]
        parts += [f"{name}={self.spell(value)}" for name, value in step.kwargs.items()]
        call = f"{self.names.extern(step.op)}({', '.join(parts)})"
        outs = [self.define(slot) for slot in step.outs]
        if step.op == KEYS:  # they look as they are said to
            self.line(f"({', '.join(outs)},) = {call}")
            return
        counts = sized_by_data(step.op)
        if len(outs) == 1 and _gives_one_tensor(step.op):
            (slot,) = step.outs
            self.line(f"{outs[0]} = {self.laid_out(call, slot, counts, step.origin)}")
        elif outs:
            self.line(f"({', '.join(outs)},) = tensors({call})")
            for name, slot in zip(outs, step.outs, strict=True):
                if counts or slot.name in self.read:
                    self.line(f"{name} = {self.laid_out(name, slot, counts, step.origin)}")
        else:
            self.line(call)

    def laid_out(self, value: str, slot: Slot, counts: bool, origin: Origin) -> str:
        """A library call's result as it was recorded; with `counts` the data decided its sizes."""
        where = f", {self.decision(origin, list(slot.sizes))}" if counts else ""
        return f"laid_out({value}, {slot.sizes}, {slot.strides}{where})"

    def spell(self, value: Any) -> str:
        """A literal or a bound name for one argument."""
        if isinstance(value, Ref):
            return self.use(value.name)
        if isinstance(value, (tuple, list)):
            return f"[{', '.join(self.spell(v) for v in value)}]"
        if value is None or isinstance(value, (bool, int, float, str)):
            return repr(value)
        if isinstance(value, complex) and math.isfinite(value.real) and math.isfinite(value.imag):
            return repr(value)
        if isinstance(value, torch.dtype):
            return self.names.constant("dtype", NAME[value])
        if isinstance(value, (torch.layout, torch.memory_format)):
            return self.names.constant("torch", str(value).removeprefix("torch."))
        if isinstance(value, Rng):
            return self.rngs[value]
        if isinstance(value, torch.device):
            return self.names.constant("device", str(value))
        raise ValueError(
            f"a plan cannot spell the argument {value!r} of type {type(value).__name__}"
        )

    def finish(self) -> None:
        """Outputs that must not share memory are copied, then inputs are written, then the plan
        returns."""
        outputs, seen = [], set()
        inputs = {self.memory.groups[slot.name] for slot in self.program.inputs}
        for number, name in enumerate(self.program.outputs):
            group = self.memory.groups[name]
            shared = group in inputs or group in seen
            outputs.append(self.copied(name, f"out{number}") if shared else self.use(name))
            seen.add(group)
        self.write_back(inputs)
        if self.memory.kept:
            self.line("give(kept)")
        self.line(f"return ({', '.join(outputs)}{',' if outputs else ''})")

    def copied(self, name: str, wanted: str) -> str:
        """A variable called about `wanted` that holds a copy of `name`."""
        value = self.use(name)
        copy = self.define(replace(self.slots[name], name=f"{wanted} copied"))
        self.line(f"{copy} = copied({value})")
        return copy

    def write_back(self, inputs: set[str]) -> None:
        """Values that share memory with an input are copied first: it may be overwritten before
        their turn."""
        sources = []
        for number, (name, value) in enumerate(self.program.writes):
            shared = self.memory.groups[value] in inputs
            source = self.copied(value, f"new{number}") if shared else self.use(value)
            sources.append((self.use(name), source))
        for name, source in sources:
            self.line(f"copy_({name}, {source})")
        if self.program.direct:
            self.line(f"touched(({', '.join(map(self.use, self.program.direct))},))")

    def check_apart(self) -> None:
        """What kernels write must not lie in memory that anything else is read from."""
        if not self.program.direct:
            return
        inputs, groups = self.program.inputs, self.memory.groups
        used = {groups[name] for step in self.program.steps for name in reads(step)}
        used |= {groups[name] for name, _ in self.program.writes}
        direct = [slot for slot in inputs if slot.name in self.program.direct]
        others = [slot for slot in inputs if groups[slot.name] in used and slot not in direct]
        self.line(f"apart({self.ranges(direct)}, {self.ranges(others)})")

    def ranges(self, slots: Sequence[Slot]) -> str:
        """Variables, and the bytes of each."""
        some = [slot for slot in slots if slot.span]
        names = "".join(f"{self.use(slot.name)}, " for slot in some)
        return f"({names.rstrip(' ')}), ({''.join(f'{s.bytes},' for s in some)})"

    def draws_before_leaving(self) -> bool:
        """Whether random numbers are drawn before a step that may leave the plan or raise: then the
        generator's state must be kept."""
        drawn = False
        for step in self.program.steps:
            may_leave = isinstance(step, (Expect, CheckIndex, RunExtern))
            if drawn and may_leave and getattr(step, "op", "") != KEYS:
                return True
            drawn = drawn or (isinstance(step, RunExtern) and draws(step.op))
        return False


def _generators(step: Any) -> list[Rng]:
    """The generators that a step is given."""
    parts = (*step.args, *step.kwargs.values()) if isinstance(step, RunExtern) else ()
    return [part for part in parts if isinstance(part, Rng)]


def place(origin: Origin) -> str:
    """`model.py:12 in layers.0.norm`, an absolute file without its folders."""
    if not origin.file:
        return ""
    file = os.path.basename(origin.file) if os.path.isabs(origin.file) else origin.file
    inside = origin.module or origin.function
    return f"{file}:{origin.line}" + (f" in {inside}" if inside else "")


def _gives_one_tensor(op: str) -> bool:
    """Whether the op's schema returns exactly one Tensor (not a list, not a tuple)."""
    schema = private.schema_of(resolve(op))
    return (
        schema is not None and len(schema.returns) == 1 and str(schema.returns[0].type) == "Tensor"
    )
