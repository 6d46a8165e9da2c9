"""What is common to the devices."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from typing import Any

import torch

from tracejit.runtime.kernel import KernelSource

# A loaded kernel: takes one tensor for each parameter, in order; outputs are written in place.
Launchable = Callable[..., None]


def execute(source: KernelSource) -> dict[str, Any]:
    """The namespace that a kernel's text leaves behind; tracebacks through it show its lines."""
    file = f"<tracejit kernel {source.name}>"
    linecache.cache[file] = (len(source.text), None, source.text.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": f"tracejit_kernel_{source.name}"}
    exec(compile(source.text, file, "exec"), namespace)
    return namespace


def check_spans(source: KernelSource, tensors: tuple[torch.Tensor, ...]) -> None:
    """Raise ValueError unless each parameter has a CPU tensor whose memory holds all that the
    kernel may reach."""
    if len(tensors) != len(source.params):
        raise ValueError(f"{source.name} takes {len(source.params)} tensors, not {len(tensors)}")
    for (name, _), span, tensor in zip(source.params, source.spans, tensors, strict=True):
        if not tensor.is_cpu:
            raise ValueError(f"{source.name} runs on the CPU, and {name} is on {tensor.device}")
        held = tensor.untyped_storage().nbytes() // tensor.itemsize - tensor.storage_offset()
        if span > held and source.grid:
            raise ValueError(
                f"{source.name} reaches {span} elements through {name}, which has {held}"
            )
