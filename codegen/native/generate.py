"""From a loop nest to the source of a native kernel: `generate(nest, name, target=…)`.

The same nest gives the same text, byte for byte.
"""

from __future__ import annotations

import re

from tracejit.codegen.native.builder import Builder, Module, Value
from tracejit.codegen.native.entry import Phase, add_body, add_entry
from tracejit.codegen.native.rows import Rows
from tracejit.codegen.native.split import add_split
from tracejit.codegen.native.strategy import GRAIN_NS, Strategy, choose
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.reductions import without_columns
from tracejit.runtime.cpu import level_of
from tracejit.runtime.kernel import KernelSource


def generate(
    nest: LoopNest, name: str, *, target: str, strategy: Strategy | None = None
) -> KernelSource:
    """The kernel called `name` for `nest` on `target` ("native:avx512").

    `strategy` overrides the choice. Raises words.NoRule for a word or dtype without a rule,
    ValueError for an unknown target.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"a kernel cannot be called {name!r}")
    level = level_of(target)
    nest = without_columns(nest)
    strategy = strategy or choose(nest, level)
    module = Module(heading(nest, name, target, strategy), level=level)
    pointers = [f"{b.name}_" for b in nest.buffers]
    if strategy.chunk:
        scratch, phases = add_split(module, nest, strategy, name)
    else:
        scratch, phases = 0, [_whole(module, nest, strategy, name, pointers)]
    work_ns = sum(p.tasks for p in phases) * strategy.row_ns
    add_entry(module, name, len(pointers) + bool(scratch), phases, work_ns)
    return source(nest, name, target, module, str(strategy), scratch)


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


def _whole(
    module: Module, nest: LoopNest, strategy: Strategy, name: str, pointers: list[str]
) -> Phase:
    """One phase, a task for each row (or block of elements)."""
    body = f"{name}.rows"
    rows = Rows(nest, strategy)

    def write(b: Builder, values: list[Value], begin: Value, end: Value) -> None:
        named = {buffer.name: v for buffer, v in zip(nest.buffers, values, strict=True)}
        with b.loop(begin, end, name="row") as task:
            rows.write(b, named, task)

    add_body(module, body, pointers, write)
    grain = max(int(GRAIN_NS / max(strategy.row_ns, 0.1)), 1)
    return Phase(body, rows.tasks, grain)


def heading(nest: LoopNest, name: str, target: str, strategy: Strategy | str) -> tuple[str, ...]:
    """The first lines of the text: the user's lines, the strategy, the nest."""
    lines = [f"{name} for {target}: {strategy}"]
    lines += [f"  {origin}" for origin in nest.origins if origin.file]
    return (*lines, "", *str(nest).splitlines())
