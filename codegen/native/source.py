"""A native kernel's source as data, and the first lines of its text."""

from __future__ import annotations

from tracejit.codegen.native.builder import Module
from tracejit.codegen.native.strategy import Strategy
from tracejit.fuse.loopnest import LoopNest
from tracejit.runtime.kernel import KernelSource


def source(
    nest: LoopNest, name: str, target: str, module: Module, strategy: str, scratch: int = 0
) -> KernelSource:
    """The kernel's source as data. `scratch`: bytes it needs while it runs."""
    reads, writes = nest.bytes_moved()
    return KernelSource(
        name=name,
        text=module.text(),
        target=target,
        params=tuple((b.name, b.dtype) for b in nest.buffers),
        outputs=tuple(b.name for b in nest.buffers if b.written),
        constants={"scratch": scratch} if scratch else {},
        grid=1 if nest.rows else 0,
        spans=tuple(b.span for b in nest.buffers),
        reads=reads,
        writes=writes,
        strategy=strategy,
    )


def heading(nest: LoopNest, name: str, target: str, strategy: Strategy | str) -> tuple[str, ...]:
    """The first lines of the text: the user's lines, the strategy, the nest."""
    lines = [f"{name} for {target}: {strategy}"]
    lines += [f"  {origin}" for origin in nest.origins if origin.file]
    return (*lines, "", *str(nest).splitlines())
