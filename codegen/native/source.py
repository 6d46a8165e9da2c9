"""A native kernel's source as data, and the first lines of its text."""

from __future__ import annotations

from tracejit.codegen.native.builder import Module
from tracejit.codegen.native.strategy import Strategy
from tracejit.fuse.loopnest import LoopNest, kernel_source
from tracejit.runtime.kernel import KernelSource


def source(
    nest: LoopNest, name: str, target: str, module: Module, strategy: str, scratch: int = 0
) -> KernelSource:
    """The kernel's source as data. `scratch`: bytes it needs while it runs."""
    constants = {"scratch": scratch} if scratch else {}
    return kernel_source(nest, name, module.text(), target, strategy, constants=constants)


def heading(nest: LoopNest, name: str, target: str, strategy: Strategy | str) -> tuple[str, ...]:
    """The first lines of the text: the user's lines, the strategy, the nest."""
    lines = [f"{name} for {target}: {strategy}"]
    lines += [f"  {origin}" for origin in nest.origins if origin.file]
    return (*lines, "", *str(nest).splitlines())
