"""Attention as one native kernel whose scores are never stored: `generate_attention`.

Which kind of kernel depends on how often a key is used: many query rows are panels
(attention_panels.py, of bf16 attention_bf16.py), a few are rows (attention_row.py).
"""

from __future__ import annotations

import math

from tracejit.codegen.native import attention_pairs, attention_row
from tracejit.codegen.native.attention_bf16 import Halves
from tracejit.codegen.native.attention_panels import Panels
from tracejit.codegen.native.attention_row import Rows
from tracejit.codegen.native.builder import Module
from tracejit.codegen.native.entry import add_entry
from tracejit.fuse.attention import Attention
from tracejit.runtime import cpu
from tracejit.runtime.kernel import KernelSource

LOG2_E = 1 / math.log(2)
SPEED = {64: 100.0, 32: 50.0, 16: 25.0}  # bytes of a register: operations in a ns, a low guess
BYTES_A_NS = 15.0  # that one core reads


def generate_attention(nest: Attention, name: str, target: str) -> KernelSource:
    """The source of a native kernel for `target`."""
    level = cpu.level_of(target)
    module = Module((*str(nest).splitlines(), *map(str, nest.origins)), level=level, unrolled=True)
    added = nest.mask is not None and nest.mask.dtype != "bool"
    factor = LOG2_E * (1.0 if added else abs(nest.scale))
    work_ns = nest.operations / SPEED[level.bytes]
    kind: type[Rows | Panels] = Panels
    if attention_row.suits(nest, level):
        kind, work_ns = Rows, sum(nest.bytes_moved()) / BYTES_A_NS
    elif attention_pairs.suits(nest, level):
        kind = Halves
    phases, constants, strategy = kind(module, nest, level, factor, added).write(work_ns)
    add_entry(module, name, len(nest.operands), phases, work_ns, bool(constants))
    read, written = nest.bytes_moved()
    return KernelSource(
        name,
        module.text(),
        target,
        tuple((n, o.dtype) for n, o in nest.operands.items()),
        ("out",),
        constants,
        1,
        spans=tuple(o.span for o in nest.operands.values()),
        reads=read,
        writes=written,
        strategy=strategy,
    )
