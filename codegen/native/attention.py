"""Attention as one native kernel whose scores are never stored: `generate_attention`.

Which kind of kernel depends on how often a key is used: many query rows are panels
(attention_panels.py, of bf16 attention_bf16.py), a few are rows (attention_row.py).
"""

from __future__ import annotations

from tracejit.codegen.native import attention_bf16, attention_row
from tracejit.codegen.native.attention_panels import Panels
from tracejit.codegen.native.builder import Module
from tracejit.codegen.native.source import source
from tracejit.fuse.attention import Attention
from tracejit.runtime import cpu
from tracejit.runtime.kernel import KernelSource


def generate_attention(nest: Attention, name: str, target: str) -> KernelSource:
    """The source of a native kernel for `target`."""
    level = cpu.level_of(target)
    module = Module(level=level, unrolled=True)
    if attention_row.suits(nest, level):
        work = attention_row.Rows(module, nest, level).write()
    elif attention_bf16.suits(nest, level):
        work = attention_bf16.write(module, nest, level)
    else:
        work = Panels(module, nest, level).write()
    return source(nest, name, target, module, work)
