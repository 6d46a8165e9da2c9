"""The memory plan: when each variable of a program is used last, which dead buffer a new one takes
over, and which buffers are kept from call to call.

A buffer is taken over only if this plan allocated it and nothing can still see it: no output, no
write, no view that is used later, no result of a library call that may alias it. An output never
takes over another's memory. Small buffers that no library call sees are kept: to ask for one
costs more than a small kernel takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tracejit.fuse.program import Alias, Program, RunExtern, RunKernel, Slot, makes, reads
from tracejit.runtime import private
from tracejit.runtime.externs import resolve

KEPT = 64 << 10  # bytes of a plan's buffers that are kept from call to call, at most
MOST_WASTE = 2  # a dead buffer is taken over by one of at least this fraction of its size


@dataclass
class MemoryPlan:
    """`donor`: for a new variable the dead one whose memory it takes. `deletes`: names that end
    after each step. `kept`: variables whose memory stays from call to call."""

    donor: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Slot] = field(default_factory=dict)
    deletes: list[list[str]] = field(default_factory=list)
    # For each variable a representative of all that may share its memory.
    groups: dict[str, str] = field(default_factory=dict)
    peak: int = 0  # bytes of the plan's own buffers alive at once, at most
    allocated: int = 0  # bytes asked of the allocator in one run


def may_alias(op: str) -> bool:
    """Whether results of the op may share memory with its arguments: as its schema says, or if it
    is composite."""
    function = resolve(op)
    schema = private.schema_of(function)
    if schema is None or any(result.alias_info is not None for result in schema.returns):
        return True
    return private.is_composite(function)


class _Groups:
    """Union-find over variable names."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        while self.parent.setdefault(name, name) != name:
            name = self.parent[name]
        return name

    def join(self, left: str, right: str) -> None:
        self.parent[self.find(left)] = self.find(right)


def sharing(program: Program) -> dict[str, str]:
    """For each variable a representative: two with different ones never share memory."""
    groups = _Groups()
    for slot in program.inputs:
        groups.find(slot.name)
    for first, *others in program.together:
        for name in others:
            groups.join(name, first)
    for step in program.steps:
        for slot in makes(step):
            groups.find(slot.name)
        if isinstance(step, Alias) or (isinstance(step, RunExtern) and may_alias(step.op)):
            for name in reads(step):
                for slot in makes(step):
                    groups.join(slot.name, name)
    return {name: groups.find(name) for name in list(groups.parent)}


def memory_plan(program: Program) -> MemoryPlan:
    """Plan the memory of a program. Raises ValueError if it uses a variable that no step
    defines."""
    plan = MemoryPlan(groups=sharing(program))
    end = len(program.steps)
    last = _last_uses(program, end)
    group_last: dict[str, int] = {}
    for name, step in last.items():
        if name not in plan.groups:
            raise ValueError(f"{name} is used before it is defined")
        group = plan.groups[name]
        group_last[group] = max(group_last.get(group, -1), step)
    _take_over(program, plan, group_last, end)
    _keep(program, plan, group_last, end)
    staying = set(plan.kept)
    for new, old in plan.donor.items():  # in order of the steps: a donor's donor comes first
        if old in staying:
            staying.add(new)
    taken = {*plan.donor.values(), *staying}
    inputs = {slot.name for slot in program.inputs}
    plan.deletes = [[] for _ in program.steps]
    for name, step in last.items():
        if step < end and name not in taken and name not in inputs:
            plan.deletes[step].append(name)
    _measure(program, plan, last)
    return plan


def _last_uses(program: Program, end: int) -> dict[str, int]:
    """The step that uses each variable last; `end` for what the program returns or writes."""
    last: dict[str, int] = {slot.name: -1 for slot in program.inputs}
    for number, step in enumerate(program.steps):
        for name in (*(slot.name for slot in makes(step)), *reads(step)):
            last[name] = number
    for name in results(program):
        last[name] = end
    return last


def results(program: Program) -> Iterable[str]:
    """Variables needed at the end."""
    return (
        *program.outputs,
        *(value for _, value in program.writes),
        *(name for name, _ in program.writes),
    )


def _take_over(program: Program, plan: MemoryPlan, group_last: dict[str, int], end: int) -> None:
    """Choose, for each buffer in order, the smallest dead one of its dtype and device that holds
    it."""
    dead: list[Slot] = []
    alive: list[Slot] = []
    for number, step in enumerate(program.steps):
        if not isinstance(step, RunKernel):
            continue
        dead += [slot for slot in alive if group_last[plan.groups[slot.name]] < number]
        alive = [slot for slot in alive if group_last[plan.groups[slot.name]] >= number]
        for slot in step.outs:
            if group_last[plan.groups[slot.name]] == end:
                continue  # it escapes: it has its own memory, and nobody takes it
            alive.append(slot)
            donor = _best(dead, slot)
            if donor is not None:
                dead.remove(donor)
                plan.donor[slot.name] = donor.name


def _best(dead: list[Slot], slot: Slot) -> Slot | None:
    need = slot.span
    fits = [
        d
        for d in dead
        if d.dtype == slot.dtype and d.device == slot.device and need <= d.span <= MOST_WASTE * need
    ]
    return min(
        fits,
        key=lambda d: (d.span, (d.sizes, d.strides) != (slot.sizes, slot.strides)),
        default=None,
    )


def _keep(program: Program, plan: MemoryPlan, group_last: dict[str, int], end: int) -> None:
    """Choose small buffers in the CPU's memory that no library call ever sees."""
    calls = [step for step in program.steps if isinstance(step, RunExtern)]
    seen = {plan.groups[n] for c in calls for n in (*reads(c), *(slot.name for slot in c.outs))}
    left = KEPT
    for step in program.steps:
        for slot in step.outs if isinstance(step, RunKernel) else ():
            group, size = plan.groups[slot.name], slot.bytes
            if slot.name in plan.donor or slot.device != "cpu" or group in seen:
                continue
            if group_last[group] < end and size <= left:
                plan.kept[slot.name] = slot
                left -= size


def _measure(program: Program, plan: MemoryPlan, last: dict[str, int]) -> None:
    """Fill in `peak` and `allocated`, by running through the program with sizes only."""
    held: dict[str, int] = {}
    now = 0
    for number, step in enumerate(program.steps):
        if isinstance(step, (RunKernel, RunExtern)):
            for slot in step.outs:
                donor = plan.donor.get(slot.name)
                size = held.pop(donor) if donor else slot.bytes
                now += 0 if donor else size
                plan.allocated += 0 if donor or slot.name in plan.kept else size
                held[slot.name] = size
        plan.peak = max(plan.peak, now)
        for name in plan.deletes[number]:
            now -= held.pop(name, 0)
