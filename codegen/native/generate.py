"""From a loop nest to the source of a native kernel: `generate(nest, name, target=…)`.

The same nest gives the same text, byte for byte.
"""

from __future__ import annotations

import re

from tracejit.codegen.native.attention import generate_attention
from tracejit.codegen.native.builder import Builder, Module
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.product import generate_product
from tracejit.codegen.native.rows import Rows
from tracejit.codegen.native.source import Work, source
from tracejit.codegen.native.split import add_split
from tracejit.codegen.native.strategy import GRAIN_NS, Strategy, choose
from tracejit.codegen.native.turned import Turned
from tracejit.codegen.native.types import Value
from tracejit.fuse.attention import Attention
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.product import as_product
from tracejit.fuse.reductions import without_columns
from tracejit.runtime.cpu import level_of
from tracejit.runtime.kernel import KernelSource


def generate(
    nest: LoopNest | Attention, name: str, *, target: str, strategy: Strategy | None = None
) -> KernelSource:
    """The kernel called `name` for `nest` on `target` ("native:avx512").

    `strategy` overrides the choice. Raises NoRule for a word or dtype without a rule,
    ValueError for an unknown target.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"a kernel cannot be called {name!r}")
    if isinstance(nest, Attention):
        return generate_attention(nest, name, target)
    product = as_product(nest) if strategy is None else None
    if product is not None:
        return generate_product(nest, product, name, target)
    return _loops(without_columns(nest), name, target, strategy)


def _loops(nest: LoopNest, name: str, target: str, strategy: Strategy | None) -> KernelSource:
    """Loops over rows and columns, as they stand in the nest."""
    level = level_of(target)
    strategy = strategy or choose(nest, level)
    module = Module(level=level)
    pointers = [f"{b.name}_" for b in nest.buffers]
    if strategy.chunk:
        scratch, phases = add_split(module, nest, strategy, name)
    else:
        scratch, phases = 0, [_whole(module, nest, strategy, name, pointers)]
    work_ns = sum(p.tasks for p in phases) * strategy.row_ns
    return source(nest, name, target, module, Work(phases, work_ns, str(strategy), scratch))


def _whole(
    module: Module, nest: LoopNest, strategy: Strategy, name: str, pointers: list[str]
) -> Phase:
    """One phase, a task for each row (or block of elements)."""
    body = f"{name}.rows"
    rows = Turned(nest, strategy) if strategy.turn else Rows(nest, strategy)

    def write(b: Builder, values: list[Value], begin: Value, end: Value) -> None:
        named = {buffer.name: v for buffer, v in zip(nest.buffers, values, strict=True)}
        with b.loop(begin, end, name="row") as task:
            rows.write(b, named, task)

    add_body(module, body, pointers, write)
    grain = max(int(GRAIN_NS / max(strategy.row_ns, 0.1)), 1)
    return Phase(body, rows.tasks, grain)
