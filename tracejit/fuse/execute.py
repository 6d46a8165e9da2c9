"""Runs a scheduled Program in plain torch, nest by nest: for bisecting between fusion and a
generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tracejit.fuse import attention
from tracejit.fuse.attention import Attention
from tracejit.fuse.program import (
    Alias,
    CheckIndex,
    Expect,
    Program,
    Ref,
    RunExtern,
    RunKernel,
    Slot,
)
from tracejit.fuse.reference import run as run_nest
from tracejit.ir.dtypes import TORCH
from tracejit.ir.execute import Left, call, random, values_of
from tracejit.ir.graph import map_values

Launch = Callable[[RunKernel, dict[str, torch.Tensor]], None]


def launch_nest(step: RunKernel, buffers: dict[str, torch.Tensor]) -> None:
    """Run a launch in plain torch, on tensors by the names of its buffers."""
    if isinstance(step.nest, Attention):
        attention.run(step.nest, buffers)
    else:
        run_nest(step.nest, buffers)


def run_program(
    program: Program, inputs: Sequence[torch.Tensor], launch: Launch = launch_nest
) -> list[torch.Tensor]:
    """The outputs of `program` on `inputs` (shapes, strides and dtypes of program.inputs); writes
    are performed.

    Raises Left where a plan would leave.
    """
    env: dict[Any, Any] = {s.name: t for s, t in zip(program.inputs, inputs, strict=True)}
    for step in program.steps:
        if isinstance(step, RunKernel):
            env.update({s.name: allocate(s) for s in step.outs})
            launch(step, {buffer: env[name] for buffer, name in step.args.items()})
        elif isinstance(step, RunExtern):
            env.update(_extern(step, env))
        elif isinstance(step, Alias):
            base = env[step.base]
            offset = base.storage_offset() + step.offset
            env[step.out.name] = base.as_strided(step.out.sizes, step.out.strides, offset)
        elif isinstance(step, Expect):
            if env[step.name].item() != step.number:
                raise Left(f"{step.name} is not {step.number}")
        else:
            assert isinstance(step, CheckIndex)
            index = env[step.name]
            low = -step.size if step.wrap else 0
            if bool(((index < low) | (index >= step.size)).any()):
                raise Left(f"an index in {step.name} is out of range for size {step.size}")
    for target, name in program.writes:
        env[target].copy_(env[name])
    return [env[name] for name in program.outputs]


def allocate(slot: Slot) -> torch.Tensor:
    """A fresh tensor of the slot's geometry."""
    return torch.empty_strided(slot.sizes, slot.strides, dtype=TORCH[slot.dtype])


def _extern(step: RunExtern, env: dict[Any, Any]) -> dict[str, torch.Tensor]:
    def filled(tree: Any) -> Any:
        return random(map_values(tree, lambda ref: env[ref.name], Ref), env)

    args = [filled(a) for a in step.args]
    kwargs = {k: filled(v) for k, v in step.kwargs.items()}
    tensors = [t for t in values_of(call(step.op, args, kwargs)) if t is not None]
    return {s.name: t for s, t in zip(step.outs, tensors, strict=True)}
