"""A native kernel as data, from the functions that do its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracejit.codegen.native.builder import Module
from tracejit.codegen.native.entry import Phase, add_entry
from tracejit.fuse.attention import Attention
from tracejit.fuse.loopnest import LoopNest, kernel_source
from tracejit.runtime.kernel import KernelSource


@dataclass(frozen=True)
class Work:
    """How a kernel's work is done: its phases in order, what the whole costs on one thread (an
    estimate), the strategy in words, bytes of memory that it needs while it runs."""

    phases: Sequence[Phase]
    ns: float
    strategy: str
    scratch: int = 0


def source(
    nest: LoopNest | Attention, name: str, target: str, module: Module, work: Work
) -> KernelSource:
    """The kernel called `name`, whose phases' functions are in the module."""
    lines = [f"  {origin}" for origin in nest.origins if origin.file]
    first = f"{name} for {target}: {work.strategy}"
    module.comment = (first, *lines, "", *str(nest).splitlines())
    add_entry(module, name, len(nest.buffers), work.phases, work.ns, bool(work.scratch))
    constants = {"scratch": work.scratch} if work.scratch else {}
    return kernel_source(nest, name, module.text(), target, work.strategy, constants=constants)
