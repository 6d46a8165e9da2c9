"""Checks each kernel of a program by itself: fed with eager's values, its results beside eager's.

Because every launch gets eager's own inputs, a mistake shows in the kernel that makes it and in no
other. This is how a wrong result is traced to a kernel; see CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tracejit.codegen.triton.generate import generate
from tracejit.compiler import kernel_nests
from tracejit.fuse.execute import allocate
from tracejit.fuse.finish import finish
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.program import Alias, Program, RunKernel, Slot
from tracejit.ir import passes
from tracejit.ir.execute import run_node
from tracejit.ir.graph import Graph, Value
from tracejit.runtime import devices
from tracejit.trace.recorder import record

Env = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checked:
    """One launch: the kernel's name, the largest absolute difference, and what is wrong (or "")."""

    kernel: str
    difference: float
    wrong: str


def check_kernels(f: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Checked]:
    """Record `f(*args, **kwargs)` and run each launch of its program in Triton's interpreter.

    Differences beyond torch.testing's tolerances of the dtype are reported, not raised. Raises
    ValueError, with the reason, for a call that cannot be recorded.
    """
    _, recording = record(f, args, kwargs)
    if recording.graph is None:
        raise ValueError(f"the call was not recorded: {recording.refused}")
    graph = recording.graph
    for name, work in passes.default_passes():
        graph = passes.run(graph, [(name, work)])
    return check_program(finish(graph), eager_values(graph, recording.sources))


def eager_values(graph: Graph, inputs: list[torch.Tensor]) -> Env:
    """Every value of a graph by name, computed by torch one operation at a time."""
    env: dict[Value, torch.Tensor] = dict(zip(graph.inputs, inputs, strict=True))
    with torch.no_grad():
        for node in graph.nodes:
            env.update(zip(node.outputs, run_node(node, env), strict=True))
    return {value.name: tensor for value, tensor in env.items()}


def check_program(program: Program, eager: Env) -> list[Checked]:
    """Each launch of a program in the interpreter, with inputs and expected outputs from
    `eager`."""
    launchables = {
        name: devices.load(generate(nest, name, target="interpret"), None)
        for name, nest in kernel_nests(program).items()
        if isinstance(nest, LoopNest)
    }
    slots = {slot.name: slot for slot in _slots(program)}
    found = []
    for step in program.steps:
        if isinstance(step, RunKernel):
            made = {out.name: allocate(out) for out in step.outs}
            given = {n: _laid_out(eager[n], slots[n]) for n in step.args.values() if n not in made}
            tensors = {**given, **made}
            launchables[step.nest.name](*(tensors[step.args[b.name]] for b in step.nest.buffers))
            found += [_compared(step.nest.name, made[o.name], eager[o.name]) for o in step.outs]
    return found


def _slots(program: Program) -> list[Slot]:
    """Every tensor variable of a program."""
    made = [s.out if isinstance(s, Alias) else getattr(s, "outs", ()) for s in program.steps]
    return [*program.inputs, *(s for m in made for s in (m if isinstance(m, tuple) else (m,)))]


def _laid_out(tensor: torch.Tensor, slot: Slot) -> torch.Tensor:
    """The tensor with the strides that the program gives it."""
    if tensor.stride() == slot.strides:
        return tensor
    return allocate(slot).copy_(tensor)


def _compared(kernel: str, ours: torch.Tensor, eager: torch.Tensor) -> Checked:
    """Ours beside eager's, with torch.testing's tolerances for the dtype."""
    if ours.dtype.is_floating_point and ours.numel():
        difference = float((ours.double() - eager.double()).abs().nan_to_num().max())
    else:
        difference = float((ours != eager).any()) if ours.numel() else 0.0
    try:
        torch.testing.assert_close(ours, eager, equal_nan=True)
    except AssertionError as wrong:
        return Checked(kernel, difference, str(wrong))
    return Checked(kernel, difference, "")
